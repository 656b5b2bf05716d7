"""Schedules: how the learning rate, and with `OneCycle` the momentum, changes while training goes on.

A schedule is asked at every epoch or, with `by="step"`, at every step, how much of the first learning rate to use. It
is told the `Moment`: how far training is, and once after every epoch what the epoch gave. So those that follow the
progress and those that watch a result are one thing: `Trainer(..., schedule=Cosine())`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from fastcnn.errors import ArgumentError
from fastcnn.shapes import below_one, is_int, number, whole

BY = ("epoch", "step")


@dataclass(frozen=True)
class Moment:
    """Where training is: `step` of `steps` are done, counted in what the schedule goes by; an epoch has `per_epoch`.

    `record` holds the numbers of the epoch that has just ended, else None; `lr` is the first learning rate.
    """

    step: int
    steps: int
    per_epoch: int = 1
    record: Mapping[str, Any] | None = None
    lr: float = 1.0

    @property
    def progress(self) -> float:
        """The share of the training that is done, from 0 to below 1."""
        return self.step / self.steps

    @property
    def epoch(self) -> float:
        """How many epochs are done; part of one counts, where the schedule goes by steps."""
        return self.step / self.per_epoch


Length: TypeAlias = int | float
"""A time in training: whole numbers count epochs, those below 1 are shares of all."""


class Schedule(ABC):
    """The base of all schedules; `by` says whether they are asked every "epoch" or every "step"."""

    cycle_momentum: bool = False
    """Whether the schedule sets the optimizer's momentum, too."""

    def __init__(self, by: str = "epoch") -> None:
        if by not in BY:
            raise ArgumentError(f"by={by!r} was given: a schedule goes by 'epoch' or by 'step'.")
        self.by = by

    @abstractmethod
    def at(self, moment: Moment) -> float:
        """Return the factor of the first learning rate."""

    def momentum_at(self, moment: Moment) -> float:
        """Return the momentum itself, of schedules that set it."""
        raise NotImplementedError(f"{type(self).__name__} sets no momentum")

    def start(self) -> None:
        """Forget what was seen: training begins."""
        return

    def watches(self) -> str | None:
        """Return the name of the number in a record that the schedule needs, None if it needs none."""
        return None


class Constant(Schedule):
    """The learning rate stays.

    >>> Constant().at(Moment(9, 10))
    1.0
    """

    def at(self, moment: Moment) -> float:
        """Return 1."""
        return 1.0


class Step(Schedule):
    """Multiply by gamma after every `step_size` epochs.

    >>> [round(Step(2).at(Moment(epoch, 6)), 6) for epoch in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """

    def __init__(self, step_size: int, gamma: float = 0.1, *, by: str = "epoch") -> None:
        super().__init__(by)
        self.step_size = whole(step_size, 1, "step_size")
        self.gamma = number(gamma, "gamma", 0)

    def at(self, moment: Moment) -> float:
        """Return gamma to the number of whole step sizes that have passed."""
        return float(self.gamma ** (moment.step // (self.step_size * moment.per_epoch)))


class MultiStep(Schedule):
    """Multiply by gamma at every milestone: epochs, or shares of the training.

    The default is ResNet's on CIFAR-10, 32,000 and 48,000 of 64,000 steps (He, Zhang, Ren, Sun 2016).

    >>> [round(MultiStep().at(Moment(step, 4)), 6) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    def __init__(self, milestones: Sequence[Length] = (0.5, 0.75), gamma: float = 0.1, *, by: str = "epoch") -> None:
        super().__init__(by)
        if not isinstance(milestones, Sequence) or isinstance(milestones, str):
            raise ArgumentError(f"milestones={milestones!r} was given: give a list of epochs or of shares below 1.")
        self.milestones = tuple(_length(at, "milestones") for at in milestones)
        self.gamma = number(gamma, "gamma", 0)

    def at(self, moment: Moment) -> float:
        """Return gamma to the number of milestones that have passed."""
        return float(self.gamma ** sum(moment.step >= _in_steps(at, moment) for at in self.milestones))


class Exponential(Schedule):
    """Multiply by gamma every epoch.

    >>> Exponential(0.5).at(Moment(3, 10))
    0.125
    """

    def __init__(self, gamma: float = 0.95, *, by: str = "epoch") -> None:
        super().__init__(by)
        self.gamma = number(gamma, "gamma", 0)

    def at(self, moment: Moment) -> float:
        """Return gamma to the number of epochs done."""
        return float(self.gamma**moment.epoch)


class Cosine(Schedule):
    """Fall from 1 to `final` along half a cosine (Loshchilov and Hutter 2017).

    >>> [round(Cosine().at(Moment(step, 4)), 6) for step in range(5)]
    [1.0, 0.853553, 0.5, 0.146447, 0.0]
    """

    def __init__(self, final: float = 0.0, *, by: str = "epoch") -> None:
        super().__init__(by)
        self.final = number(final, "final", 0)

    def at(self, moment: Moment) -> float:
        """Return the height of the cosine."""
        height = 0.5 * (1.0 + math.cos(math.pi * moment.progress))
        return self.final + (1.0 - self.final) * height if self.final else height


class Warmup(Schedule):
    """Rise in a line from `first` to 1 for a while, then follow another schedule from its start (Goyal et al. 2017).

    >>> rise = Warmup(Cosine(), length=2, first=0.5, by="epoch")
    >>> [rise.at(Moment(epoch, 6)) for epoch in range(3)]
    [0.5, 0.75, 1.0]
    """

    def __init__(
        self, schedule: Schedule | None = None, length: Length = 0.05, first: float = 0.1, *, by: str = "step"
    ) -> None:
        super().__init__(by)
        self.schedule = Constant(by) if schedule is None else schedule
        if not isinstance(self.schedule, Schedule):
            raise ArgumentError(f"Warmup got {schedule!r}: give the schedule that follows, such as Cosine().")
        self.cycle_momentum = self.schedule.cycle_momentum
        self.length = _length(length, "length")
        self.first = number(first, "first", 0)

    def at(self, moment: Moment) -> float:
        """Return the height of the line, or the factor of the schedule that follows."""
        warm = self._warm(moment)
        if moment.step < warm:
            return self.first + (1.0 - self.first) * moment.step / warm
        return self.schedule.at(self._after(moment))

    def momentum_at(self, moment: Moment) -> float:
        """Return the momentum that the schedule that follows sets, its first one until then."""
        return self.schedule.momentum_at(self._after(moment))

    def _warm(self, moment: Moment) -> int:
        return min(_in_steps(self.length, moment), moment.steps - 1)

    def _after(self, moment: Moment) -> Moment:
        """Return the moment as the schedule that follows sees it."""
        warm = self._warm(moment)
        return replace(moment, step=max(moment.step - warm, 0), steps=moment.steps - warm)

    def start(self) -> None:
        """Forget what was seen."""
        self.schedule.start()

    def watches(self) -> str | None:
        """Return what the schedule that follows needs."""
        return self.schedule.watches()


class OneCycle(Schedule):
    """Rise to the learning rate along a cosine, then fall far below the start (Smith and Topin 2018).

    The factor goes from 1 / div_factor to 1 in the share `pct_start` of the steps, then to 1 / (div_factor *
    final_div_factor), as PyTorch's OneCycleLR with max_lr the optimizer's own rate. Momentum, or Adam's betas[0], goes
    the other way: from `max_momentum` to `base_momentum` and back. With `cycle_momentum=False` it stays.

    >>> cycle = OneCycle(pct_start=0.5)
    >>> [(round(cycle.at(Moment(i, 6)), 4), round(cycle.momentum_at(Moment(i, 6)), 4)) for i in (0, 1, 2, 5)]
    [(0.04, 0.95), (0.52, 0.9), (1.0, 0.85), (0.0, 0.95)]
    """

    def __init__(
        self,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        *,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        by: str = "step",
    ) -> None:
        super().__init__(by)
        self.pct_start = number(pct_start, "pct_start", 0, 1)
        self.div_factor = number(div_factor, "div_factor", 1)
        self.final_div_factor = number(final_div_factor, "final_div_factor", 1)
        self.cycle_momentum = bool(cycle_momentum)
        self.base_momentum = below_one(base_momentum, "base_momentum")
        self.max_momentum = below_one(max_momentum, "max_momentum")

    def at(self, moment: Moment) -> float:
        """Return the factor of the learning rate."""
        low = 1.0 / self.div_factor
        return self._between(moment, low, 1.0, low / self.final_div_factor)

    def momentum_at(self, moment: Moment) -> float:
        """Return the momentum."""
        return self._between(moment, self.max_momentum, self.base_momentum, self.max_momentum)

    def _between(self, moment: Moment, first: float, middle: float, last: float) -> float:
        """Return the height of two cosines through these values, whose ends are steps."""
        top, end = self.pct_start * moment.steps - 1, moment.steps - 1
        if moment.step <= top:
            return _along_cosine(first, middle, moment.step / top if top > 0 else 1.0)
        top = max(top, 0.0)
        return _along_cosine(middle, last, (moment.step - top) / (end - top) if end > top else 0.0)


class ReduceOnPlateau(Schedule):
    """Multiply by `factor` when a result has not improved for more than `patience` epochs.

    Parameters are those of PyTorch's ReduceLROnPlateau: `mode` "min" or "max", `threshold` how
    much better counts as better (relative, or absolute by `threshold_mode` "abs"), `cooldown` epochs of rest after a
    change, `min_lr` the least learning rate, `eps` the least change of it. `metric` names the number to watch in an
    epoch's record; by default "val_loss", or "val_accuracy" for mode "max".

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


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))


def _length(value: Any, name: str) -> Length:
    found = number(value, name, 0)
    if found >= 1 and not is_int(value) and not found.is_integer():
        raise ArgumentError(f"{name}={value!r} was given: give whole epochs, or a share below 1.")
    return int(found) if found >= 1 else found


def _in_steps(length: Length, moment: Moment) -> int:
    """Return the first step at which a length has passed."""
    return int(length) * moment.per_epoch if length >= 1 else math.ceil(length * moment.steps)


PLATEAU_PATIENCE = 3  # epochs: the trainings of the command line have tens

SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "constant": Constant,
    "step": MultiStep,
    "exponential": Exponential,
    "cosine": Cosine,
    "warmup": lambda: Warmup(Cosine(by="step")),
    "onecycle": OneCycle,
    # By the loss in training: what is tested on chooses nothing.
    "plateau": lambda: ReduceOnPlateau(patience=PLATEAU_PATIENCE, metric="loss"),
}
"""The schedules of the command line."""
