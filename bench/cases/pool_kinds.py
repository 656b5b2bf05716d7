"""The other kinds of pooling as things to measure: norms, weights, adaptive windows, and what enlarges.

    x (N, D, H, W, C)   y (N, O, P, Q, C)

`nearest`, `bilinear` and `unpool` go from y's shape to x's. The error is taken of one image's first channels, beside
the reference room in float64. A tap of a window counts as one operation.
"""

from collections.abc import Callable
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, layer_case
from fastcnn.bench.cases.conv import Array
from fastcnn.bench.shapes.pool import ENLARGING, SIGMAS_IN_A_WINDOW, Pooling
from fastcnn.kernels.cpu import pool, resample
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.reference import pool as reference_pool
from fastcnn.kernels.reference import resample as reference_resample

CHANNELS = 8  # that the error is taken of


class Arrays(NamedTuple):
    """What a pass reads and fills; `extra` holds winners or positions."""

    x: Array
    y: Array
    dy: Array
    dx: Array
    extra: np.ndarray


Passes = tuple[Callable[[], None], Callable[[], None]]


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array that starts on a cache line, as a network's arrays do, full of NaN or -1."""
    array = aligned_empty(prod(shape), np.dtype(dtype)).reshape(shape)
    array.fill(np.nan if array.dtype.kind == "f" else 0)
    return array


def passes(problem: Pooling, pool: ModuleType, resample: ModuleType, a: Arrays) -> Passes:
    """Return the forward and the backward pass in a room."""
    c, kind = problem.windows, problem.kind
    rule: tuple[Any, ...]
    if kind in ("lp1", "lp2"):
        rule = int(kind[2:]), c.window, c.stride
        return (
            lambda: pool.lp_pool_forward(a.x, *rule, a.y),
            lambda: pool.lp_pool_backward_input(a.x, a.y, a.dy, *rule, a.dx),
        )
    if kind == "gauss":
        rule = c.window, c.stride, problem.pads, tuple(size / SIGMAS_IN_A_WINDOW for size in c.window)
        return (
            lambda: pool.gaussian_pool_forward(a.x, *rule, a.y),
            lambda: pool.gaussian_pool_backward_input(a.dy, *rule, a.dx),
        )
    if kind == "subsample":
        rule = (1, 1, 1), c.stride, ((0, 0),) * 3, True, 1
        return (
            lambda: pool.avg_pool_forward(a.x, *rule, a.y),
            lambda: pool.avg_pool_backward_input(a.dy, *rule, a.dx),
        )
    if kind == "adaptive_avg":
        return (
            lambda: pool.adaptive_avg_pool_forward(a.x, a.y),
            lambda: pool.adaptive_avg_pool_backward_input(a.dy, a.dx),
        )
    if kind == "adaptive_max":
        return (
            lambda: pool.adaptive_max_pool_forward(a.x, a.y, a.extra),
            lambda: pool.adaptive_max_pool_backward_input(a.dy, a.extra, a.dx),
        )
    if kind == "unpool":
        return (
            lambda: resample.max_unpool_forward(a.x, a.extra, a.y),
            lambda: resample.max_unpool_backward_input(a.dy, a.extra, a.dx),
        )
    sampling = "nearest" if kind == "nearest" else "linear"
    how = tuple(("nearest" if size == 1 else sampling, False, 0.0) for size in c.image)
    return (
        lambda: resample.upsample_forward(a.x, how, a.y),
        lambda: resample.upsample_backward_input(a.dy, how, a.dx),
    )


def made(problem: Pooling, dtype: str) -> Arrays:
    """Return the arrays of a pooling, random where they are read."""
    c, random = problem.windows, np.random.default_rng(0)
    ends = (c.y_shape, c.x_shape) if problem.kind in ENLARGING else (c.x_shape, c.y_shape)
    x, dx, y, dy = (aligned(ends[i], dtype) for i in (0, 0, 1, 1))
    for array in (x, dy):
        random.standard_normal(dtype=array.dtype, out=array)
    extra = aligned(c.y_shape, dtype if problem.kind == "unpool" else np.int32)
    if problem.kind == "unpool":
        starts = np.indices(c.y_shape)[1:4]
        place = [starts[i] * c.stride[i] + random.integers(0, c.window[i], c.y_shape) for i in range(3)]
        extra[...] = (place[0] * c.image[1] + place[1]) * c.image[2] + place[2]
    return Arrays(x, y, dy, dx, extra)


def case(problem: Pooling, pass_name: str, dtype: str) -> Case:
    """Return one pass, with its arrays made."""
    arrays = made(problem, dtype)
    forward, backward = passes(problem, pool, resample, arrays)
    is_forward = pass_name == "forward"
    if not is_forward:
        forward()
    moved = arrays.x.nbytes + arrays.y.nbytes
    if problem.kind in ("adaptive_max", "unpool"):
        moved += arrays.extra.nbytes
    if problem.kind in ("lp1", "lp2") and not is_forward:
        moved *= 2
    return layer_case(
        "pool", problem, pass_name, "direct", dtype,
        flops=problem.windows.batch * prod(problem.windows.y_shape[1:]) * prod(problem.windows.window),
        bytes=moved,
        work=(forward if is_forward else backward, lambda: error(problem, pass_name, arrays)),
    )  # fmt: skip


def error(problem: Pooling, pass_name: str, arrays: Arrays) -> float:
    """Return the error of one image's first channels beside the reference room in float64."""
    part = [np.ascontiguousarray(array[:1, ..., :CHANNELS]) for array in arrays]
    some = Arrays(*(array.astype(np.float64) if array.dtype.kind == "f" else array for array in part))
    some.y.fill(np.nan)
    some.dx.fill(np.nan)
    forward, backward = passes(problem, reference_pool, reference_resample, some)
    forward()
    if pass_name == "forward":
        return accuracy.relative_error(part[1], some.y)
    backward()
    return accuracy.relative_error(part[3], some.dx)
