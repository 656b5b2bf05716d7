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

    Parameters are those of PyTorch's ReduceLROnPlateau: `mode` "min" or "max", `threshold` how
    much better counts as better (a share of the best result's magnitude, or by `threshold_mode` "abs" the difference
    itself), `cooldown` epochs of rest after a change, `min_lr` the least learning rate, `eps` the least change of it.
    `metric` names the number to watch in an epoch's record; by default "val_loss", or "val_accuracy" for mode "max".
    An epoch without such a number (an accuracy where every label was ignored) counts for nothing.

    PyTorch takes the share of the result itself, which for one below 0 makes a worse one count as better.

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
