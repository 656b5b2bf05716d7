"""Scratch memory of the kernels: one growing buffer per Python thread, purpose and dtype, aligned to cache lines.

Kernels allocate nothing themselves: a fresh allocation of this size would cost a page fault every 4 KiB, on every call.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

Allocate: TypeAlias = Callable[[int, np.dtype], np.ndarray]
"""A maker of 1-D arrays that start on a cache line."""

StandIn: TypeAlias = Callable[[Any, tuple[Any, ...]], None]
"""What is called with a kernel and its arguments in place of the kernel."""

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
        self.stand_in: StandIn | None = None
        self.state = object()  # another one whenever a buffer takes the place of another
        self.keeper: Keeper | None = None


_buffers = _Buffers()


def scratch(purpose: str, elements: int, dtype: np.dtype) -> np.ndarray:
    """Return a 1-D array of at least `elements`, valid until this thread asks for the same purpose again."""
    buffer = _buffers.held.get((purpose, dtype))
    if buffer is None or buffer.size < elements:
        buffer = _buffers.held[purpose, dtype] = _buffers.allocate(elements, dtype)
        _buffers.state = object()
    return buffer


def memory() -> object:
    """Return what stays the same object as long as this thread's buffers stay where they are."""
    return _buffers.state


class Keeper:
    """Memory for what is made of constant arrays alone; what is made of that is constant, too."""

    def __init__(self, constants: Sequence[np.ndarray]) -> None:
        self._stretches = [_stretch(array) for array in constants]
        self.bytes = 0

    def holds(self, array: np.ndarray) -> bool:
        """Say whether an array is constant; one without elements is."""
        start, stop = _stretch(array)
        return array.size == 0 or any(first <= start and stop <= after for first, after in self._stretches)

    def add(self, *arrays: np.ndarray) -> None:
        """Take arrays for constant ones."""
        self._stretches += [_stretch(array) for array in arrays]

    def take(self, elements: int, dtype: np.dtype) -> np.ndarray:
        """Return memory that is constant, for the caller to fill."""
        array = _buffers.allocate(elements, dtype)
        self.bytes += array.nbytes
        self.add(array)
        return array


def _stretch(array: np.ndarray) -> tuple[int, int]:
    """Return the addresses from which and below which the elements of a contiguous array stand."""
    start = array.ctypes.data
    return start, start + array.nbytes


def packed(purpose: str, source: np.ndarray, elements: int, dtype: np.dtype) -> np.ndarray:
    """Return memory for what is made of `source` alone: scratch memory, or a keeper's where `source` is constant."""
    keeper = _buffers.keeper
    return keeper.take(elements, dtype) if keeper and keeper.holds(source) else scratch(purpose, elements, dtype)


def keeps(source: np.ndarray) -> bool:
    """Say whether what is made of `source` alone is kept."""
    return _buffers.keeper is not None and _buffers.keeper.holds(source)


def keep(source: np.ndarray, *made: np.ndarray) -> None:
    """Take arrays that are made of `source` alone for constant where that is."""
    if keeps(source):
        assert _buffers.keeper is not None
        _buffers.keeper.add(*made)


@contextmanager
def keeping(keeper: Keeper | None) -> Iterator[None]:
    """Let doors that this thread calls keep what they make of constants."""
    _buffers.keeper, before = keeper, _buffers.keeper
    try:
        yield
    finally:
        _buffers.keeper = before


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
    _buffers.state = object()


def rehearses() -> bool:
    """Say whether the calling thread is in a `rehearsal`."""
    return _buffers.rehearses


def rehearse(kernel: Any, arguments: tuple[Any, ...]) -> None:
    """Do what a rehearsal does in place of a launch."""
    if _buffers.stand_in is not None:
        _buffers.stand_in(kernel, arguments)


@contextmanager
def rehearsal(allocate: Allocate, stand_in: StandIn | None = None) -> Iterator[None]:
    """Start no kernel that this thread calls, and count its scratch memory from none: `held_bytes` tells the sum.

    `allocate` makes the buffers, which hardly anybody writes; `stand_in` gets every launch.
    """
    before = vars(_buffers).copy()
    _buffers.held, _buffers.allocate, _buffers.rehearses, _buffers.stand_in = {}, allocate, True, stand_in
    try:
        yield
    finally:
        vars(_buffers).update(before)
