"""What many ratios come to: their mean, that of the total times, and how they are spread.

A ratio is the peer's time over ours: above 1, ours is faster.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np

PERCENTILES = (5, 25, 50, 75, 95)


class Compared(Protocol):
    """A row, as far as it is compared."""

    @property
    def count(self) -> int:
        """How often a network holds the shape."""

    @property
    def median_ms(self) -> float:
        """Our time."""

    @property
    def peer_median_ms(self) -> float | None:
        """The peer's time, None without a peer."""

    @property
    def ratio(self) -> float | None:
        """The peer's time over ours."""


AnyRow = TypeVar("AnyRow", bound=Compared)


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the values that are there, None if none is.

    >>> round(geometric_mean([2.0, None, 8.0]), 12)
    4.0
    """
    present = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(present)))) if present else None


def total_ms(rows: Sequence[Compared]) -> tuple[float, float | None]:
    """Return our time and the peer's, each row as often as a network holds it; None if the peer lacks a row."""
    ours = sum(row.median_ms * row.count for row in rows)
    theirs = [row.peer_median_ms * row.count for row in rows if row.peer_median_ms is not None]
    return ours, sum(theirs) if len(theirs) == len(rows) else None


def total_ratio(rows: Sequence[Compared]) -> float | None:
    """Return the ratio of the total times, None without a peer."""
    ours, theirs = total_ms(rows)
    return theirs / ours if theirs is not None and ours else None


def distribution(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return how the values that are there are spread, None if none is.

    >>> distribution([0.5, 1.0, 1.5, 2.0, None])["share_below_1"]
    0.25
    """
    present = np.array([value for value in values if value is not None])
    if not present.size:
        return None
    percentiles = {f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(present, PERCENTILES), strict=True)}
    ends = {"min": float(present.min()), **percentiles, "max": float(present.max())}
    return {"rows": present.size, **ends, "share_below_1": float(np.mean(present < 1))}


def lowest(rows: Iterable[AnyRow], most: int, below: float = float("inf")) -> list[AnyRow]:
    """Return the rows with the lowest ratios, lowest first: those below a bound, and no more than `most`."""
    compared = [(row.ratio, number, row) for number, row in enumerate(rows) if row.ratio is not None]
    return [row for ratio, _, row in sorted(compared)[:most] if ratio < below]
