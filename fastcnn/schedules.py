"""Schedules: how the learning rate falls while training goes on.

A schedule takes the finished share of the training, 0 <= progress < 1, and returns the factor by
which the first learning rate is multiplied.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[float], float]

STEP_AT = (
    0.5,
    0.75,
)  # the shares of ResNet's schedule on CIFAR-10: 32,000 and 48,000 of 64,000 steps
STEP_FACTOR = 0.1


def constant(progress: float) -> float:
    """Return 1: the learning rate stays.

    >>> constant(0.9)
    1.0
    """
    return 1.0


def step(progress: float) -> float:
    """Divide by 10 after half and again after three quarters (He, Zhang, Ren, Sun 2016).

    >>> [round(step(progress), 6) for progress in (0.0, 0.5, 0.75)]
    [1.0, 0.1, 0.01]
    """
    return STEP_FACTOR ** sum(progress >= at for at in STEP_AT)


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov, Hutter 2017).

    >>> [round(cosine(progress), 6) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "step": step, "cosine": cosine}
