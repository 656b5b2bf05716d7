"""Normalizations as things to measure: forward in training, in prediction, and all gradients.

x, y, dy and dx have one shape. Bytes count x once in and y once out, and on the way back x and dy in and dx out; where
the statistics of an array larger than the caches are needed first (batch), memory sees x, and x and dy, twice: no
kernel can then reach more than 2/3 and 3/5 of the roof. In prediction batch normalization has its statistics; the
other kinds do as in training.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import LocalContrastNorm
from fastcnn.backend import get
from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, Work, layer_case
from fastcnn.bench.cases.conv import Array
from fastcnn.bench.shapes.norm import WINDOW, Normalizing
from fastcnn.kernels.cpu import local_norm, norm
from fastcnn.kernels.reference import local_norm as local_definition
from fastcnn.kernels.reference import norm as definition

PASSES = ("forward", "inference", "backward")
ALGORITHMS = ("auto", "direct")
ARRAYS = {"forward": 2, "inference": 2, "backward": 3}  # that cross the memory bus
EPS = 1e-5
RESPONSE = (1.0, 1e-4 / WINDOW, 0.75)  # kappa, lam, mu

Passes = dict[str, Callable[[], object]]


def served_by(problem: Normalizing, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def case(problem: Normalizing, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass, with its arrays made; an element counts as one operation."""
    random = np.random.default_rng(0)
    arrays = [_placed(problem, dtype) for _ in range(2)]
    for array in arrays:
        random.standard_normal(dtype=array.dtype, out=array)
    return layer_case(
        "norm", problem, pass_name, "direct", dtype, problem.elements, ARRAYS[pass_name] * arrays[0].nbytes,
        _work(problem, pass_name, *arrays),
    )  # fmt: skip


def _placed(problem: Normalizing, dtype: DTypeLike) -> Array:
    """Return an array that starts on a cache line, as those of networks do."""
    return get("cpu").empty(problem.shape, np.dtype(dtype))


def _work(problem: Normalizing, pass_name: str, x: Array, dy: Array) -> Work:
    """Return the call, and the error of its output's sampled elements by the reference room."""
    backward = pass_name == "backward"
    out, again = _placed(problem, x.dtype), _placed(problem, x.dtype) if backward else x
    out.fill(np.nan)
    passes = PASSES_OF.get(problem.kind, _by_mean)
    calls = passes(problem, x, dy, again if backward else out, out, False)
    if backward:
        calls["forward"]()  # its statistics

    def error() -> float:
        at = accuracy.drawn(out.size)
        wide, given = x.astype(np.float64), dy.astype(np.float64)
        y, dx = np.empty_like(wide), np.empty_like(wide)
        defined = passes(problem, wide, given, y, dx, True)
        if backward:
            defined["forward"]()
        defined[pass_name]()
        return accuracy.relative_error(out.reshape(-1)[at], (dx if backward else y).reshape(-1)[at])

    return calls[pass_name], error


def _by_mean(problem: Normalizing, x: Array, dy: Array, y: Array, dx: Array, defined: bool) -> Passes:
    """Return the passes of batch, group and instance normalization."""
    kernels, (N, *_, C) = definition if defined else norm, x.shape
    shape = (1 if problem.kind == "batch" else N, -1, C)
    G = problem.groups if problem.kind == "group" else C
    x3, dy3, y3, dx3 = (a.reshape(shape) for a in (x, dy, y, dx))
    gamma, beta, dgamma, dbeta = (np.full(C, value, x.dtype) for value in (1.5, 0.5, 0, 0))
    mean, variance = np.zeros((shape[0], G)), np.ones((shape[0], G))

    def forward() -> None:
        kernels.group_norm_forward(x3, gamma, beta, G, EPS, y3, mean, variance)

    def fixed() -> None:
        kernels.fixed_norm_forward(x3[0], gamma, beta, mean[0], variance[0], EPS, y3[0])

    def backward() -> None:
        kernels.group_norm_backward(x3, dy3, gamma, mean, variance, G, EPS, False, dx3, dgamma, dbeta)

    return {"forward": forward, "inference": fixed if problem.kind == "batch" else forward, "backward": backward}


def _by_row(problem: Normalizing, x: Array, dy: Array, y: Array, dx: Array, defined: bool) -> Passes:
    """Return the passes of layer normalization, over the channels of each pixel."""
    kernels, C = definition if defined else norm, x.shape[-1]
    x2, dy2, y2, dx2 = (a.reshape(-1, C) for a in (x, dy, y, dx))
    gamma, beta, dgamma, dbeta = (np.full(C, value, x.dtype) for value in (1.5, 0.5, 0, 0))
    mean, variance = np.zeros(len(x2)), np.ones(len(x2))

    def forward() -> None:
        kernels.layer_norm_forward(x2, gamma, beta, EPS, y2, mean, variance)

    def backward() -> None:
        kernels.layer_norm_backward(x2, dy2, gamma, mean, variance, EPS, dx2, dgamma, dbeta)

    return {"forward": forward, "inference": forward, "backward": backward}


def _by_channels(problem: Normalizing, x: Array, dy: Array, y: Array, dx: Array, defined: bool) -> Passes:
    """Return the passes of local response normalization."""
    kernels, C = local_definition if defined else local_norm, x.shape[-1]
    x2, dy2, y2, dx2 = (a.reshape(-1, C) for a in (x, dy, y, dx))
    how = (WINDOW // 2, (WINDOW - 1) // 2, *RESPONSE)

    def forward() -> None:
        kernels.local_response_forward(x2, *how, y2)

    def backward() -> None:
        kernels.local_response_backward_input(x2, dy2, *how, dx2)

    return {"forward": forward, "inference": forward, "backward": backward}


def _by_pixels(problem: Normalizing, x: Array, dy: Array, y: Array, dx: Array, defined: bool) -> Passes:
    """Return the passes of local contrast normalization."""
    kernels, (N, D, H, W, C) = local_definition if defined else local_norm, x.shape
    layer = LocalContrastNorm(WINDOW)
    how = (layer.weights(D * H), layer.weights(W), True, True, EPS)
    x4, dy4, y4, dx4 = (a.reshape(N, D * H, W, C) for a in (x, dy, y, dx))
    deviation = np.empty((N, D * H, W), x.dtype)

    def forward() -> None:
        kernels.local_contrast_forward(x4, *how, y4, deviation)

    def backward() -> None:
        kernels.local_contrast_backward_input(y4, deviation, dy4, *how, dx4)

    return {"forward": forward, "inference": forward, "backward": backward}


PASSES_OF = {"layer": _by_row, "response": _by_channels, "contrast": _by_pixels}
