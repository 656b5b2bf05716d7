"""Permutation of axes: y[i_a, i_b, ...] = x[i_0, i_1, ...], where axis k of y is axis axes[k] of x.

Neighbours that stay neighbours count as one axis. If the last axis stays the last, y is filled in runs of it; else two
axes matter: P, along which x is contiguous, and Q, along which y is. A square of both is transposed by way of a small
copy of it, so that memory is read and written in whole cache lines.
"""

from math import prod

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel

BLOCK = 1 << 12  # elements of a task that copies runs
SIDE = 32  # of a square: two cache lines of float32 (measured: 16 is slower by a quarter, 64 no faster)
SMALL = 1 << 16  # elements: for fewer no second thread wakes (9 us)


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
    while at < last:
        count, start = min(length - inside, last - at), place(run, sizes, strides) + inside
        for i in range(count):
            y[np.uintp(at + i)] = x[np.uintp(start + i)]
        at += count
        run, inside = run + 1, 0


@jit
def run_blocks(team, x, sizes, strides, length, y):
    """Do `permute` where the last axis stays."""
    share(team, (y.size + BLOCK - 1) // BLOCK, run_block, (x, sizes, strides, length, y))


@jit(inner=True)
def square(x, at, step_x, P, Q, y, to, step_y, held):
    """Transpose x (Q, P) from `at` with rows `step_x` apart to y (P, Q) from `to` with rows `step_y` apart."""
    if P == SIDE and Q == SIDE:
        for q in range(SIDE):
            for p in range(SIDE):
                held[np.uintp(q * SIDE + p)] = x[np.uintp(at + q * step_x + p)]
        for p in range(SIDE):
            for q in range(SIDE):
                y[np.uintp(to + p * step_y + q)] = held[np.uintp(q * SIDE + p)]
    else:
        for p in range(P):
            for q in range(Q):
                y[np.uintp(to + p * step_y + q)] = x[np.uintp(at + q * step_x + p)]


@jit(inner=True)
def band(task, thread, x, y, outer, outer_x, outer_y, P, Q, step_x, step_y, bands):
    """Transpose SIDE rows of one (Q, P) plane of x."""
    plane, first = task // bands, task % bands * SIDE
    at, to = place(plane, outer, outer_x) + first * step_x, place(plane, outer, outer_y) + first
    rows, held = min(SIDE, Q - first), np.empty(SIDE * SIDE, y.dtype)
    for p in range(0, P, SIDE):
        square(x, at + p, step_x, min(SIDE, P - p), rows, y, to + p * step_y, step_y, held)


@jit
def planes(team, x, y, outer, outer_x, outer_y, P, Q, step_x, step_y):
    """Do `permute` where another axis of x comes last."""
    bands = (Q + SIDE - 1) // SIDE
    tasks = y.size // max(1, P * Q) * bands
    share(team, tasks, band, (x, y, outer, outer_x, outer_y, P, Q, step_x, step_y, bands))


def merged(shape, axes):
    """Return (size, stride in x, stride in y) of the axes of y, neighbours that stay so as one, and none of length 1.

    >>> merged((8, 28, 28, 3), (0, 3, 1, 2))
    [(8, 2352, 2352), (3, 1, 784), (784, 3, 1)]
    """
    found = []
    for axis in axes:
        size, stride = shape[axis], prod(shape[axis + 1 :])
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            size *= found.pop()[0]
        found.append((size, stride))
    sizes = [size for size, _ in found]
    return [(size, stride, prod(sizes[k + 1 :])) for k, (size, stride) in enumerate(found)]


def columns(rows, count):
    """Return the columns of rows of `count` numbers, as arrays of integers."""
    return [np.array([row[k] for row in rows], np.int64) for k in range(count)]


def permute(x, axes, y):
    """Fill y with x, its axes in this order."""
    if not y.size:
        return
    whole, flat, worth = merged(x.shape, axes) or [(1, 1, 1)], (x.reshape(-1), y.reshape(-1)), y.size > SMALL
    Q, step_x, _ = whole[-1]
    if step_x == 1:
        sizes, strides = columns(whole[:-1], 2)
        call_parallel(worth, run_blocks, flat[0], sizes, strides, Q, flat[1])
        return
    (P, step_y), *_ = [(size, of_y) for size, of_x, of_y in whole if of_x == 1]
    outer = columns([axis for axis in whole[:-1] if axis[1] != 1], 3)
    call_parallel(worth, planes, *flat, *outer, P, Q, step_x, step_y)
