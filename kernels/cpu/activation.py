"""The rectified linear unit: y = max(x, 0), element by element, for arrays of any shape.

Its gradient at 0 is 0. A NaN passes forward, and y may be x, dx may be dy.

Each direction has two loops, because LLVM guards a vector loop by a test that its arrays lie apart:
in place, the loop for separate arrays would run element by element.
"""

import numpy as np
from numba import prange

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.threads import call_parallel

BLOCK = 1 << 14  # elements a thread takes at once
SMALL = 1 << 16  # elements: for fewer no second thread wakes (9 us)


@jit(inner=True)
def relu_block(x, y, first, last):
    """Fill y[first:last] with max(x, 0)."""
    zero = y.dtype.type(0)
    if x.ctypes.data == y.ctypes.data:
        for i in range(first, last):
            v = y[np.uintp(i)]
            y[np.uintp(i)] = zero if v <= zero else v
    else:
        for i in range(first, last):
            v = x[np.uintp(i)]
            y[np.uintp(i)] = zero if v <= zero else v


@jit(inner=True)
def relu_backward_block(y, dy, dx, first, last):
    """Fill dx[first:last] with dy where y > 0, else with 0."""
    zero = dx.dtype.type(0)
    if dy.ctypes.data == dx.ctypes.data:
        for i in range(first, last):
            dx[np.uintp(i)] = dx[np.uintp(i)] if y[np.uintp(i)] > zero else zero
    else:
        for i in range(first, last):
            dx[np.uintp(i)] = dy[np.uintp(i)] if y[np.uintp(i)] > zero else zero


@jit(parallel=True)
def relu_blocks(x, y):
    """Do `relu_forward` on flat arrays."""
    size = y.shape[0]
    for block in prange((size + BLOCK - 1) // BLOCK):
        relu_block(x, y, block * BLOCK, min(size, block * BLOCK + BLOCK))


@jit(parallel=True)
def relu_backward_blocks(y, dy, dx):
    """Do `relu_backward_input` on flat arrays."""
    size = dx.shape[0]
    for block in prange((size + BLOCK - 1) // BLOCK):
        relu_backward_block(y, dy, dx, block * BLOCK, min(size, block * BLOCK + BLOCK))


def relu_forward(x, y):
    """Fill y with max(x, 0)."""
    call_parallel(y.size > SMALL, relu_blocks, x.reshape(-1), y.reshape(-1))


def relu_backward_input(y, dy, dx):
    """Fill dx with dy where y > 0, else with 0."""
    flat = y.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    call_parallel(dx.size > SMALL, relu_backward_blocks, *flat)
