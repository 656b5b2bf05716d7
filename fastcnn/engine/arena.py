"""One stretch of memory for all arrays of a plan: two that are never needed at one time may stand in one place.

Times are the steps of a run, counted through forward and backward pass.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fastcnn.arrays import Array
from fastcnn.backend import Backend


@dataclass(eq=False)
class Slot:
    """A place for some bytes from time `first` to time `last`, both included; `offset` is set by `place`."""

    size: int
    first: int
    last: int
    offset: int = 0

    def touch(self, time: int) -> None:
        """Keep the slot until this time."""
        self.last = max(self.last, time)


def place(slots: Iterable[Slot], alignment: int) -> int:
    """Give each slot an offset, a multiple of some bytes, and return the bytes that all need together.

    The largest choose first, each the lowest free place (Pisarchyk and Lee 2020, "greedy by size").

    >>> early, late, both = Slot(64, 0, 1), Slot(100, 2, 3), Slot(64, 1, 2)
    >>> place([early, late, both], 64), early.offset, late.offset, both.offset
    (192, 0, 0, 128)
    """
    placed: list[tuple[int, int, Slot]] = []
    end = 0
    for number, slot in enumerate(sorted(slots, key=lambda slot: -slot.size)):
        size, offset = -(-slot.size // alignment) * alignment, 0
        for start, _, other in placed:
            if other.first > slot.last or slot.first > other.last or start + other.size <= offset:
                continue
            if start >= offset + size:
                break
            offset = -(-(start + other.size) // alignment) * alignment
        slot.offset = offset
        insort(placed, (offset, number, slot))
        end = max(end, offset + size)
    return end


class Arena:
    """Memory that plans share of which one runs at a time; `generation` counts their forward passes."""

    def __init__(self, backend: Backend, size: int) -> None:
        self.size = size
        self.generation = 0
        self._bytes = backend.empty((size,), np.dtype(np.uint8))

    def array(self, slot: Slot, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Return the array of a slot."""
        return self._bytes[slot.offset : slot.offset + slot.size].view(dtype).reshape(shape)
