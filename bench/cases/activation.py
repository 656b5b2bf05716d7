"""Activations as things to measure: x, y, dy and dx have one shape, and none is another's memory.

An element counts as one operation. Errors are those of the formulas below, in float64, at sampled elements; those of
softmax at whole pixels.
"""

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, Work, layer_case
from fastcnn.bench.cases.conv import Array
from fastcnn.bench.shapes.activation import Elementwise
from fastcnn.kernels.cpu import activation
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty

PASSES = ("forward", "backward_input")
ALGORITHMS = ("auto", "direct")
ARRAYS = {"forward": 2, "backward_input": 3}  # that cross the memory bus

SLOPE, ALPHA, K, THRESHOLD = 0.01, 1.0, 2.0, 20.0
NUMBERS: dict[str, tuple[float, ...]] = {
    "leaky_relu": (SLOPE,), "elu": (ALPHA,), "softplus": (K, THRESHOLD), "soft_abs": (K,),
}  # fmt: skip
FROM_OUTPUT = ("relu", "sigmoid", "tanh", "softmax", "log_softmax")  # gradients of y; all others of x

Exact = NDArray[np.float64]
ROOT = np.sqrt(2 / np.pi)


def users_f(x: float) -> float:
    """Return x / (1 + |x|), as a user may write it."""
    return x / (1 + abs(x))


def users_df(x: float) -> float:
    """Return the derivative of `users_f`."""
    return 1 / ((1 + abs(x)) * (1 + abs(x)))


def _logistic(x: Exact) -> Exact:
    return 1 / (1 + np.exp(-x))


def _normal(x: Exact) -> Exact:
    return (1 + np.vectorize(erf, otypes=[np.float64])(x / np.sqrt(2))) / 2


def _gelu_tanh(x: Exact) -> Exact:
    return x * _logistic(2 * ROOT * (x + 0.044715 * x**3))


def _gelu_tanh_slope(x: Exact) -> Exact:
    s = _logistic(2 * ROOT * (x + 0.044715 * x**3))
    return s + x * s * (1 - s) * 2 * ROOT * (1 + 3 * 0.044715 * x**2)


def _softmax(x: Exact) -> Exact:
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


# What y is, and dy / dx, of an x that draws from a normal distribution.
FUNCTIONS: dict[str, tuple[Callable[[Exact], Exact], Callable[[Exact], Exact]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0)),
    "leaky_relu": (lambda x: np.where(x > 0, x, SLOPE * x), lambda x: np.where(x > 0, 1.0, SLOPE)),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x > 0, 1.0, np.exp(x))),
    "silu": (lambda x: x * _logistic(x), lambda x: _logistic(x) * (1 + x * _logistic(-x))),
    "gelu": (lambda x: x * _normal(x), lambda x: _normal(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_slope),
    "hardswish": (
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(x <= -3, 0, np.where(x >= 3, 1, x / 3 + 0.5)),
    ),
    "sigmoid": (_logistic, lambda x: _logistic(x) * _logistic(-x)),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "softplus": (
        lambda x: np.where(K * x > THRESHOLD, x, np.log1p(np.exp(K * x)) / K),
        lambda x: np.where(K * x > THRESHOLD, 1, _logistic(K * x)),
    ),
    "abs": (np.abs, np.sign),
    "soft_abs": (lambda x: 2 / K * np.log(np.cosh(K * x / 2)), lambda x: np.tanh(K * x / 2)),
    "elementwise": (lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
}


def served_by(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def case(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass, with its arrays made."""
    random = np.random.default_rng(0)
    x, dy = (_aligned(random.standard_normal(problem.shape, np.dtype(dtype))) for _ in range(2))
    gain = random.standard_normal(problem.channels, np.dtype(dtype))
    is_gain_backward = problem.kind == "gain" and pass_name == "backward_input"  # reads no x
    moved = (2 if is_gain_backward else ARRAYS[pass_name]) * x.nbytes
    work = _forward(problem.kind, x, gain) if pass_name == "forward" else _backward_input(problem.kind, x, dy, gain)
    return layer_case("activation", problem, pass_name, "direct", dtype, problem.elements, moved, work)


def _aligned(array: Array) -> Array:
    """Return a copy that starts on a cache line, as a network's arrays do."""
    copy: Array = aligned_empty(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _arguments(kind: str, pass_name: str, gain: Array) -> tuple[Any, ...]:
    """Return what a kernel takes between its inputs and its output."""
    if kind == "elementwise":
        return (users_f if pass_name == "forward" else users_df,)
    return (gain,) if kind == "gain" and pass_name == "forward" else NUMBERS.get(kind, ())


def _forward(kind: str, x: Array, gain: Array) -> Work:
    y, how = _aligned(np.full_like(x, np.nan)), _arguments(kind, "forward", gain)
    kernel = getattr(activation, f"{kind}_forward")

    def error() -> float:
        rows, at = _drawn(kind, x)
        given = rows(x).astype(np.float64)[at]
        if kind == "gain":
            exact = given * gain.astype(np.float64)
        elif kind.endswith("softmax"):
            exact = np.log(_softmax(given)) if kind == "log_softmax" else _softmax(given)
        else:
            exact = FUNCTIONS[kind][0](given)
        return accuracy.relative_error(rows(y)[at], exact)

    return lambda: kernel(x, *how, y), error


def _backward_input(kind: str, x: Array, dy: Array, gain: Array) -> Work:
    dx, how = _aligned(np.full_like(dy, np.nan)), _arguments(kind, "backward_input", gain)
    kernel, kept = getattr(activation, f"{kind}_backward_input"), x
    if kind in FROM_OUTPUT:
        kept = _aligned(x)
        getattr(activation, f"{kind}_forward")(x, *how, kept)

    def error() -> float:
        rows, at = _drawn(kind, x)
        given, back = rows(x).astype(np.float64)[at], rows(dy).astype(np.float64)[at]
        if kind == "gain":
            exact = back * gain.astype(np.float64)
        elif kind == "softmax":
            y = _softmax(given)
            exact = y * (back - (back * y).sum(axis=-1, keepdims=True))
        elif kind == "log_softmax":
            exact = back - _softmax(given) * back.sum(axis=-1, keepdims=True)
        else:
            exact = back * FUNCTIONS[kind][1](given)
        return accuracy.relative_error(rows(dx)[at], exact)

    if kind == "gain":
        return lambda: kernel(gain, dy, dx), error
    return lambda: kernel(kept, dy, *how, dx), error


def _drawn(kind: str, x: Array) -> tuple[Callable[[Array], Array], NDArray[np.int64]]:
    """Return how arrays are seen, as elements or as pixels, and the indices to look at."""
    pixels = kind in ("gain", "softmax", "log_softmax")
    width = x.shape[-1] if pixels else 1

    def rows(array: Array) -> Array:
        return array.reshape(-1, width) if pixels else array.reshape(-1)

    return rows, accuracy.drawn(x.size // width)
