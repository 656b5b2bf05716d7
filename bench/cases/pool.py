"""Pooling as a thing to measure: the maximum or the mean of windows, and its gradient.

    x (N, D, H, W, C)   y, winner (N, O, P, Q, C)

A tap of a window counts as one operation forward (a comparison or an addition) and, for a mean, backward; the gradient
of a maximum adds once a window. The winners of a maximum count among the bytes.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray

from fastcnn.bench.cases import accuracy, pool_kinds
from fastcnn.bench.cases.case import Case, Work, layer_case
from fastcnn.bench.cases.conv import Array
from fastcnn.bench.cases.pool_kinds import aligned
from fastcnn.bench.shapes.pool import OTHERS, Pooling
from fastcnn.kernels.cpu import pool

PASSES = ("forward", "backward_input")
ALGORITHMS = ("auto", "direct")
TAPS_IN_A_BYTE = 256  # as the layers do: the winner of so many taps fits one byte

Positions = list[NDArray[np.int64]]


def served_by(problem: Pooling, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def case(problem: Pooling, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass, with its arrays made; the gradient's winners come from a forward pass."""
    if problem.kind in OTHERS:
        return pool_kinds.case(problem, pass_name, dtype)
    c = problem.windows
    random = np.random.default_rng(0)
    x, dy, y = (aligned(shape, dtype) for shape in (c.x_shape, c.y_shape, c.y_shape))
    for array in (x, dy):
        random.standard_normal(dtype=array.dtype, out=array)
    taps = prod(c.window)
    winner = aligned(c.y_shape, np.uint8 if taps <= TAPS_IN_A_BYTE else np.int32)
    is_max = problem.kind == "max"
    work = _max_work if is_max else _avg_work
    once = is_max and pass_name == "backward_input"
    return layer_case(
        "pool", problem, pass_name, "direct", dtype,
        flops=y.size * (1 if once else taps),
        bytes=x.nbytes + y.nbytes + (winner.nbytes if is_max else 0),
        work=work(problem, pass_name, x, y, dy, winner),
    )  # fmt: skip


def _max_work(problem: Pooling, pass_name: str, x: Array, y: Array, dy: Array, winner: NDArray[np.integer]) -> Work:
    c, dx = problem.windows, aligned(x.shape, x.dtype)
    how = (c.window, c.stride, problem.pads, c.dilation)
    if pass_name == "forward":
        return lambda: pool.max_pool_forward(x, *how, y, winner), lambda: forward_error(problem, x, y)
    pool.max_pool_forward(x, *how, y, winner)
    return (
        lambda: pool.max_pool_backward_input(dy, winner, *how, dx),
        lambda: backward_input_error(problem, x, y, dy, dx),
    )


def _avg_work(problem: Pooling, pass_name: str, x: Array, y: Array, dy: Array, winner: NDArray[np.integer]) -> Work:
    c, dx = problem.windows, aligned(x.shape, x.dtype)
    how = (c.window, c.stride, problem.pads, problem.kind == "avg_p", 0)
    if pass_name == "forward":
        return lambda: pool.avg_pool_forward(x, *how, y), lambda: forward_error(problem, x, y)
    return (
        lambda: pool.avg_pool_backward_input(dy, *how, dx),
        lambda: backward_input_error(problem, x, y, dy, dx),
    )


def forward_error(problem: Pooling, x: Array, y: Array) -> float:
    """Return the error of y at sampled outputs."""
    c, at = problem.windows, accuracy.drawn(y.size)
    n, *position, channel = np.unravel_index(at, y.shape)
    is_max = problem.kind == "max"
    total = np.full(at.size, -np.inf if is_max else 0.0)
    for tap in np.ndindex(*c.window):
        pixel = [position[a] * c.stride[a] + tap[a] * c.dilation[a] - c.padding[a] for a in range(3)]
        inside = accuracy.within(pixel, c.image)
        d, h, w = (np.where(inside, axis, 0) for axis in pixel)
        value = x[n, d, h, w, channel].astype(np.float64)
        total = np.maximum(total, np.where(inside, value, -np.inf)) if is_max else total + np.where(inside, value, 0)
    return accuracy.relative_error(y.reshape(-1)[at], total if is_max else total / _divisors(problem, position))


def backward_input_error(problem: Pooling, x: Array, y: Array, dy: Array, dx: Array) -> float:
    """Return the error of dx at sampled pixels: each collects dy from its windows, of a maximum those it won."""
    c, at = problem.windows, accuracy.drawn(dx.size)
    n, *pixel, channel = np.unravel_index(at, dx.shape)
    own, total = x.reshape(-1)[at], np.zeros(at.size)
    for tap in np.ndindex(*c.window):
        reach = [pixel[a] + c.padding[a] - tap[a] * c.dilation[a] for a in range(3)]
        position = [reach[a] // c.stride[a] for a in range(3)]
        met = np.logical_and.reduce([reach[a] % c.stride[a] == 0 for a in range(3)])
        met &= accuracy.within(position, c.output)
        o, p, q = (np.where(met, axis, 0) for axis in position)
        share = dy[n, o, p, q, channel].astype(np.float64)
        if problem.kind == "max":
            met &= y[n, o, p, q, channel] == own
        else:
            share /= _divisors(problem, [o, p, q])
        total += np.where(met, share, 0)
    return accuracy.relative_error(dx.reshape(-1)[at], total)


def _divisors(problem: Pooling, position: Positions) -> NDArray[np.float64]:
    """Return the pixels of the windows at these positions that count: in the padded image, or in the image alone."""
    c, count = problem.windows, np.ones(position[0].size)
    for a in range(3):
        start = position[a] * c.stride[a] - c.padding[a]
        pad = c.padding[a] if problem.kind == "avg_p" else 0
        count *= np.minimum(start + c.window[a], c.image[a] + pad) - np.maximum(start, -pad)
    return np.maximum(count, 1)
