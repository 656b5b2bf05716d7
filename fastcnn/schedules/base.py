"""What every schedule is, what it is told, and how times in training are written."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from fastcnn.arguments import ChecksArguments
from fastcnn.checked import Check, Checked
from fastcnn.docstrings import Described
from fastcnn.errors import ArgumentError
from fastcnn.representation import Written
from fastcnn.shapes import is_int, number

BY = ("epoch", "step")


@dataclass(frozen=True)
class Moment:
    """Where training is.

    Parameters
    ----------
    step, steps
        How many are done, of how many: epochs or steps, as the schedule goes by.
    per_epoch
        How many an epoch has.
    record
        The numbers of the epoch that has just ended, else None.
    lr
        The first learning rate.
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


def _by(value: Any, name: str) -> Any:
    if value not in BY:
        raise ArgumentError(f"by={value!r} was given: a schedule goes by 'epoch' or by 'step'.")
    return value


class Schedule(ChecksArguments, Checked, Written, Described, ABC):
    """The base of all schedules.

    All arguments are attributes, too; those that the constructor would refuse are refused where they are assigned.

    Parameters
    ----------
    by
        Whether it is asked, and the rate changes, at every "epoch" or at every "step".

    Raises
    ------
    ArgumentError
        If an argument is none of those described.
    """

    checks: ClassVar[dict[str, Check]] = {"by": _by}

    cycle_momentum: bool = False
    """Whether the schedule sets the optimizer's momentum, too."""

    def __init__(self, by: str = "epoch") -> None:
        self.by = by

    @abstractmethod
    def at(self, moment: Moment) -> float:
        """Return the factor of the first learning rate.

        Parameters
        ----------
        moment
            How far training is.
        """

    def momentum_at(self, moment: Moment) -> float | None:
        """Return the momentum itself, None if the optimizer's stays.

        Parameters
        ----------
        moment
            How far training is.
        """
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
