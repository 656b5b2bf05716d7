"""Losses beside PyTorch's or their equations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastcnn import (
    L1,
    NLL,
    BinaryCrossEntropy,
    CrossEntropy,
    Hinge,
    MeanSquaredError,
    SmoothL1,
    SumSquaredError,
)
from fastcnn.arrays import Array, Shape
from fastcnn.bench.oracles.operation import Draw, Operation
from fastcnn.bench.oracles.tensors import first

K = 6
IGNORED = 4
WEIGHTS = (0.5, 2.0, 1.0, 0.25, 3.0, 1.5)
IMAGE = (3, 5, 4)


def _labels(shape: Shape) -> Callable[[np.random.Generator], Array]:
    return lambda rng: rng.integers(0, K, shape)


def _shares(shape: Shape) -> Callable[[np.random.Generator], Array]:
    return lambda rng: rng.uniform(0, 1, shape)


def _probabilities(shape: Shape) -> Callable[[np.random.Generator], Array]:
    return lambda rng: rng.dirichlet(np.ones(K), shape)


def _log_shares(shape: Shape) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.log(rng.dirichlet(np.ones(K), shape))


def _torch(name: str, weights: str = "", **how: Any) -> Callable[..., Any]:
    """Return PyTorch's function by name; labels and channels stand where it wants them."""

    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        y, t = xs
        more = {weights: torch.tensor(WEIGHTS, dtype=torch.float64)} if weights else {}
        if y.dim() > 2 and name in ("cross_entropy", "nll_loss"):
            y = first(y).contiguous()
            t = first(t).contiguous() if t.dim() == y.dim() else t
        return getattr(torch.nn.functional, name)(y, t, **how, **more)

    return oracle


def _hinge_rows(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    scores, labels = xs
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    rows = scores.reshape(-1, K), labels.reshape(-1)
    return torch.nn.functional.multi_margin_loss(*rows, p=2, margin=0.7, weight=weight)


def _half_squares(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    return 0.5 * ((xs[0] - xs[1]) ** 2).sum()


def _loss(name: str, make: Callable[..., Any], inputs: tuple[Draw, ...], oracle: Callable[..., Any]) -> Operation:
    return Operation(name, make, inputs, oracle, is_loss=True)


ROWS: tuple[Draw, ...] = ((7, K), _labels((7,)))
PIXELS: tuple[Draw, ...] = ((*IMAGE, K), _labels(IMAGE))
NUMBERS: tuple[Draw, ...] = ((*IMAGE, K), (*IMAGE, K))
SHARES: tuple[Draw, ...] = ((*IMAGE, K), _shares((*IMAGE, K)))

OPERATIONS = [
    _loss("CrossEntropy", CrossEntropy, ROWS, _torch("cross_entropy")),
    _loss(
        "CrossEntropy, of pixels, weighted",
        partial(CrossEntropy, WEIGHTS, IGNORED), PIXELS, _torch("cross_entropy", "weight", ignore_index=IGNORED),
    ),
    _loss(
        "CrossEntropy, smoothed, weighted",
        partial(CrossEntropy, WEIGHTS, IGNORED, label_smoothing=0.2),
        PIXELS, _torch("cross_entropy", "weight", ignore_index=IGNORED, label_smoothing=0.2),
    ),
    _loss(
        "CrossEntropy, smoothed, sum",
        partial(CrossEntropy, label_smoothing=0.1, reduction="sum"),
        ROWS, _torch("cross_entropy", label_smoothing=0.1, reduction="sum"),
    ),
    _loss(
        "CrossEntropy, from probabilities", CrossEntropy, ((7, K), _probabilities((7,))), _torch("cross_entropy")
    ),
    _loss(
        "CrossEntropy, from probabilities of pixels, smoothed, weighted",
        partial(CrossEntropy, WEIGHTS, label_smoothing=0.2),
        ((*IMAGE, K), _probabilities(IMAGE)), _torch("cross_entropy", "weight", label_smoothing=0.2),
    ),
    _loss(
        "CrossEntropy, from probabilities, smoothed, sum",
        partial(CrossEntropy, label_smoothing=0.1, reduction="sum"),
        ((7, K), _probabilities((7,))), _torch("cross_entropy", label_smoothing=0.1, reduction="sum"),
    ),
    _loss("NLL", NLL, (_log_shares((7,)), _labels((7,))), _torch("nll_loss")),
    _loss(
        "NLL, of pixels, weighted",
        partial(NLL, WEIGHTS, IGNORED),
        (_log_shares(IMAGE), _labels(IMAGE)), _torch("nll_loss", "weight", ignore_index=IGNORED),
    ),
    _loss("Hinge", Hinge, ROWS, _torch("multi_margin_loss")),
    _loss("Hinge, squared, of pixels, weighted", partial(Hinge, 2, 0.7, WEIGHTS), PIXELS, _hinge_rows),
    _loss("BinaryCrossEntropy", BinaryCrossEntropy, SHARES, _torch("binary_cross_entropy_with_logits")),
    _loss(
        "BinaryCrossEntropy, weighted",
        partial(BinaryCrossEntropy, WEIGHTS, "sum"),
        SHARES, _torch("binary_cross_entropy_with_logits", "pos_weight", reduction="sum"),
    ),
    _loss("MeanSquaredError", MeanSquaredError, NUMBERS, _torch("mse_loss")),
    _loss("SumSquaredError", SumSquaredError, NUMBERS, _half_squares),
    _loss("SmoothL1", partial(SmoothL1, beta=0.8), NUMBERS, _torch("smooth_l1_loss", beta=0.8)),
    _loss("L1", L1, NUMBERS, _torch("l1_loss")),
]  # fmt: skip
