"""Schedules that follow the progress of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastcnn.checked import Check, truth
from fastcnn.errors import ArgumentError
from fastcnn.schedules.base import Length, Moment, Schedule, checked_length, in_steps
from fastcnn.shapes import below_one, number, whole

not_negative: Check = partial(number, low=0)
at_least_one: Check = partial(number, low=1)


def _step_size(value: Any, name: str) -> int:
    return whole(value, 1, name)


def _milestones(value: Any, name: str) -> tuple[Length, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ArgumentError(f"{name}={value!r} was given: give a list of epochs or of shares below 1.")
    return tuple(checked_length(at, name) for at in value)


def _follower(value: Any, name: str) -> Schedule:
    if not isinstance(value, Schedule):
        raise ArgumentError(f"Warmup got {value!r}: give the schedule that follows, such as Cosine().")
    return value


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

    Parameters
    ----------
    step_size
        Epochs, a whole number >= 1.
    gamma
        The factor, from 0 up.

    >>> [round(Step(2).at(Moment(epoch, 6)), 6) for epoch in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """

    checks = Schedule.checks | {"step_size": _step_size, "gamma": not_negative}

    def __init__(self, step_size: int, gamma: float = 0.1, *, by: str = "epoch") -> None:
        super().__init__(by)
        self.step_size = step_size
        self.gamma = gamma

    def at(self, moment: Moment) -> float:
        """Return gamma to the number of whole step sizes that have passed."""
        return float(self.gamma ** (moment.step // (self.step_size * moment.per_epoch)))


class MultiStep(Schedule):
    """Multiply by gamma at every milestone: epochs, or shares of the training.

    Parameters
    ----------
    milestones
        Whole numbers count epochs, those below 1 are shares of the training. The default is ResNet's on CIFAR-10,
        32,000 and 48,000 of 64,000 steps (He, Zhang, Ren, Sun 2016).
    gamma
        The factor, from 0 up.

    >>> [round(MultiStep().at(Moment(step, 4)), 6) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    checks = Schedule.checks | {"milestones": _milestones, "gamma": not_negative}

    def __init__(self, milestones: Sequence[Length] = (0.5, 0.75), gamma: float = 0.1, *, by: str = "epoch") -> None:
        super().__init__(by)
        self.milestones = milestones
        self.gamma = gamma

    def at(self, moment: Moment) -> float:
        """Return gamma to the number of milestones that have passed."""
        return float(self.gamma ** sum(moment.step >= in_steps(at, moment) for at in self.milestones))


class Exponential(Schedule):
    """Multiply by gamma every epoch.

    Parameters
    ----------
    gamma
        The factor, from 0 up; by="step" it is spread over the steps of an epoch.

    >>> Exponential(0.5).at(Moment(3, 10))
    0.125
    """

    checks = Schedule.checks | {"gamma": not_negative}

    def __init__(self, gamma: float = 0.95, *, by: str = "epoch") -> None:
        super().__init__(by)
        self.gamma = gamma

    def at(self, moment: Moment) -> float:
        """Return gamma to the number of epochs done."""
        return float(self.gamma**moment.epoch)


class Cosine(Schedule):
    """Fall from 1 to `final` along half a cosine (Loshchilov and Hutter 2017).

    Parameters
    ----------
    final
        The factor that the training ends towards, from 0 up.

    >>> [round(Cosine().at(Moment(step, 4)), 6) for step in range(5)]
    [1.0, 0.853553, 0.5, 0.146447, 0.0]
    """

    checks = Schedule.checks | {"final": not_negative}

    def __init__(self, final: float = 0.0, *, by: str = "epoch") -> None:
        super().__init__(by)
        self.final = final

    def at(self, moment: Moment) -> float:
        """Return the height of the cosine."""
        height = 0.5 * (1.0 + math.cos(math.pi * moment.progress))
        return self.final + (1.0 - self.final) * height if self.final else height


class Warmup(Schedule):
    """Rise in a line from `first` to 1 for a while, then follow another schedule from its start (Goyal et al. 2017).

    Parameters
    ----------
    schedule
        What follows, None for a rate that stays.
    length
        How long it rises: a whole number of epochs, or below 1 a share of the training.
    first
        The first factor, from 0 up.

    >>> rise = Warmup(Cosine(), length=2, first=0.5, by="epoch")
    >>> [rise.at(Moment(epoch, 6)) for epoch in range(3)]
    [0.5, 0.75, 1.0]
    """

    checks = Schedule.checks | {"schedule": _follower, "length": checked_length, "first": not_negative}

    def __init__(
        self, schedule: Schedule | None = None, length: Length = 0.05, first: float = 0.1, *, by: str = "step"
    ) -> None:
        super().__init__(by)
        self.schedule = Constant(by) if schedule is None else schedule
        self.cycle_momentum = self.schedule.cycle_momentum
        self.length = length
        self.first = first

    def at(self, moment: Moment) -> float:
        """Return the height of the line, or the factor of the schedule that follows."""
        warm = self._warm(moment)
        if moment.step < warm:
            return self.first + (1.0 - self.first) * moment.step / warm
        return self.schedule.at(self._after(moment))

    def momentum_at(self, moment: Moment) -> float | None:
        """Return the momentum that the schedule that follows sets, its first one until then."""
        return self.schedule.momentum_at(self._after(moment))

    def _warm(self, moment: Moment) -> int:
        return min(in_steps(self.length, moment), moment.steps - 1)

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
    final_div_factor), as PyTorch's OneCycleLR with max_lr the optimizer's own rate.

    Parameters
    ----------
    pct_start
        The share of the steps in which the rate rises, from 0 to 1.
    div_factor
        The first rate is the optimizer's by this, at least 1.
    final_div_factor
        The last rate is the first one by this, at least 1.
    cycle_momentum
        Whether momentum, or Adam's betas[0], goes the other way: from `max_momentum` to `base_momentum` and back.
    base_momentum, max_momentum
        Its least and its largest value, from 0 to below 1.

    >>> cycle = OneCycle(pct_start=0.5)
    >>> [(round(cycle.at(Moment(i, 6)), 4), round(cycle.momentum_at(Moment(i, 6)), 4)) for i in (0, 1, 2, 5)]
    [(0.04, 0.95), (0.52, 0.9), (1.0, 0.85), (0.0, 0.95)]
    """

    checks = Schedule.checks | {
        "pct_start": partial(number, low=0, high=1), "div_factor": at_least_one, "final_div_factor": at_least_one,
        "cycle_momentum": truth, "base_momentum": below_one, "max_momentum": below_one,
    }  # fmt: skip

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
        self.pct_start = pct_start
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.cycle_momentum = cycle_momentum
        self.base_momentum = base_momentum
        self.max_momentum = max_momentum

    def at(self, moment: Moment) -> float:
        """Return the factor of the learning rate."""
        low = 1.0 / self.div_factor
        return self._between(moment, low, 1.0, low / self.final_div_factor)

    def momentum_at(self, moment: Moment) -> float | None:
        """Return the momentum, None if it stays."""
        if not self.cycle_momentum:
            return None
        return self._between(moment, self.max_momentum, self.base_momentum, self.max_momentum)

    def _between(self, moment: Moment, first: float, middle: float, last: float) -> float:
        """Return the height of two cosines through these values, whose ends are steps."""
        top, end = self.pct_start * moment.steps - 1, moment.steps - 1
        if moment.step <= top:
            return _along_cosine(first, middle, moment.step / top if top > 0 else 1.0)
        top = max(top, 0.0)
        return _along_cosine(middle, last, (moment.step - top) / (end - top) if end > top else 0.0)


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))
