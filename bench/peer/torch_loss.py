"""PyTorch's side of losses: a number, or its gradient as automatic differentiation gives it to users."""

from collections.abc import Callable
from math import prod

import torch

from fastcnn.bench.shapes.activation import Elementwise
from fastcnn.bench.shapes.loss import FROM_LABELS, SMOOTHING

Calls = dict[str, Callable[[], object]]
functional = torch.nn.functional

# Takes rows alone, or, in PyTorch 2.13, has no gradient by pixels that lie channels last.
BY_ROWS = ("hinge", "nll")

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "cross_entropy_smoothed": lambda y, t: functional.cross_entropy(y, t, label_smoothing=SMOOTHING),
    "cross_entropy_soft": functional.cross_entropy,
    "nll": functional.nll_loss,
    "hinge": functional.multi_margin_loss,
    "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    "squared_error": functional.mse_loss,
    "smooth_l1": functional.smooth_l1_loss,
    "l1": functional.l1_loss,
}


Put = Callable[[torch.Tensor], torch.Tensor]


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


PIXELS: dict[str, Put] = {"nchw": torch.Tensor.contiguous, "channels_last": _channels_last}
ROWS: dict[str, Put] = {"rows": torch.Tensor.contiguous, "columns": lambda x: x.t().contiguous().t()}


def calls(problem: Elementwise, pass_name: str, dtype: str) -> Calls:
    """Return one pass in each layout: pixels in the two of images, images' outputs by rows or by columns."""
    by_rows = prod(problem.image) == 1 or problem.kind in BY_ROWS
    y, t = _drawn(problem, by_rows, dtype)
    return {
        layout: call(problem.kind, pass_name, put(y), put(t) if t.is_floating_point() else t)
        for layout, put in (ROWS if by_rows else PIXELS).items()
    }


def _drawn(problem: Elementwise, by_rows: bool, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs (N, K, ...) and targets drawn at random."""
    torch.manual_seed(0)
    N, K, image = problem.batch, problem.channels, problem.image
    pixels = image[1:] if image[0] == 1 else image
    shape = [N * prod(image), K] if by_rows else [N, K, *pixels]
    y, t = (torch.randn(shape, dtype=getattr(torch, dtype)) for _ in range(2))
    if problem.kind in FROM_LABELS:
        t = torch.randint(K, [shape[0], *shape[2:]])
    elif problem.kind == "cross_entropy_soft":
        t = torch.softmax(t, 1)
    elif problem.kind == "binary_cross_entropy":
        t = torch.sigmoid(t)
    return (torch.log_softmax(y, 1) if problem.kind == "nll" else y), t


def call(kind: str, pass_name: str, y: torch.Tensor, t: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return a call of one pass of the mean over all terms."""
    loss = LOSSES[kind]
    if pass_name == "forward":
        return lambda: loss(y, t)
    given = y.detach().requires_grad_()
    value = loss(given, t)
    return lambda: torch.autograd.grad(value, given, retain_graph=True)[0]
