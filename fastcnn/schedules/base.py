"""What every schedule is, what it is told, and how times in training are written."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastcnn.arguments import ChecksArguments
from fastcnn.errors import ArgumentError
from fastcnn.shapes import is_int, number

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


class Schedule(ChecksArguments, ABC):
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

    def momentum_at(self, moment: Moment) -> float | None:
        """Return the momentum itself, None if the optimizer's stays."""
        return None

    def start(self) -> None:
        """Forget what was seen: training begins."""
        return

    def watches(self) -> str | None:
        """Return the name of the number in a record that the schedule needs, None if it needs none."""
        return None


def checked_length(value: Any, name: str) -> Length:
    """Return a time in training, or refuse parts of epochs."""
    found = number(value, name, 0)
    if found >= 1 and not is_int(value) and not found.is_integer():
        raise ArgumentError(f"{name}={value!r} was given: give whole epochs, or a share below 1.")
    return int(found) if found >= 1 else found


def in_steps(length: Length, moment: Moment) -> int:
    """Return the first step at which a length has passed."""
    return int(length) * moment.per_epoch if length >= 1 else math.ceil(length * moment.steps)
