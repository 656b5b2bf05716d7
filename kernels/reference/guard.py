"""Guards: functions that look at numbers in memory and raise where nothing after them may run."""

import numpy as np
import numpy.typing as npt


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
