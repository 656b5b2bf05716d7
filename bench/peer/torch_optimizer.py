"""PyTorch's side of optimizers: a step on one parameter, which is kinder to it than the many of a network."""

from collections.abc import Callable

import torch

from fastcnn.bench.shapes.activation import Elementwise
from fastcnn.bench.shapes.optimizer import KINDS

Calls = dict[str, Callable[[], object]]

FUSED = ("SGD", "Adam", "AdamW", "Adagrad")  # have one kernel for a step on CPUs; others a loop over lists


def calls(problem: Elementwise, dtype: str) -> Calls:
    """Return a step as it is by default, and in PyTorch's faster form."""
    torch.manual_seed(0)
    values, gradients = (torch.randn(problem.elements, dtype=getattr(torch, dtype)) for _ in range(2))
    form = "fused" if KINDS[problem.kind][0] in FUSED else "foreach"
    return {
        "default": call(problem.kind, values.clone(), gradients),
        form: call(problem.kind, values, gradients, form),
    }


def call(kind: str, values: torch.Tensor, gradients: torch.Tensor, form: str = "") -> Callable[[], torch.Tensor]:
    """Return a call of one step, which changes the values and returns them."""
    name, arguments = KINDS[kind]
    parameter = torch.nn.Parameter(values)
    parameter.grad = gradients
    optimizer = getattr(torch.optim, name)([parameter], **arguments, **({form: True} if form else {}))

    def step() -> torch.Tensor:
        optimizer.step()
        return parameter.detach()

    return step
