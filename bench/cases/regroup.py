"""Elementwise as a thing to measure: every array crosses the memory bus once; an element counts as one operation.

The gradient of a product is by one factor of a size, and by the gate where that is smaller. A sum has no gradient but
dy itself.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, layer_case
from fastcnn.bench.cases.conv import Array
from fastcnn.bench.shapes.activation import Elementwise
from fastcnn.bench.shapes.regroup import MODES
from fastcnn.kernels.cpu import dropout, join, pad, permute
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.reference import dropout as dropout_definition
from fastcnn.kernels.reference import join as join_definition
from fastcnn.kernels.reference import pad as pad_definition
from fastcnn.kernels.reference import permute as permute_definition

PASSES = ("forward", "backward_input")
ALGORITHMS = ("auto", "direct")
KEY = np.array([12345], np.int64)
HALF = 0.5
RIM = ((1, 1), (1, 1))  # of height and width

Run = Callable[[Any], None]  # fills the outputs by the kernels of a room


def served_by(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def case(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass, with its arrays made; its error is against the reference."""
    inputs, outputs, kernel, definition, arguments = _pass(problem, pass_name == "forward", np.dtype(dtype))

    def call(function: Callable[..., None], filled: list[Array]) -> None:
        function(*arguments(inputs, filled))

    def error() -> float:
        wanted = [np.empty_like(y) for y in outputs]
        call(definition, wanted)
        pairs = zip(outputs, wanted, strict=True)
        return max(accuracy.relative_error(y.reshape(-1), want.reshape(-1).astype(np.float64)) for y, want in pairs)

    moved = sum(a.nbytes for a in (*inputs, *outputs))
    work = (lambda: call(kernel, outputs)), error
    return layer_case("regroup", problem, pass_name, "direct", dtype, problem.elements, moved, work)


def _pass(problem: Elementwise, is_forward: bool, dtype: np.dtype[Any]) -> Any:
    """Return inputs, outputs, the kernel, its definition, and what makes their arguments of inputs and outputs."""
    N, D, H, W, C = shape = problem.shape
    random = np.random.default_rng(0)

    def empty(*shape: int) -> Array:
        """Return an array that starts on a cache line, as a network's arrays do."""
        array: Array = aligned_empty(prod(shape), dtype).reshape(shape)
        array.fill(np.nan)
        return array

    def normal(*shape: int) -> Array:
        array = empty(*shape)
        array[...] = random.standard_normal(shape, np.dtype(np.float32))
        return array

    def rooms(name: str, ours: Any, definition: Any) -> Any:
        return getattr(ours, name), getattr(definition, name)

    rows, images = (N * D * H * W, C), (N, D * H * W, C)
    if problem.kind == "add":
        inputs, outputs = [normal(*shape), normal(*shape)], [empty(*shape)]
        return inputs, outputs, *rooms("add_forward", join, join_definition), lambda xs, ys: (xs, *ys)
    if problem.kind == "concat" and is_forward:
        both = [normal(*rows), normal(*rows)], [empty(rows[0], 2 * C)]
        return *both, *rooms("concat_forward", join, join_definition), lambda xs, ys: (xs, *ys)
    if problem.kind == "concat":
        both = [normal(rows[0], 2 * C)], [empty(*rows), empty(*rows)]
        names = rooms("concat_backward_input", join, join_definition)
        return *both, *names, lambda xs, ys: (*xs, (C, C), ys)
    if problem.kind == "permute":
        there, back = (0, 4, 1, 2, 3), (0, 2, 3, 4, 1)
        axes, given, filled = (there, shape, (N, C, D, H, W)) if is_forward else (back, (N, C, D, H, W), shape)
        names = rooms("permute", permute, permute_definition)
        return [normal(*given)], [empty(*filled)], *names, lambda xs, ys: (*xs, axes, *ys)
    if problem.kind in MODES:
        padding, padded = ((0, 0), *RIM), (N, D, H + 2, W + 2, C)
        mode = (problem.kind, 0.0)[: 2 if is_forward else 1]
        given, filled = (shape, padded) if is_forward else (padded, shape)
        names = rooms("pad_forward" if is_forward else "pad_backward_input", pad, pad_definition)
        return [normal(*given)], [empty(*filled)], *names, lambda xs, ys: (*xs, padding, *mode, *ys)
    if problem.kind == "dropout":
        names = rooms("dropout_forward", dropout, dropout_definition)
        return [normal(*shape)], [empty(*shape)], *names, lambda xs, ys: (*xs, HALF, KEY, *ys)
    if problem.kind == "multiply":
        images = (N * D * H * W, 1, C)
    gate = normal(images[0], C)
    if is_forward or problem.kind == "dropout2d":
        names = rooms("multiply_forward", join, join_definition)
        return [normal(*images), gate], [empty(*images)], *names, lambda xs, ys: (*xs, *ys)
    names = rooms("multiply_backward_gate", join, join_definition)
    return [normal(*images), normal(*images)], [empty(images[0], C)], *names, lambda xs, ys: (*xs, *ys)
