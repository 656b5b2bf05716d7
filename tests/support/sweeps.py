"""Sweeps: every run takes a selection, `pytest -m exhaustive` what is left out of it.

The selection holds each value of each axis; the combinations of several axes, and most draws, are in the rest.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

SHARE = 4  # every run draws one of so many examples
# Which run this is, which conftest.py knows before a test is imported; and how many tests of each kind a file has.
run = SimpleNamespace(exhaustive=False, files=defaultdict(Counter))


def examples(count: int) -> Callable[[Any], Any]:
    """Have a property whose examples take long try `count` of them in the exhaustive run, and a share in every other.

    So the property stands in both.
    """
    if not run.exhaustive:
        return settings(max_examples=max(1, count // SHARE))
    return lambda test: pytest.mark.exhaustive(settings(max_examples=count)(test))


def selected(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Return values as parameters, all but `kept` marked as exhaustive."""
    values = list(values)
    if not kept or any(value not in values for value in kept):
        raise ValueError(f"{kept} must be some of {values}.")
    return [value if value in kept else pytest.param(value, marks=pytest.mark.exhaustive) for value in values]


def crossed(*axes: Iterable[Any]) -> list[Any]:
    """Return all combinations as parameters; a diagonal holds every value of every axis, the rest is exhaustive."""
    lists: list[Sequence[Any]] = [list(axis) for axis in axes]
    longest = max(len(axis) for axis in lists)
    diagonal = {tuple(i % len(axis) for axis in lists) for i in range(longest)}
    return [
        pytest.param(
            *(axis[i] for axis, i in zip(lists, place, strict=True)),
            marks=() if place in diagonal else pytest.mark.exhaustive,
        )
        for place in product(*(range(len(axis)) for axis in lists))
    ]
