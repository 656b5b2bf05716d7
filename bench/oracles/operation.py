"""One operation beside its oracle: how it is made, what it is fed, and how far the two are apart.

The error is the largest difference over the largest magnitude of the oracle's value. Oracles work in float64 and
channels last, whatever the room and the dtype under test. Those in PyTorch give gradients by automatic differentiation;
those in NumPy, equations, by central differences along random directions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastcnn.arrays import Array, Shape

PYTORCH = "PyTorch"
STEP = 1e-6  # of central differences in float64: halves of the digits go to the step, half to the difference
DIRECTIONS = 3

Draw = Shape | Callable[[np.random.Generator], Array]
"""A shape to fill from a normal distribution, batch axis first, or a maker of an array; whole numbers are constants."""


@dataclass(frozen=True)
class Operation:
    """An operation and its oracle.

    make
        `make(dtype=..., device=...)` returns a layer, or a loss where `is_loss`.
    inputs
        What `forward` is given.
    oracle
        `oracle(torch, xs, params)` on float64 tensors, or `oracle(np, xs, params)` on arrays where `against` names an
        equation; `params` holds the layer's parameters by name. Returns the output, channels last.
    against
        "PyTorch", or the source of the equation.
    """

    name: str
    make: Callable[..., Any]
    inputs: tuple[Draw, ...]
    oracle: Callable[..., Any]
    against: str = PYTORCH
    is_loss: bool = False


class Errors(NamedTuple):
    """The largest relative errors of the outputs and of all gradients."""

    forward: float
    gradient: float


class Run(NamedTuple):
    """What went in and came out: arrays in float64, gradients by inputs (None: a constant) and by parameters."""

    xs: list[Array]
    params: dict[str, Array]
    y: Array
    dy: Array
    dxs: list[Array | None]
    grads: dict[str, Array]


def compare(operation: Operation, device: str, dtype: str, seed: int = 0) -> Errors:
    """Return how far an operation in one room and dtype is from its oracle."""
    done = run(operation, device, dtype, seed)
    if operation.against == PYTORCH:
        return _beside_pytorch(operation, done)
    return _beside_equation(operation, done, seed)


def run(operation: Operation, device: str, dtype: str, seed: int = 0) -> Run:
    """Run an operation forward and backward on numbers drawn from a seed."""
    rng = np.random.default_rng(seed)
    xs = [draw(rng) if callable(draw) else rng.standard_normal(draw) for draw in operation.inputs]
    # Both sides get the numbers that the narrower dtype holds.
    xs = [x.astype(dtype).astype(np.float64) if x.dtype.kind == "f" else x for x in xs]
    made = operation.make(dtype=dtype, device=device) if not operation.is_loss else operation.make(device=device)
    given = [x.astype(dtype) if x.dtype.kind == "f" else x for x in xs]
    if operation.is_loss:
        y, dy = np.array(made.forward(*given)), np.array(1.0)
        return Run(xs, {}, y, dy, [made.backward(), *[None] * (len(xs) - 1)], {})
    for value in made.params.values():
        value[...] += 0.1 * rng.standard_normal(value.shape)  # no bias stays zero
    params = {name: value.astype(np.float64) for name, value in made.params.items()}
    y = made.forward(*given)
    dy = rng.standard_normal(y.shape).astype(dtype).astype(np.float64)
    dxs = made.backward(dy.astype(dtype))
    dxs = list(dxs) if isinstance(dxs, tuple) else [dxs]
    kept = [dx if x.dtype.kind == "f" else None for x, dx in zip(xs, dxs, strict=True)]
    return Run(xs, params, y, dy, kept, {name: g.copy() for name, g in made.grads.items()})


def _apart(got: Array, want: Array) -> float:
    if got.shape != want.shape:
        raise ValueError(f"the operation gave shape {got.shape} and its oracle {want.shape}")
    if not want.size:
        return 0.0
    return float(np.abs(got - want).max() / max(np.abs(want).max(), np.finfo(float).tiny))


def _beside_pytorch(operation: Operation, done: Run) -> Errors:
    import torch

    def tensor(x: Array) -> Any:
        return torch.tensor(x, requires_grad=x.dtype.kind == "f")

    xs = [tensor(x) for x in done.xs]
    params = {name: tensor(value) for name, value in done.params.items()}
    y = operation.oracle(torch, xs, params)
    y.backward(torch.tensor(done.dy))
    pairs = [(dx, x.grad) for dx, x in zip(done.dxs, xs, strict=True) if dx is not None]
    pairs += [(done.grads[name], param.grad) for name, param in params.items()]
    gradients = [_apart(got, np.zeros_like(got) if want is None else want.numpy()) for got, want in pairs]
    return Errors(_apart(done.y, y.detach().numpy()), max(gradients, default=0.0))


def _beside_equation(operation: Operation, done: Run, seed: int) -> Errors:
    def loss(xs: Sequence[Array], params: dict[str, Array]) -> float:
        return float(np.sum(done.dy * operation.oracle(np, list(xs), params)))

    rng, gradients = np.random.default_rng(seed + 1), [0.0]
    places: list[tuple[Any, Array]] = [(i, dx) for i, dx in enumerate(done.dxs) if dx is not None]
    places += list(done.grads.items())
    for place, gradient in places:
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(gradient.shape)
            ends = []
            for sign in (1, -1):
                xs, params = list(done.xs), dict(done.params)
                held: Any = xs if isinstance(place, int) else params
                held[place] = held[place] + sign * STEP * direction
                ends.append(loss(xs, params))
            slope = (ends[0] - ends[1]) / (2 * STEP)
            scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction) / np.sqrt(gradient.size))
            gradients.append(abs(float(np.vdot(gradient, direction)) - slope) / max(scale, np.finfo(float).tiny))
    return Errors(_apart(done.y, np.asarray(operation.oracle(np, done.xs, done.params))), max(gradients))
