"""Convolution as a thing to measure: its three passes on the kernels' own arrays, without bias.

    x (N, D, H, W, C)   w (T, R, S, C / groups, K)   y (N, O, P, Q, K)

Every array holds random normals, so that no pass meets zeros or denormals it would not meet in a
network, and starts on a cache line, as a network's arrays do.
"""

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, Work, layer_case
from fastcnn.bench.shapes.convolution import Convolution
from fastcnn.kernels.cpu import conv
from fastcnn.kernels.cpu.convolution import select
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty

ALGORITHMS = select.ALGORITHMS
PASSES = ("forward", "backward_input", "backward_weight")


Array = NDArray[np.floating]


def served_by(c: Convolution, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return the algorithm that serves a pass; a ValueError says why the one named cannot."""
    return conv.algorithm_of(pass_name, c.problem, np.dtype(dtype), algorithm)


def case(c: Convolution, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass of a convolution, with its arrays made; `algorithm` is one of ALGORITHMS.

    The case names the algorithm that serves it.
    """
    x, w, y = random_arrays(c, dtype)
    used = served_by(c, pass_name, algorithm, dtype)
    work = _WORK[pass_name](c, used, x, w, y)
    moved, least = c.elements * x.itemsize, least_flops(c, used)
    return layer_case("conv", c, pass_name, used, dtype, 2 * c.multiply_adds, moved, work, least)


def least_flops(c: Convolution, algorithm: str) -> int:
    """Return the operations that an algorithm surely does; 0 for transforms, which spare some."""
    return 0 if algorithm == "winograd" else 2 * c.needed_multiply_adds


def random_arrays(c: Convolution, dtype: str) -> tuple[Array, Array, Array]:
    """Return x, w and y of random normals."""
    random = np.random.default_rng(0)
    x, w, y = (_normals(random, shape, np.dtype(dtype)) for shape in (c.x_shape, c.w_shape, c.y_shape))
    return x, w, y


def _normals(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
    """Return an array of random normals that starts on a cache line, as a network's arrays do."""
    array: Array = aligned_empty(prod(shape), dtype).reshape(shape)
    random.standard_normal(dtype=dtype, out=array)
    return array


def _forward(c: Convolution, algorithm: str, x: Array, w: Array, y: Array) -> Work:
    return (
        lambda: conv.conv_forward(x, w, None, c.problem, False, y, algorithm),
        lambda: accuracy.forward_error(c, x, w, y),
    )


def _backward_input(c: Convolution, algorithm: str, dx: Array, w: Array, dy: Array) -> Work:
    return (
        lambda: conv.conv_backward_input(dy, w, c.problem, dx, algorithm),
        lambda: accuracy.backward_input_error(c, dy, w, dx),
    )


def _backward_weight(c: Convolution, algorithm: str, x: Array, dw: Array, dy: Array) -> Work:
    return (
        lambda: conv.conv_backward_weight(x, dy, c.problem, dw, algorithm),
        lambda: accuracy.backward_weight_error(c, x, dy, dw),
    )


_WORK: dict[str, Callable[[Convolution, str, Array, Array, Array], Work]] = dict(
    zip(PASSES, (_forward, _backward_input, _backward_weight), strict=True)
)
