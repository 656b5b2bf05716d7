"""Programs: lists of calls, some of which are guards.

A guard looks at numbers in memory and raises where nothing after it may run. What ran before may have changed small
arrays: `keep` takes copies first, so that they can be brought back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array


class Program:
    """Calls to be run many times on the same arrays; nothing is kept of the constants."""

    kept_bytes = 0

    def __init__(
        self,
        calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]],
        constants: Sequence[np.ndarray] | None = None,
    ) -> None:
        self._calls = list(calls)

    def run(self, version: object = None) -> None:
        """Run the calls; what overflows becomes infinite without a warning."""
        with np.errstate(over="ignore", invalid="ignore"):
            for function, arguments in self._calls:
                function(*arguments)


class GuardError(Exception):
    """What a guard raises; the numbers that it looked at tell more."""


def stop_unless_finite(numbers: npt.NDArray[np.float64]) -> None:
    """Raise GuardError where one of the numbers is infinite or NaN."""
    if not np.isfinite(numbers).all():
        raise GuardError


def stop_if_any(counts: npt.NDArray[np.int64]) -> None:
    """Raise GuardError where one of the counts is not 0."""
    if counts.any():
        raise GuardError


def keep(arrays: Sequence[Array], kept: Array) -> None:
    """Fill kept (n,) with the elements of some arrays of its dtype, in order."""
    kept[...] = _joined(arrays)


def stop_if_spoilt(arrays: Sequence[Array], kept: Array) -> None:
    """Raise GuardError where an element is infinite or NaN, and was finite when `keep` filled kept (n,)."""
    if (np.isfinite(kept) & ~np.isfinite(_joined(arrays))).any():
        raise GuardError


def _joined(arrays: Sequence[Array]) -> Array:
    return np.concatenate([array.reshape(-1) for array in arrays])
