"""Schedules: how the learning rate, and with `OneCycle` the momentum, changes while training goes on.

A schedule is asked at every epoch or, with `by="step"`, at every step, how much of the first learning rate to use. It
is told the `Moment`: how far training is, and once after every epoch what the epoch gave. So those that follow the
progress and those that watch a result are one thing: `Trainer(..., schedule=Cosine())`.
"""

from collections.abc import Callable

from fastcnn.schedules.base import Length, Moment, Schedule
from fastcnn.schedules.curves import Constant, Cosine, Exponential, MultiStep, OneCycle, Step, Warmup
from fastcnn.schedules.plateau import ReduceOnPlateau

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Exponential",
    "Length",
    "Moment",
    "MultiStep",
    "OneCycle",
    "ReduceOnPlateau",
    "Schedule",
    "Step",
    "Warmup",
]

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
