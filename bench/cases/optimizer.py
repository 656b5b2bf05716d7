"""Steps of optimizers as things to measure: all parameters at once, on flat arrays, as a trainer has them.

A parameter counts as one operation. Bytes count the gradient in, and parameters and state in and out. The error is that
of one more step than was timed, from the same numbers, against the reference room in float64.
"""

from math import nan

import numpy as np

import fastcnn
from fastcnn.backend import get
from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, layer_case
from fastcnn.bench.shapes.activation import Elementwise
from fastcnn.bench.shapes.optimizer import KINDS
from fastcnn.optimizers.rules import Optimizer
from fastcnn.optimizers.update import Update

PASSES = ("update",)
ALGORITHMS = ("auto", "direct")


def served_by(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def make(kind: str) -> Optimizer:
    """Return an optimizer of a kind."""
    name, arguments = KINDS[kind]
    optimizer: Optimizer = getattr(fastcnn, name)(**arguments)
    return optimizer


def case(problem: Elementwise, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return a step, with its arrays made."""
    backend, rng = get("cpu"), np.random.default_rng(0)
    values, gradients = (backend.empty((problem.elements,), np.dtype(dtype)) for _ in range(2))
    for array in (values, gradients):
        rng.standard_normal(dtype=array.dtype, out=array)
    optimizer, at = make(problem.kind), accuracy.drawn(problem.elements)
    call = Update(optimizer, backend, values, gradients).run

    def error() -> float:
        if not optimizer.steps:
            return nan
        twin, wanted = make(problem.kind), values[at].astype(np.float64)
        held = {name: array[at].astype(np.float64) for name, array in optimizer.state.items() if array.ndim}
        twin.state = held | {"step": optimizer.state["step"].copy()}
        call()
        twin.update(get("reference"), wanted, gradients[at].astype(np.float64))
        return accuracy.relative_error(values[at], wanted)

    moved = values.nbytes * (1 + 2 * (1 + len(optimizer.kept())))
    return layer_case("optimizer", problem, pass_name, "direct", dtype, problem.elements, moved, (call, error))
