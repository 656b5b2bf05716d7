"""Attributes whose every assignment is checked: what a constructor refuses cannot come in later, either."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, TypeAlias

import numpy as np

from fastcnn.errors import ArgumentError

Check: TypeAlias = Callable[[Any, str], Any]
"""From a value and the name that it was given under to what is kept of it; refuses what does not fit."""


class Checked:
    """The base of what has such attributes: `checks` by name. Each is a property; a class may write its own.

    >>> from fastcnn.optimizers.rules import SGD
    >>> optimizer = SGD(0.1)
    >>> optimizer.lr = -1
    Traceback (most recent call last):
        ...
    fastcnn.errors.ArgumentError: lr=-1 was given: it must be a finite number >= 0.
    >>> optimizer.lr
    0.1
    """

    checks: ClassVar[dict[str, Check]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name, check in cls.checks.items():
            if name not in vars(cls):
                setattr(cls, name, _checked(name, check))


def _checked(name: str, check: Check) -> property:
    """Return an attribute that is read at the speed of a plain one."""

    def assign(owner: object, value: Any) -> None:
        setattr(owner, f"_{name}", check(value, name))

    return property(attrgetter(f"_{name}"), assign, doc=f"The argument `{name}`, which may be assigned.")


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
