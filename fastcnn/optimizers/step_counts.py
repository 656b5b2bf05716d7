"""How many steps an optimizer has taken on each stretch of flat parameters, where some were frozen for a while."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

Stretch: TypeAlias = tuple[int, int, int]


def add_step(taken: Sequence[Stretch], trained: Sequence[tuple[int, int]]) -> list[tuple[Stretch, bool]]:
    """Return the stretches (start, stop, steps taken) after a step of some, and whether each took part in it.

    >>> add_step([(0, 10, 5)], [(2, 4)])
    [((0, 2, 5), False), ((2, 4, 6), True), ((4, 10, 5), False)]
    """
    edges = sorted({edge for start, stop, *_ in [*taken, *trained] for edge in (start, stop)})
    rows: list[tuple[Stretch, bool]] = []
    for start, stop in pairwise(edges):
        steps = next(count for a, b, count in taken if a <= start < b)
        takes = any(a <= start < b for a, b in trained)
        row = (start, stop, steps + takes), takes
        if rows and rows[-1][0][2] == row[0][2] and rows[-1][1] == takes:
            row = (rows.pop()[0][0], stop, steps + takes), takes
        rows.append(row)
    return rows
