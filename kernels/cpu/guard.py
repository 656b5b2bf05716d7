"""Guards: kernels that look at numbers in memory and raise where nothing after them may run.

Between the calls of a program, a guard ends the run: what stands before it has run, what stands behind it has not.
"""

import math

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.threads import call_serial, repeatable


class GuardError(Exception):
    """What a guard raises; the numbers that it looked at tell more."""


@jit
def _stop_unless_finite(numbers):
    for i in range(numbers.size):
        if not math.isfinite(numbers[i]):
            raise GuardError


@repeatable
def stop_unless_finite(numbers):
    """Raise GuardError where one of the numbers is infinite or NaN."""
    call_serial(_stop_unless_finite, numbers)


@jit
def _stop_if_any(counts):
    for i in range(counts.size):
        if counts[i] != 0:
            raise GuardError


@repeatable
def stop_if_any(counts):
    """Raise GuardError where one of the counts is not 0."""
    call_serial(_stop_if_any, counts)
