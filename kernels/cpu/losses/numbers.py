"""Losses of the difference d = y - t, summed over all elements, and their gradients by y.

    squared error   sum of d^2                                                    gradient 2 d
    smooth L1       sum of d^2 / (2 beta) where |d| < beta, else |d| - beta / 2   gradient d / beta, else sign(d)

A beta of 0 is the absolute error, with gradient 0 where d is 0. Arrays y and t have one shape, any; total and scale are
(1,) in float64. Sums are in float64, along LANES chains in a block of elements, and the blocks' sums are added in their
order: the same bits for any number of threads.
"""

import numpy as np

from fastcnn.kernels.cpu.reduction.blocks import BLOCK, LANES, join_blocks, join_lanes, partial_sums
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_MOVES


@jit(inner=True)
def _squares_block(block, thread, y, t, partial):
    first, last = block * BLOCK, min(y.size, block * BLOCK + BLOCK)
    lanes = partial[block]
    lanes[:] = 0.0
    whole = first + (last - first) // LANES * LANES
    for i in range(first, whole, LANES):
        for lane in range(LANES):
            d = np.float64(y[np.uintp(i + lane)]) - np.float64(t[np.uintp(i + lane)])
            lanes[np.uintp(lane)] += d * d
    for i in range(whole, last):
        d = np.float64(y[np.uintp(i)]) - np.float64(t[np.uintp(i)])
        lanes[np.uintp(i - whole)] += d * d
    join_lanes(lanes)


@jit
def _squares(team, y, t, partial, total):
    share(team, partial.shape[0], _squares_block, (y, t, partial))
    total[0] = join_blocks(partial)


def squared_error_forward(y: np.ndarray, t: np.ndarray, total: np.ndarray) -> None:
    """Fill total with the sum of d^2."""
    call_parallel(y.size > SERIAL_MOVES, _squares, y.reshape(-1), t.reshape(-1), partial_sums(y), total)


@jit(inner=True)
def _squares_gradient_block(block, thread, y, t, factor, dy):
    for i in range(block * BLOCK, min(dy.size, block * BLOCK + BLOCK)):
        dy[np.uintp(i)] = factor * (y[np.uintp(i)] - t[np.uintp(i)])


@jit
def _squares_gradient(team, y, t, scale, dy):
    factor = dy.dtype.type(2.0 * scale[0])
    share(team, (dy.size + BLOCK - 1) // BLOCK, _squares_gradient_block, (y, t, factor, dy))


def squared_error_backward(y: np.ndarray, t: np.ndarray, scale: np.ndarray, dy: np.ndarray) -> None:
    """Fill dy with scale * 2 d."""
    call_parallel(dy.size > SERIAL_MOVES, _squares_gradient, y.reshape(-1), t.reshape(-1), scale, dy.reshape(-1))


@jit(inner=True)
def _smooth_value(y, t, beta, inverse):
    size = abs(np.float64(y) - np.float64(t))
    return 0.5 * size * size * inverse if size < beta else size - 0.5 * beta


@jit(inner=True)
def _smooth_block(block, thread, y, t, beta, inverse, partial):
    first, last = block * BLOCK, min(y.size, block * BLOCK + BLOCK)
    lanes = partial[block]
    lanes[:] = 0.0
    whole = first + (last - first) // LANES * LANES
    for i in range(first, whole, LANES):
        for lane in range(LANES):
            value = _smooth_value(y[np.uintp(i + lane)], t[np.uintp(i + lane)], beta, inverse)
            lanes[np.uintp(lane)] += value
    for i in range(whole, last):
        lanes[np.uintp(i - whole)] += _smooth_value(y[np.uintp(i)], t[np.uintp(i)], beta, inverse)
    join_lanes(lanes)


@jit
def _smooth(team, y, t, beta, inverse, partial, total):
    share(team, partial.shape[0], _smooth_block, (y, t, beta, inverse, partial))
    total[0] = join_blocks(partial)


def smooth_l1_forward(y: np.ndarray, t: np.ndarray, beta: float, total: np.ndarray) -> None:
    """Fill total with the sum of the smooth absolute values of d."""
    rule = float(beta), 1 / beta if beta else 0.0
    call_parallel(y.size > SERIAL_MOVES, _smooth, y.reshape(-1), t.reshape(-1), *rule, partial_sums(y), total)


@jit(inner=True)
def _smooth_gradient_block(block, thread, y, t, beta, inverse, scale, dy):
    kind = dy.dtype.type
    zero, one = kind(0), kind(1)
    for i in range(block * BLOCK, min(dy.size, block * BLOCK + BLOCK)):
        d = y[np.uintp(i)] - t[np.uintp(i)]
        sign = one if d > zero else (-one if d < zero else d)  # d is 0 or NaN
        dy[np.uintp(i)] = scale * (d * inverse if abs(d) < beta else sign)


@jit
def _smooth_gradient(team, y, t, beta, inverse, scale, dy):
    kind = dy.dtype.type
    rule = (y, t, kind(beta), kind(inverse), kind(scale[0]), dy)
    share(team, (dy.size + BLOCK - 1) // BLOCK, _smooth_gradient_block, rule)


def smooth_l1_backward(y: np.ndarray, t: np.ndarray, beta: float, scale: np.ndarray, dy: np.ndarray) -> None:
    """Fill dy with scale times the slope."""
    rule = float(beta), 1 / beta if beta else 0.0, scale
    call_parallel(dy.size > SERIAL_MOVES, _smooth_gradient, y.reshape(-1), t.reshape(-1), *rule, dy.reshape(-1))
