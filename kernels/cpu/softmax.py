"""Softmax over channels and its logarithm; `reference/softmax.py` defines both.

    x, y, dy, dx (..., C)

A pixel stays in L1 while a thread passes over it: its maximum, the exponentials and their sum, the quotients. Where
channels are few, the loops go over a block of pixels, with what holds for a pixel written beside its channels.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from fastcnn.kernels.cpu.elementwise.map import fetch_ahead
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.simd.math import exp, like, log_from_one

BLOCK = 1 << 11  # elements of a block, about: with its buffer, half of L1
WIDE = 128  # channels from which loops over one pixel cost less than those over a block (measured)


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
    """Return the largest of C elements, compared as whole numbers, which LLVM does in lanes."""
    largest = rank(x[at])
    for c in range(1, C):
        largest = max(largest, rank(x[np.uintp(at + c)]))
    return ranked(x[at], largest)


@jit(inner=True, reorder=True)
def row_sum(x, at, C):
    """Return the sum of C elements."""
    total = like(x[at], 0)
    for c in range(C):
        total += x[np.uintp(at + c)]
    return total


@jit(inner=True, reorder=True)
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


@jit(inner=True, reorder=True)
def exp_row(x, y, at, C, high):
    """Fill C elements of y with exp(x - high), and return their sum."""
    total = like(high, 0)
    for c in range(C):
        e = exp(x[np.uintp(at + c)] - high)
        y[np.uintp(at + c)] = e
        total += e
    return total


@jit(inner=True, reorder=True)
def exp_sum(x, at, C, high):
    """Return the sum of C times exp(x - high)."""
    total = like(high, 0)
    for c in range(C):
        total += exp(x[np.uintp(at + c)] - high)
    return total


@jit(inner=True)
def softmax_row(x, y, at, C, log):
    """Fill one pixel of y, its channels many enough to fill vectors."""
    high = row_max(x, at, C)
    if log:
        logarithm = like(high, log_from_one(np.float64(exp_sum(x, at, C, high))))
        for c in range(C):
            y[np.uintp(at + c)] = x[np.uintp(at + c)] - high - logarithm
    else:
        share = like(high, 1) / exp_row(x, y, at, C, high)
        for c in range(C):
            y[np.uintp(at + c)] *= share


@jit(inner=True)
def softmax_narrow(x, y, first, size, C, log):
    """Fill pixels of few channels, `size` elements in all: what holds for a pixel is written beside its channels."""
    spread = np.empty(size, x.dtype)
    for at in range(0, size, C):
        fill_row(spread, at, C, row_max(x, first + at, C))
    for i in range(size):
        spread[np.uintp(i)] = x[np.uintp(first + i)] - spread[np.uintp(i)]
        y[np.uintp(first + i)] = exp(spread[np.uintp(i)])
    if log:
        logarithms = np.empty(size // C)
        for pixel in range(size // C):
            logarithms[pixel] = row_sum(y, first + pixel * C, C)
        for pixel in range(size // C):
            logarithms[np.uintp(pixel)] = log_from_one(logarithms[np.uintp(pixel)])
        for at in range(0, size, C):
            logarithm = like(x[0], logarithms[at // C])
            for c in range(C):
                y[np.uintp(first + at + c)] = spread[np.uintp(at + c)] - logarithm
    else:
        for at in range(0, size, C):
            fill_row(spread, at, C, like(x[0], 1) / row_sum(y, first + at, C))
        for i in range(size):
            y[np.uintp(first + i)] *= spread[np.uintp(i)]


@jit(inner=True)
def softmax_block(block, thread, x, y, C, pixels, log):
    """Fill one block of `pixels` pixels of y."""
    first = block * pixels * C
    size = min(x.size - first, pixels * C)
    # Memory fetches the next block while this one is computed: a third less time than one after the other.
    here, behind = size * x.itemsize, (first + size) * x.itemsize
    fetch_ahead(x.ctypes.data + behind, y.ctypes.data + behind, here)
    if C < WIDE:
        softmax_narrow(x, y, first, size, C, log)
    else:
        for at in range(first, first + size, C):
            softmax_row(x, y, at, C, log)


@jit(inner=True)
def softmax_backward_row(y, dy, dx, at, C, log):
    """Fill one pixel of dx."""
    total = row_sum(dy, at, C) if log else row_dot(dy, y, at, C)
    if log:
        for c in range(C):
            dx[np.uintp(at + c)] = dy[np.uintp(at + c)] - exp(y[np.uintp(at + c)]) * total
    else:
        for c in range(C):
            dx[np.uintp(at + c)] = y[np.uintp(at + c)] * (dy[np.uintp(at + c)] - total)


@jit(inner=True)
def softmax_backward_narrow(y, dy, dx, first, size, C, log):
    """Fill pixels of few channels of dx, `size` elements in all."""
    total = np.empty(size, y.dtype)
    for at in range(0, size, C):
        fill_row(total, at, C, row_sum(dy, first + at, C) if log else row_dot(dy, y, first + at, C))
    for i in range(size):
        value, back = y[np.uintp(first + i)], dy[np.uintp(first + i)]
        if log:
            dx[np.uintp(first + i)] = back - exp(value) * total[np.uintp(i)]
        else:
            dx[np.uintp(first + i)] = value * (back - total[np.uintp(i)])


@jit(inner=True)
def softmax_backward_block(block, thread, y, dy, dx, C, pixels, log):
    """Fill one block of `pixels` pixels of dx."""
    first = block * pixels * C
    size = min(y.size - first, pixels * C)
    if C < WIDE:
        softmax_backward_narrow(y, dy, dx, first, size, C, log)
    else:
        for at in range(first, first + size, C):
            softmax_backward_row(y, dy, dx, at, C, log)


@jit
def softmax_blocks(team, x, y, C, log):
    """Do both forward passes on flat arrays."""
    pixels = max(1, BLOCK // C)
    share(team, (x.size + pixels * C - 1) // (pixels * C), softmax_block, (x, y, C, pixels, log))


@jit
def softmax_backward_blocks(team, y, dy, dx, C, log):
    """Do both backward passes on flat arrays."""
    pixels = max(1, BLOCK // C)
    share(team, (y.size + pixels * C - 1) // (pixels * C), softmax_backward_block, (y, dy, dx, C, pixels, log))


def forward(x: np.ndarray, y: np.ndarray, log: bool) -> None:
    """Share the blocks of a forward pass."""
    call_parallel(y.size > SERIAL_ELEMENTS, softmax_blocks, x.reshape(-1), y.reshape(-1), y.shape[-1], log)


def backward(y: np.ndarray, dy: np.ndarray, dx: np.ndarray, log: bool) -> None:
    """Share the blocks of a backward pass."""
    flat = y.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    call_parallel(dx.size > SERIAL_ELEMENTS, softmax_backward_blocks, *flat, dx.shape[-1], log)


def softmax_forward(x: np.ndarray, y: np.ndarray) -> None:
    """Fill y with exp(x) over the sum of exp(x) of its pixel."""
    forward(x, y, False)


def softmax_backward_input(y: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx with y * (dy - the sum of dy * y of its pixel)."""
    backward(y, dy, dx, False)


def log_softmax_forward(x: np.ndarray, y: np.ndarray) -> None:
    """Fill y with x less the logarithm of the sum of exp(x) of its pixel."""
    forward(x, y, True)


def log_softmax_backward_input(y: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx with dy - exp(y) * the sum of dy of its pixel."""
    backward(y, dy, dx, True)
