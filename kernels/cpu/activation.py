"""The rectified linear unit: y = max(x, 0), element by element, for arrays of any shape.

Its gradient at 0 is 0. A NaN passes forward, and y may be x, dx may be dy.

Each direction has two loops, because LLVM guards a vector loop by a test that its arrays lie apart:
in place, the loop for separate arrays would run element by element.
"""

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel

BLOCK = 1 << 14  # elements a thread takes at once
SMALL = 1 << 16  # elements: for fewer no second thread wakes (9 us)


@jit(inner=True)
def relu_block(block, thread, x, y):
    """Fill a block of y with max(x, 0)."""
    zero, first, last = y.dtype.type(0), block * BLOCK, min(y.size, block * BLOCK + BLOCK)
    if x.ctypes.data == y.ctypes.data:
        for i in range(first, last):
            v = y[np.uintp(i)]
            y[np.uintp(i)] = zero if v <= zero else v
    else:
        for i in range(first, last):
            v = x[np.uintp(i)]
            y[np.uintp(i)] = zero if v <= zero else v


@jit(inner=True)
def relu_backward_block(block, thread, y, dy, dx):
    """Fill a block of dx with dy where y > 0, else with 0."""
    zero, first, last = dx.dtype.type(0), block * BLOCK, min(dx.size, block * BLOCK + BLOCK)
    if dy.ctypes.data == dx.ctypes.data:
        for i in range(first, last):
            dx[np.uintp(i)] = dx[np.uintp(i)] if y[np.uintp(i)] > zero else zero
    else:
        for i in range(first, last):
            dx[np.uintp(i)] = dy[np.uintp(i)] if y[np.uintp(i)] > zero else zero


@jit
def relu_blocks(team, x, y):
    """Do `relu_forward` on flat arrays."""
    share(team, (y.size + BLOCK - 1) // BLOCK, relu_block, (x, y))


@jit
def relu_backward_blocks(team, y, dy, dx):
    """Do `relu_backward_input` on flat arrays."""
    share(team, (dx.size + BLOCK - 1) // BLOCK, relu_backward_block, (y, dy, dx))


def relu_forward(x, y):
    """Fill y with max(x, 0)."""
    call_parallel(y.size > SMALL, relu_blocks, x.reshape(-1), y.reshape(-1))


def relu_backward_input(y, dy, dx):
    """Fill dx with dy where y > 0, else with 0."""
    flat = y.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    call_parallel(dx.size > SMALL, relu_backward_blocks, *flat)
