"""Permutation of axes: y[i_a, i_b, ...] = x[i_0, i_1, ...], where axis k of y is axis axes[k] of x.

Neighbours that stay neighbours count as one axis. If the last axis stays the last, y is filled in runs of it; else two
axes matter: P, along which x is contiguous, and Q, along which y is. Squares of as many elements as a vector has lanes
are transposed in registers, so that memory is read and written in whole vectors; the three colours of an image are
taken apart, or put together, pixel by pixel.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastcnn.kernels.cpu.elementwise.strided import BLOCK, place, run_blocks
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_MOVES
from fastcnn.kernels.cpu.simd.vector import vector_registers

BAND = 64  # elements along Q of a task: what it writes in a run
COLOURS = 3
VECTOR_BYTES = vector_registers()[0]


@intrinsic
def lanes_of(typingctx, x):
    """Return how many elements of the array x a vector holds."""
    count = VECTOR_BYTES * 8 // x.dtype.bitwidth
    return types.intp(x), lambda context, builder, sig, args: ir.IntType(64)(count)


@intrinsic
def transpose_square(typingctx, x, at, step_x, y, to, step_y):
    """Transpose a square of lanes by lanes elements: its rows begin at `at` in x, at `to` in y, and are steps apart.

    Each of log2(lanes) rounds interleaves the rows of the first half with those of the second.
    """

    def codegen(context, builder, sig, args):
        x, at, step_x, y, to, step_y = args
        kind = sig.args[0].dtype
        lanes = VECTOR_BYTES * 8 // kind.bitwidth
        vector = ir.VectorType(context.get_data_type(kind), lanes)

        def place(array, array_type, start, step, row):
            data = context.make_array(array_type)(context, builder, array).data
            offset = builder.add(start, builder.mul(step, ir.IntType(64)(row)))
            return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

        size = kind.bitwidth // 8
        rows = [builder.load(place(x, sig.args[0], at, step_x, row), align=size) for row in range(lanes)]
        masks = [
            ir.Constant(ir.VectorType(ir.IntType(32), lanes), [first + i // 2 + i % 2 * lanes for i in range(lanes)])
            for first in (0, lanes // 2)
        ]
        for _ in range(lanes.bit_length() - 1):
            halves = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
            rows = [builder.shuffle_vector(one, other, mask) for one, other in halves for mask in masks]
        for row, value in enumerate(rows):
            builder.store(value, place(y, sig.args[3], to, step_y, row), align=size)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, y, types.int64, types.int64), codegen


@jit(inner=True)
def transpose(x, at, step_x, P, Q, y, to, step_y):
    """Transpose x (Q, P) from `at` with rows `step_x` apart to y (P, Q) from `to` with rows `step_y` apart."""
    lanes = lanes_of(x)
    whole_p, whole_q = P // lanes * lanes, Q // lanes * lanes
    for p in range(0, whole_p, lanes):
        for q in range(0, whole_q, lanes):
            transpose_square(x, at + q * step_x + p, step_x, y, to + p * step_y + q, step_y)
    for q in range(whole_q, Q):
        for p in range(whole_p):
            y[np.uintp(to + p * step_y + q)] = x[np.uintp(at + q * step_x + p)]
    for p in range(whole_p, P):
        for q in range(Q):
            y[np.uintp(to + p * step_y + q)] = x[np.uintp(at + q * step_x + p)]


@jit(inner=True)
def split_colours(x, at, y, to, step_y, count):
    """Take pixels of three colours apart."""
    for q in range(count):
        for p in range(COLOURS):
            y[np.uintp(to + p * step_y + q)] = x[np.uintp(at + q * COLOURS + p)]


@jit(inner=True)
def join_colours(x, at, step_x, y, to, count):
    """Put pixels of three colours together."""
    for p in range(count):
        for q in range(COLOURS):
            y[np.uintp(to + p * COLOURS + q)] = x[np.uintp(at + q * step_x + p)]


@jit(inner=True)
def band(task, thread, x, y, outer, outer_x, outer_y, P, Q, step_x, step_y, how):
    """Transpose a band of one (Q, P) plane of x: some of Q, or of P where Q is three colours."""
    width, bands = how
    plane, first = task // bands, task % bands * width
    at, to = place(plane, outer, outer_x), place(plane, outer, outer_y)
    if step_x == P == COLOURS:
        split_colours(x, at + first * COLOURS, y, to + first, step_y, min(width, Q - first))
    elif step_y == Q == COLOURS:
        join_colours(x, at + first, step_x, y, to + first * COLOURS, min(width, P - first))
    else:
        transpose(x, at + first * step_x, step_x, P, min(width, Q - first), y, to + first, step_y)


@jit
def planes(team, x, y, outer, outer_x, outer_y, P, Q, step_x, step_y):
    """Do `permute` where another axis of x comes last."""
    joins, splits = step_y == Q == COLOURS and step_x != COLOURS, step_x == P == COLOURS
    length, width = P if joins else Q, BLOCK if joins or splits else BAND
    bands = (length + width - 1) // width
    tasks = y.size // max(1, P * Q) * bands
    share(team, tasks, band, (x, y, outer, outer_x, outer_y, P, Q, step_x, step_y, (width, bands)))


def merged(shape: Sequence[int], axes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (size, stride in x, stride in y) of the axes of y, neighbours that stay so as one, and none of length 1.

    >>> merged((8, 28, 28, 3), (0, 3, 1, 2))
    [(8, 2352, 2352), (3, 1, 784), (784, 3, 1)]
    """
    found: list[tuple[int, int]] = []
    for axis in axes:
        size, stride = shape[axis], prod(shape[axis + 1 :])
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            size *= found.pop()[0]
        found.append((size, stride))
    sizes = [size for size, _ in found]
    return [(size, stride, prod(sizes[k + 1 :])) for k, (size, stride) in enumerate(found)]


def columns(rows: Sequence[tuple[int, ...]], count: int) -> list[np.ndarray]:
    """Return the columns of rows of `count` numbers, as arrays of integers."""
    return [np.array([row[k] for row in rows], np.int64) for k in range(count)]


def permute(x: np.ndarray, axes: Sequence[int], y: np.ndarray) -> None:
    """Fill y with x, its axes in this order."""
    if not y.size:
        return
    whole, flat, worth = merged(x.shape, axes) or [(1, 1, 1)], (x.reshape(-1), y.reshape(-1)), y.size > SERIAL_MOVES
    Q, step_x, _ = whole[-1]
    if step_x == 1:
        sizes, strides = columns(whole[:-1] or [(1, 0, 0)], 2)
        call_parallel(worth, run_blocks, flat[0], sizes, strides, Q, flat[1])
        return
    (P, step_y), *_ = [(size, of_y) for size, of_x, of_y in whole if of_x == 1]
    outer = columns([axis for axis in whole[:-1] if axis[1] != 1], 3)
    call_parallel(worth, planes, *flat, *outer, P, Q, step_x, step_y)
