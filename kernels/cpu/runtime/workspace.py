"""Scratch memory of the kernels: one growing buffer per workspace, purpose and dtype, aligned to cache lines.

Kernels allocate nothing themselves: a fresh allocation of this size would cost a page fault every 4 KiB, on every call.
Every Python thread has a workspace of its own, and may work in another one for a while (`enter`): what was planned on a
workspace can then be run by any thread, one at a time.
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


class Workspace:
    """Buffers that one thread at a time works with, where more come from, and whether kernels run or only ask."""

    def __init__(
        self,
        allocate: Allocate = aligned_empty,
        rehearses: bool = False,
        stand_in: StandIn | None = None,
        turn: int = 0,
    ) -> None:
        self.held: dict[tuple[str, np.dtype], np.ndarray] = {}
        self.allocate = allocate
        self.rehearses = rehearses
        self.stand_in = stand_in
        self.turn = turn  # the address of what `run_launches` takes, for workspaces whose threads take turns in Python
        self.state = object()  # another one whenever a buffer takes the place of another


class _Current(threading.local):
    """The workspace that a Python thread works in, and who keeps what it makes of constants."""

    def __init__(self) -> None:
        self.workspace = Workspace()
        self.keeper: Keeper | None = None


_current = _Current()


def enter(workspace: Workspace) -> Workspace:
    """Let this thread work in a workspace, which no other thread is in; return the one that it leaves."""
    before, _current.workspace = _current.workspace, workspace
    return before


def scratch(purpose: str, elements: int, dtype: np.dtype) -> np.ndarray:
    """Return a 1-D array of at least `elements`, valid until the same purpose is asked for in this workspace again."""
    workspace = _current.workspace
    buffer = workspace.held.get((purpose, dtype))
    if buffer is None or buffer.size < elements:
        buffer = workspace.held[purpose, dtype] = workspace.allocate(elements, dtype)
        workspace.state = object()
    return buffer


def turn() -> int:
    """Return the address of the word by which threads in workspaces like this thread's take turns in Python, or 0."""
    return _current.workspace.turn


def memory() -> object:
    """Return what stays the same object as long as the buffers of this thread's workspace stay where they are."""
    return _current.workspace.state


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
        array = _current.workspace.allocate(elements, dtype)
        self.bytes += array.nbytes
        self.add(array)
        return array


def _stretch(array: np.ndarray) -> tuple[int, int]:
    """Return the addresses from which and below which the elements of a contiguous array stand."""
    start = array.ctypes.data
    return start, start + array.nbytes


def packed(purpose: str, source: np.ndarray, elements: int, dtype: np.dtype) -> np.ndarray:
    """Return memory for what is made of `source` alone: scratch memory, or a keeper's where `source` is constant."""
    keeper = _current.keeper
    return keeper.take(elements, dtype) if keeper and keeper.holds(source) else scratch(purpose, elements, dtype)


def keeps(source: np.ndarray) -> bool:
    """Say whether what is made of `source` alone is kept."""
    return _current.keeper is not None and _current.keeper.holds(source)


def keep(source: np.ndarray, *made: np.ndarray) -> None:
    """Take arrays that are made of `source` alone for constant where that is."""
    if keeps(source):
        assert _current.keeper is not None
        _current.keeper.add(*made)


@contextmanager
def keeping(keeper: Keeper | None) -> Iterator[None]:
    """Let doors that this thread calls keep what they make of constants."""
    _current.keeper, before = keeper, _current.keeper
    try:
        yield
    finally:
        _current.keeper = before


def held_bytes() -> int:
    """Return the bytes of scratch memory in the calling thread's workspace."""
    return sum(buffer.nbytes for buffer in _current.workspace.held.values())


def release() -> None:
    """Drop the scratch memory in the calling thread's workspace; kernels make it again as they need it.

    >>> release()
    >>> held_bytes()
    0
    """
    _current.workspace.held.clear()
    _current.workspace.state = object()


def rehearses() -> bool:
    """Say whether the calling thread is in a `rehearsal`."""
    return _current.workspace.rehearses


def rehearse(kernel: Any, arguments: tuple[Any, ...]) -> None:
    """Do what a rehearsal does in place of a launch."""
    stand_in = _current.workspace.stand_in
    if stand_in is not None:
        stand_in(kernel, arguments)


@contextmanager
def rehearsal(allocate: Allocate, stand_in: StandIn | None = None) -> Iterator[None]:
    """Start no kernel that this thread calls, and count its scratch memory from none: `held_bytes` tells the sum.

    `allocate` makes the buffers, which hardly anybody writes; `stand_in` gets every launch.
    """
    before = enter(Workspace(allocate, rehearses=True, stand_in=stand_in))
    try:
        yield
    finally:
        enter(before)
