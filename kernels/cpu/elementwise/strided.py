"""Runs of elements that stand at strides: permutations that keep the last axis, and subsampling."""

from math import prod

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_MOVES
from fastcnn.kernels.cpu.simd.copy import copy_run

BLOCK = 1 << 12  # elements of a task that copies runs


@jit(inner=True)
def place(number, sizes, strides):
    """Return the sum of index times stride of an element by its number, the last axis the fastest."""
    at = 0
    for axis in range(sizes.size - 1, -1, -1):
        at += number % sizes[axis] * strides[axis]
        number //= sizes[axis]
    return at


@jit(inner=True)
def run_block(block, thread, x, sizes, strides, length, y):
    """Fill a block of y, of runs of `length` elements, which stand in x at the strides."""
    at, last = block * BLOCK, min(y.size, block * BLOCK + BLOCK)
    run, inside = at // length, at % length
    start, row, step = place(run, sizes, strides), sizes[sizes.size - 1], strides[sizes.size - 1]
    left = row - run % row  # runs until the axis before the last has its next index
    while at < last:
        count = min(length - inside, last - at)
        copy_run(x, start + inside, y, at, count)
        at += count
        run, inside, start, left = run + 1, 0, start + step, left - 1
        if left == 0:
            start, left = place(run, sizes, strides), row


@jit
def run_blocks(team, x, sizes, strides, length, y):
    """Do `permute` where the last axis stays, or `subsample`."""
    share(team, (y.size + BLOCK - 1) // BLOCK, run_block, (x, sizes, strides, length, y))


def subsample(x, steps, y):
    """Fill y (N, O, P, Q, C) with every so many-th pixel of x (N, D, H, W, C), the first one first."""
    if y.size:
        strides = [prod(x.shape[1:]), *(step * prod(x.shape[axis:]) for axis, step in enumerate(steps, 2))]
        axes = np.array(y.shape[:4], np.int64), np.array(strides, np.int64)
        call_parallel(y.size > SERIAL_MOVES, run_blocks, x.reshape(-1), *axes, y.shape[4], y.reshape(-1))
