"""Losses as things to measure: bound to their arrays, as in a trainer's plan, forward to a number and back to dy.

An element of the outputs counts as one operation. Bytes count y and the targets in, and on the way back dy out; the
probabilities that cross-entropy keeps between the two are its own. Errors are those of the reference room in float64.
"""

from collections.abc import Callable
from math import nan

import numpy as np

from fastcnn import L1, NLL, BinaryCrossEntropy, CrossEntropy, Hinge, MeanSquaredError, SmoothL1
from fastcnn.arrays import Array
from fastcnn.backend import get
from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, layer_case
from fastcnn.bench.shapes.activation import Elementwise
from fastcnn.bench.shapes.loss import FROM_LABELS, SMOOTHING
from fastcnn.losses import BoundLoss, Loss

PASSES = ("forward", "backward_input")
ALGORITHMS = ("auto", "direct")

LOSSES: dict[str, Callable[[], Loss]] = {
    "cross_entropy": CrossEntropy,
    "cross_entropy_smoothed": lambda: CrossEntropy(label_smoothing=SMOOTHING),
    "cross_entropy_soft": CrossEntropy,
    "nll": NLL,
    "hinge": Hinge,
    "binary_cross_entropy": BinaryCrossEntropy,
    "squared_error": MeanSquaredError,
    "smooth_l1": SmoothL1,
    "l1": L1,
}


def served_by(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def case(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass, with its arrays made."""
    y, t = _arrays(problem, np.dtype(dtype))
    loss = LOSSES[problem.kind]()
    ours, exact = _bound(loss, "cpu", y, t), _bound(loss, "reference", y.astype(np.float64), _widened(t))
    value = [nan]
    ours.dy.fill(nan)

    def forward() -> None:
        value[0] = ours.forward()

    def error() -> float:
        wanted = exact.forward()
        if pass_name == "forward":
            return accuracy.relative_error(np.array(value), np.array([wanted]))
        exact.backward()
        at = accuracy.drawn(y.size)
        return accuracy.relative_error(ours.dy.reshape(-1)[at], exact.dy.reshape(-1)[at])

    moved = y.nbytes + ours.t.nbytes
    if pass_name == "forward":
        work = forward, error
    else:
        ours.forward()
        work, moved = (ours.backward, error), moved + y.nbytes
    return layer_case("loss", problem, pass_name, "direct", dtype, problem.elements, moved, work)


def _arrays(problem: Elementwise, dtype: np.dtype) -> tuple[Array, Array]:
    """Return outputs and targets drawn at random."""
    rng, shape = np.random.default_rng(0), problem.shape
    y = rng.standard_normal(shape, np.dtype(np.float32)).astype(dtype)
    if problem.kind == "nll":
        y = np.log(_softmax(y)).astype(dtype)
    if problem.kind in FROM_LABELS:
        return y, rng.integers(0, problem.channels, shape[:-1])
    t = rng.standard_normal(shape, np.dtype(np.float32)).astype(dtype)
    if problem.kind == "cross_entropy_soft":
        t = _softmax(t).astype(dtype)
    return y, 1 / (1 + np.exp(-t)) if problem.kind == "binary_cross_entropy" else t


def _softmax(x: Array) -> Array:
    exponentials: Array = np.exp(x)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _widened(t: Array) -> Array:
    return t.astype(np.float64) if t.dtype.kind == "f" else t


def _bound(loss: Loss, device: str, y: Array, t: Array) -> BoundLoss:
    """Return the loss on a device's copies of the arrays, checked as a trainer checks them."""
    backend = get(device)
    targets = loss.check_targets(t, len(y), y.shape[1:], y.dtype)
    arrays = backend.from_host(y), backend.from_host(targets), backend.empty(y.shape, y.dtype)
    return loss.bind(backend, *arrays)
