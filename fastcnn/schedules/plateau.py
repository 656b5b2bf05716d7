"""The schedule that watches a result."""

from __future__ import annotations

import math

from fastcnn.errors import ArgumentError
from fastcnn.schedules.base import Moment, Schedule
from fastcnn.shapes import number, whole


class ReduceOnPlateau(Schedule):
    """Multiply by `factor` when a result has not improved for more than `patience` epochs.

    Arguments are those of PyTorch's ReduceLROnPlateau.

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
        Whether that is a share of the best result, "rel", or an amount, "abs".
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
        for value, names, what in ((mode, ("min", "max"), "mode"), (threshold_mode, ("rel", "abs"), "threshold_mode")):
            if value not in names:
                raise ArgumentError(f"{what}={value!r} was given: choose {' or '.join(map(repr, names))}.")
        self.mode, self.threshold_mode = mode, threshold_mode
        self.reduction = number(factor, "factor", 0, 1)
        self.patience, self.cooldown = whole(patience, 0, "patience"), whole(cooldown, 0, "cooldown")
        self.threshold, self.min_lr = number(threshold, "threshold", 0), number(min_lr, "min_lr", 0)
        self.eps = number(eps, "eps", 0)
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
        if moment.record is not None:
            self._look(float(moment.record[self.metric]), moment.lr)
        return self._factor

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "rel":
            return sign * value < sign * self._best * (1 - sign * self.threshold)
        return sign * value < sign * self._best - self.threshold

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
