"""Softmax over channels and its logarithm; `reference/softmax.py` defines both.

    x, y, dy, dx (..., C)

A thread takes a block of pixels that stays in L1, and passes over it: each pixel's maximum, written beside its
channels; the exponentials, in one loop over the block, however few the channels; the sums; the quotients.
"""

import math

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from fastcnn.kernels.cpu.compiler import OPTIONS, jit
from fastcnn.kernels.cpu.elementary import exp, like
from fastcnn.kernels.cpu.elementwise import SMALL, past_caches, store_run
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel

BLOCK = 1 << 11  # elements of a block, about: with its buffers, half of L1
ALIGNED = 16  # pixels of a block are a multiple of this, so that blocks are whole cache lines

# The order of a sum may be that of vector lanes: it is fixed when this is compiled.
reassociating = numba.njit(
    **OPTIONS | {"fastmath": {"contract", "reassoc"}}, no_cpython_wrapper=True, no_cfunc_wrapper=True
)


@intrinsic
def rank(typingctx, x):
    """Return a whole number that grows with x, above all others for a NaN whose sign is not set."""

    def codegen(context, builder, signature, args):
        kind = ir.IntType(x.bitwidth)
        bits = builder.bitcast(args[0], kind)
        flipped = builder.lshr(builder.ashr(bits, kind(x.bitwidth - 1)), kind(1))
        return builder.xor(bits, flipped)

    return numba.types.Integer.from_bitwidth(x.bitwidth, True)(x), codegen


@intrinsic
def ranked(typingctx, x, number):
    """Return the number of x's type that has a rank."""

    def codegen(context, builder, signature, args):
        kind = ir.IntType(x.bitwidth)
        flipped = builder.lshr(builder.ashr(args[1], kind(x.bitwidth - 1)), kind(1))
        return builder.bitcast(builder.xor(args[1], flipped), args[0].type)

    return x(x, number), codegen


@jit(inner=True)
def row_max(x, at, C):
    """Return the largest of C elements, compared as whole numbers: lanes of floats LLVM does not compare in any order."""
    largest = rank(x[at])
    for c in range(1, C):
        largest = max(largest, rank(x[np.uintp(at + c)]))
    return ranked(x[at], largest)


@reassociating
def row_sum(x, at, C):
    """Return the sum of C elements."""
    total = like(x[at], 0)
    for c in range(C):
        total += x[np.uintp(at + c)]
    return total


@reassociating
def row_dot(x, y, at, C):
    """Return the sum of C products."""
    total = like(x[at], 0)
    for c in range(C):
        total += x[np.uintp(at + c)] * y[np.uintp(at + c)]
    return total


@jit(inner=True)
def fill_row(row, at, C, value):
    """Set C elements."""
    for c in range(C):
        row[np.uintp(at + c)] = value


@jit(inner=True)
def softmax_block(block, thread, x, y, C, pixels, log, past):
    """Fill one block of `pixels` pixels of y."""
    first = block * pixels * C
    size = min(x.size - first, pixels * C)
    here = x[first : first + size]
    spread, made = np.empty(size, x.dtype), np.empty(size, x.dtype)
    for at in range(0, size, C):
        fill_row(spread, at, C, row_max(here, at, C))
    for i in range(size):
        made[np.uintp(i)] = exp(here[np.uintp(i)] - spread[np.uintp(i)])
    if log:
        for i in range(size):
            spread[np.uintp(i)] = here[np.uintp(i)] - spread[np.uintp(i)]
        for at in range(0, size, C):
            logarithm = x.dtype.type(math.log(row_sum(made, at, C)))
            for c in range(C):
                made[np.uintp(at + c)] = spread[np.uintp(at + c)] - logarithm
    else:
        for at in range(0, size, C):
            fill_row(spread, at, C, x.dtype.type(1) / row_sum(made, at, C))
        for i in range(size):
            made[np.uintp(i)] *= spread[np.uintp(i)]
    store_run(y[first:].ctypes.data, made.ctypes.data, size * made.itemsize, past)


@jit(inner=True)
def softmax_backward_block(block, thread, y, dy, dx, C, pixels, log, past):
    """Fill one block of `pixels` pixels of dx."""
    first = block * pixels * C
    size = min(y.size - first, pixels * C)
    here, back = y[first : first + size], dy[first : first + size]
    made = np.empty(size, y.dtype)
    for at in range(0, size, C):
        fill_row(made, at, C, row_sum(back, at, C) if log else row_dot(back, here, at, C))
    if log:
        for i in range(size):
            made[np.uintp(i)] = back[np.uintp(i)] - exp(here[np.uintp(i)]) * made[np.uintp(i)]
    else:
        for i in range(size):
            made[np.uintp(i)] = here[np.uintp(i)] * (back[np.uintp(i)] - made[np.uintp(i)])
    store_run(dx[first:].ctypes.data, made.ctypes.data, size * made.itemsize, past)


@jit
def softmax_blocks(team, x, y, C, log, past):
    """Do both forward passes on flat arrays."""
    pixels = block_pixels(C)
    share(team, (x.size + pixels * C - 1) // (pixels * C), softmax_block, (x, y, C, pixels, log, past))


@jit
def softmax_backward_blocks(team, y, dy, dx, C, log, past):
    """Do both backward passes on flat arrays."""
    pixels = block_pixels(C)
    share(team, (y.size + pixels * C - 1) // (pixels * C), softmax_backward_block, (y, dy, dx, C, pixels, log, past))


@jit(inner=True)
def block_pixels(C):
    """Return how many pixels a block holds."""
    if C % ALIGNED == 0:
        return max(1, BLOCK // C)
    return (BLOCK // C + ALIGNED) // ALIGNED * ALIGNED


def forward(x, y, log):
    """Share the blocks of a forward pass."""
    past = past_caches(x, y)
    call_parallel(y.size > SMALL, softmax_blocks, x.reshape(-1), y.reshape(-1), y.shape[-1], log, past)


def backward(y, dy, dx, log):
    """Share the blocks of a backward pass."""
    flat = y.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    call_parallel(dx.size > SMALL, softmax_backward_blocks, *flat, dx.shape[-1], log, past_caches(y, dy, dx))


def softmax_forward(x, y):
    """Fill y with exp(x) over the sum of exp(x) of its pixel."""
    forward(x, y, False)


def softmax_backward_input(y, dy, dx):
    """Fill dx with y * (dy - the sum of dy * y of its pixel)."""
    backward(y, dy, dx, False)


def log_softmax_forward(x, y):
    """Fill y with x less the logarithm of the sum of exp(x) of its pixel."""
    forward(x, y, True)


def log_softmax_backward_input(y, dy, dx):
    """Fill dx with dy - exp(y) * the sum of dy of its pixel."""
    backward(y, dy, dx, True)
