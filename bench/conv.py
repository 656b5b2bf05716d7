"""Convolution as a thing to measure: its three passes on the kernels' own arrays, without bias.

    x (N, D, H, W, C)   w (T, R, S, C / groups, K)   y (N, O, P, Q, K)

Every array holds random normals, so that no pass meets zeros or denormals it would not meet in a
network, and starts on a cache line, as a network's arrays do.
"""

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from fastcnn.bench import accuracy
from fastcnn.bench.case import Case
from fastcnn.bench.descriptor import Convolution
from fastcnn.kernels.cpu import conv
from fastcnn.kernels.cpu.workspace import aligned_empty

PASSES = ("forward", "backward_input", "backward_weight")
ALGORITHMS = conv.ALGORITHMS

Array = NDArray[np.floating]
Work = tuple[Callable[[], None], Callable[[], float]]


def case(c: Convolution, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass of a convolution, with its arrays made; `algorithm` is one of ALGORITHMS.

    The case names the algorithm that serves it.
    """
    random = np.random.default_rng(0)
    x, w, y = (_normals(random, s, np.dtype(dtype)) for s in (c.x_shape, c.w_shape, c.y_shape))
    used = _algorithm(c, pass_name, algorithm, x.dtype)
    call, error = _WORK[pass_name](c, used, x, w, y)
    return Case(
        name=c.name,
        descriptor=c.descriptor(),
        pass_name=pass_name,
        algorithm=used,
        count=c.count,
        flops=2 * c.multiply_adds,
        bytes=c.elements * x.itemsize,
        call=call,
        error=error,
        request={"work": "conv", "descriptor": c.descriptor(), "pass": pass_name, "dtype": dtype},
        images=c.batch,
    )


def _normals(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
    """Return an array of random normals that starts on a cache line."""
    array: Array = aligned_empty(prod(shape), dtype).reshape(shape)
    random.standard_normal(dtype=dtype, out=array)
    return array


def _algorithm(c: Convolution, pass_name: str, algorithm: str, dtype: np.dtype[np.floating]) -> str:
    """Return the algorithm that serves a pass."""
    shapes = (c.y_shape, c.x_shape) if pass_name == "backward_input" else (c.x_shape, c.y_shape)
    T, R, S, _, _ = c.w_shape
    return conv.algorithm_of(pass_name, *shapes, (T, R, S), c.stride, c.pads, c.dilation, c.groups, dtype, algorithm)


def _forward(c: Convolution, algorithm: str, x: Array, w: Array, y: Array) -> Work:
    return (
        lambda: conv.conv_forward(x, w, None, c.stride, c.pads, c.dilation, c.groups, False, y, algorithm),
        lambda: accuracy.forward_error(c, x, w, y),
    )


def _backward_input(c: Convolution, algorithm: str, dx: Array, w: Array, dy: Array) -> Work:
    return (
        lambda: conv.conv_backward_input(dy, w, c.stride, c.pads, c.dilation, c.groups, dx, algorithm),
        lambda: accuracy.backward_input_error(c, dy, w, dx),
    )


def _backward_weight(c: Convolution, algorithm: str, x: Array, dw: Array, dy: Array) -> Work:
    return (
        lambda: conv.conv_backward_weight(x, dy, c.stride, c.pads, c.dilation, c.groups, dw, algorithm),
        lambda: accuracy.backward_weight_error(c, x, dy, dw),
    )


_WORK: dict[str, Callable[[Convolution, str, Array, Array, Array], Work]] = dict(
    zip(PASSES, (_forward, _backward_input, _backward_weight), strict=True)
)
