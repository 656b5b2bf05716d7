"""Activations as things to measure: x, y, dy and dx have one shape, and none is another's memory."""

import numpy as np

from fastcnn.bench import accuracy
from fastcnn.bench.case import Case, Work, layer_case
from fastcnn.bench.conv import Array
from fastcnn.bench.elementwise import Elementwise
from fastcnn.kernels.cpu import activation

PASSES = ("forward", "backward_input")
ALGORITHMS = ("auto", "direct")
ARRAYS = {"forward": 2, "backward_input": 3}  # that cross the memory bus


def served_by(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def case(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass, with its arrays made; an element counts as one operation."""
    random = np.random.default_rng(0)
    first, second = (random.standard_normal(problem.shape, np.dtype(dtype)) for _ in range(2))
    moved = ARRAYS[pass_name] * first.nbytes
    work = _forward(first) if pass_name == "forward" else _backward_input(first, second)
    return layer_case("activation", problem, pass_name, "direct", dtype, problem.elements, moved, work)


def _forward(x: Array) -> Work:
    y = np.full_like(x, np.nan)

    def error() -> float:
        at = accuracy.drawn(y.size)
        return accuracy.relative_error(y.reshape(-1)[at], np.maximum(x.reshape(-1)[at].astype(np.float64), 0))

    return lambda: activation.relu_forward(x, y), error


def _backward_input(y: Array, dy: Array) -> Work:
    np.maximum(y, 0, out=y)
    dx = np.full_like(dy, np.nan)

    def error() -> float:
        at = accuracy.drawn(dx.size)
        ours, reached, given = (array.reshape(-1)[at] for array in (dx, y, dy))
        return accuracy.relative_error(ours, np.where(reached > 0, given.astype(np.float64), 0))

    return lambda: activation.relu_backward_input(y, dy, dx), error
