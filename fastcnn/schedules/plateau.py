"""The schedule that watches a result."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from fastcnn.checked import Check, one_of
from fastcnn.schedules.base import Moment, Schedule
from fastcnn.shapes import number, whole

not_negative: Check = partial(number, low=0)


def _count(value: Any, name: str) -> int:
    return whole(value, 0, name)


def _factor(value: Any, name: str) -> float:
    return number(value, "factor", 0, 1)


class ReduceOnPlateau(Schedule):
    """Multiply by `factor` when a result has not improved for more than `patience` epochs.

    An epoch without the number to watch (an accuracy where every label was ignored) counts for nothing. Arguments are
    those of PyTorch's ReduceLROnPlateau, which takes the share of the result itself: below 0 a worse one counts there.

    Parameters
    ----------
    mode
        Whether "min", less, or "max", more, is better.
    factor
        From 0 to 1.
    patience
        Epochs without a better result that change nothing yet.
    threshold
        How much better counts as better, from 0 up.
    threshold_mode
        Whether that is a share of the best result's magnitude, "rel", or an amount, "abs".
    cooldown
        Epochs of rest after a change.
    min_lr
        The least learning rate.
    eps
        The least change of the learning rate; smaller ones are not made.
    metric
        The number to watch in an epoch's record; None takes "val_loss", or "val_accuracy" for mode "max".

    >>> plateau = ReduceOnPlateau(patience=0)
    >>> [plateau.at(Moment(epoch, 9, record={"val_loss": loss})) for epoch, loss in enumerate([2.0, 1.0, 1.0], 1)]
    [1.0, 1.0, 0.1]
    """

    checks = Schedule.checks | {
        "mode": one_of("min", "max"), "threshold_mode": one_of("rel", "abs"), "reduction": _factor,
        "patience": _count, "cooldown": _count, "threshold": not_negative, "min_lr": not_negative, "eps": not_negative,
    }  # fmt: skip

    def __init__(
        self,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        *,
        metric: str | None = None,
    ) -> None:
        super().__init__("epoch")
        self.mode, self.threshold_mode = mode, threshold_mode
        self.reduction = factor
        self.patience, self.cooldown = patience, cooldown
        self.threshold, self.min_lr = threshold, min_lr
        self.eps = eps
        self.metric = metric or ("val_loss" if mode == "min" else "val_accuracy")
        self.start()

    @property
    def factor(self) -> float:
        """Another name of `reduction`, the constructor's."""
        return self.reduction

    def start(self) -> None:
        """Forget the best result and the changes."""
        self._factor, self._bad, self._rest = 1.0, 0, 0
        self._best = math.inf if self.mode == "min" else -math.inf

    def watches(self) -> str:
        """Return the metric."""
        return self.metric

    def at(self, moment: Moment) -> float:
        """Return the factor; where an epoch has just ended, look at its result first."""
        result = None if moment.record is None else moment.record[self.metric]
        if result is not None:
            self._look(float(result), moment.lr)
        return self._factor

    def _is_better(self, value: float) -> bool:
        sign, best = (1 if self.mode == "min" else -1), self._best
        if self.threshold_mode == "abs" or math.isinf(best):
            return sign * value < sign * best - self.threshold
        return sign * value < sign * best * (1 - sign * math.copysign(self.threshold, best))

    def _look(self, value: float, lr: float) -> None:
        if self._is_better(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._rest:
            self._rest, self._bad = self._rest - 1, 0
        if self._bad <= self.patience:
            return
        lower = max(lr * self._factor * self.reduction, self.min_lr)
        if lr and lr * self._factor - lower > self.eps:
            self._factor = self._factor * self.reduction if lower > self.min_lr else self.min_lr / lr
        self._rest, self._bad = self.cooldown, 0
