"""Convolutions touch no byte past their arrays and scratch memory: the pages behind them are shut."""

import subprocess
import sys

import pytest
from sweeps import selected

SCRIPT = """
import ctypes, mmap, sys
import numpy as np
from fastcnn.kernels.cpu import conv
from fastcnn.kernels.cpu.runtime import workspace
from fastcnn.kernels.problem import ConvProblem

system = ctypes.CDLL(None)
system.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
held = []

def shut_in(elements, dtype):
    # An array that ends where a page begins that nobody may touch.
    size = elements * np.dtype(dtype).itemsize
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    held.append(memory)
    array = np.frombuffer(memory, np.uint8)[pages - size : pages].view(dtype)
    assert system.mprotect(array.ctypes.data + size, mmap.PAGESIZE, 0) == 0
    array.fill(1)
    return array

def run(dtype, N, image, window, stride, pad, C, K, groups):
    output = [(size + 2 * pad - taps) // stride + 1 for size, taps in zip(image, window)]
    shapes = (N, 1, *image, C), (1, *window, C // groups, K), (N, 1, *output, K)
    x, w, y, b, dx, dw = (
        shut_in(int(np.prod(shape)), dtype).reshape(shape) for shape in (*shapes, (K,), *shapes[:2])
    )
    padding = ((0, 0), (pad, pad), (pad, pad))
    problem = ConvProblem(x.shape, y.shape, (1, *window), (1, stride, stride), padding, (1, 1, 1), groups)
    for algorithm in ("direct", "winograd") if winograd(dtype, window, stride) else ("direct",):
        workspace.release()
        conv.conv_forward(x, w, b, problem, True, y, algorithm)
        workspace.release()
        conv.conv_backward_input(y, w, problem, dx, algorithm)
        workspace.release()
        conv.conv_backward_weight(x, y, problem, dw, algorithm)

def winograd(dtype, window, stride):
    return dtype == "float32" and window in ((3, 3), (5, 5)) and stride == 1

workspace.aligned_empty = shut_in
GROUPED = (1, 6, 1), (3, 2, 1), (33, 17, 1), (64, 64, 1), (2, 14, 2), (6, 42, 6), (35, 35, 35), (40, 60, 20)
WINDOWS = ((3, 3), 1, 1), ((5, 5), 1, 2), ((1, 1), 1, 0), ((2, 5), 3, 1)
for dtype in ("float32", "float64"):
    for i, (C, K, groups) in enumerate(GROUPED):
        for j, (window, stride, pad) in enumerate(WINDOWS):
            if sys.argv[1] == ("diagonal" if i % len(WINDOWS) == j else "rest"):
                run(dtype, 2, (7, 9), window, stride, pad, C, K, groups)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are shut by Linux's mprotect")
@pytest.mark.parametrize("combinations", selected(["diagonal", "rest"], "diagonal"))
def test_no_pass_leaves_its_arrays(combinations):
    done = subprocess.run([sys.executable, "-c", SCRIPT, combinations], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]
