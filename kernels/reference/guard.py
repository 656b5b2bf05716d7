"""Guards: functions that look at numbers in memory and raise where nothing after them may run.

What ran before may have changed small arrays: `keep` takes copies first, so that they can be brought back.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.taps import Array


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
