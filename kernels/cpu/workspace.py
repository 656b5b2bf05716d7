"""Scratch memory of the kernels: one growing buffer per Python thread, purpose and dtype, aligned to cache lines.

Kernels allocate nothing themselves: a fresh allocation of this size would cost a page fault every 4 KiB, on every call.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

Allocate: TypeAlias = Callable[[int, np.dtype], np.ndarray]
"""A maker of 1-D arrays that start on a cache line."""

LINE = 64  # bytes of a cache line; also the widest vector


def aligned_empty(elements: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised 1-D array that starts on a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(elements * itemsize + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + elements * itemsize].view(dtype)


class _Buffers(threading.local):
    """What a Python thread holds, where more of it comes from, and whether its kernels run or only ask for it."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, np.dtype], np.ndarray] = {}
        self.allocate: Allocate = aligned_empty
        self.rehearses = False


_buffers = _Buffers()


def scratch(purpose: str, elements: int, dtype: np.dtype) -> np.ndarray:
    """Return a 1-D array of at least `elements`, valid until this thread asks for the same purpose again."""
    buffer = _buffers.held.get((purpose, dtype))
    if buffer is None or buffer.size < elements:
        buffer = _buffers.held[purpose, dtype] = _buffers.allocate(elements, dtype)
    return buffer


def held_bytes() -> int:
    """Return the bytes of scratch memory that the calling thread holds."""
    return sum(buffer.nbytes for buffer in _buffers.held.values())


def release() -> None:
    """Drop the calling thread's scratch memory; kernels make it again as they need it.

    >>> release()
    >>> held_bytes()
    0
    """
    _buffers.held.clear()


def rehearses() -> bool:
    """Say whether the calling thread is in a `rehearsal`."""
    return _buffers.rehearses


@contextmanager
def rehearsal(allocate: Allocate) -> Iterator[None]:
    """Start no kernel that this thread calls, and count its scratch memory from none: `held_bytes` tells the sum.

    `allocate` makes the buffers, which hardly anybody writes.
    """
    before = vars(_buffers).copy()
    _buffers.held, _buffers.allocate, _buffers.rehearses = {}, allocate, True
    try:
        yield
    finally:
        vars(_buffers).update(before)
