"""Guards: kernels that look at numbers in memory and raise where nothing after them may run.

Between the calls of a program, a guard ends the run: what stands before it has run, what stands behind it has not.
What ran before may have changed small arrays: `keep` takes copies first, so that they can be brought back.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.addresses import array_at
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


@jit
def _keep(places, sizes, kept):
    start = 0
    for i in range(places.size):
        array = array_at(places[i], kept)
        for j in range(sizes[i]):
            kept[start + j] = array[j]
        start += sizes[i]


@repeatable
def keep(arrays, kept):
    """Fill kept (n,) with the elements of some arrays of its dtype, in order."""
    call_serial(_keep, *_places(arrays), kept)


@jit
def _stop_if_spoilt(places, sizes, kept):
    start = 0
    for i in range(places.size):
        array = array_at(places[i], kept)
        for j in range(sizes[i]):
            if math.isfinite(kept[start + j]) and not math.isfinite(array[j]):
                raise GuardError
        start += sizes[i]


@repeatable
def stop_if_spoilt(arrays, kept):
    """Raise GuardError where an element is infinite or NaN, and was finite when `keep` filled kept (n,)."""
    call_serial(_stop_if_spoilt, *_places(arrays), kept)


def _places(arrays):
    """Return the addresses and the sizes of arrays."""
    return np.array([a.ctypes.data for a in arrays], np.int64), np.array([a.size for a in arrays], np.int64)
