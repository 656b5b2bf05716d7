"""Attributes whose every assignment is checked: what a constructor refuses cannot come in later, either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np

from fastcnn.errors import ArgumentError

Check: TypeAlias = Callable[[Any, str], Any]
"""From a value and the name that it was given under to what is kept of it; refuses what does not fit."""


class Checked:
    """The base of what has such attributes: `checks` by name. Reading one costs nothing.

    >>> from fastcnn.optimizers import SGD
    >>> optimizer = SGD(0.1)
    >>> optimizer.lr = -1
    Traceback (most recent call last):
        ...
    fastcnn.errors.ArgumentError: lr=-1 was given: it must be a finite number >= 0.
    >>> optimizer.lr
    0.1
    """

    checks: ClassVar[dict[str, Check]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        check = self.checks.get(name)
        super().__setattr__(name, value if check is None else check(value, name))


def truth(value: Any, name: str) -> bool:
    """Return `value` as a bool, or refuse what is neither that nor 0 or 1."""
    if not isinstance(value, bool | int | np.bool_ | np.integer) or value not in (0, 1):
        raise ArgumentError(f"{name}={value!r} was given: give True or False.")
    return bool(value)


def optional(check: Check) -> Check:
    """Return a check that takes None, too."""
    return lambda value, name: None if value is None else check(value, name)


def one_of(*choices: str) -> Check:
    """Return a check that takes some words."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ArgumentError(f"{name}={value!r} was given: choose {' or '.join(map(repr, choices))}.")
        return value

    return check
