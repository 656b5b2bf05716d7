"""Programs: what doors launched once, launched again without them, all in one call from Python.

A door chooses the kernels for its arrays' shapes, plans their cuts and finds scratch memory, in Python. Called again
with the same arrays it would launch the same kernels with the same arguments: so a program runs its calls twice through
the doors (the first time scratch memory still grows), notes the launches, and from then on repeats those. A launch is
an entry point and a block of words, the kernel's arguments as machine code takes them; one kernel goes through a list
of launches. Calls of entry points that are marked by `runs_on_host`, and of functions of others, stay calls.

A kernel that raises ends the run where it stands. Guards are such kernels: they look at numbers in memory, and keep
what follows from running. What ran before may have changed small arrays: `keep` takes copies first, so that they can be
brought back.

A program may keep what is packed from constant arrays (filters, folded normalizations) in memory of its own: those
launches are repeated only where the constants may have changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import (
    POOL,
    Launch,
    call_serial,
    ensure_helpers,
    recording,
    thread_count,
)
from fastcnn.kernels.cpu.runtime.native_launch import _native, run_launches
from fastcnn.kernels.cpu.runtime.workspace import Keeper, keeping, memory, rehearses, turn
from fastcnn.kernels.cpu.simd.copy import array_at

Call: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]
"""A door, or any function, and its arguments."""


ROOM = "fastcnn.kernels.cpu."


class Program:
    """Calls to be run many times on the same arrays.

    Parameters
    ----------
    calls
        Functions and their arguments. What an entry point of this room does must not depend on anything but numbers
        and shapes in Python, unless it is marked by `runs_on_host`.
    constants
        The arrays that change only where `run` is told; None keeps nothing.
    """

    def __init__(self, calls: Sequence[Call], constants: Sequence[np.ndarray] | None = None) -> None:
        self._calls = list(calls)
        self._constants = constants
        self._keeper: Keeper | None = None
        self._state: object = None  # of the memory that the calls last ran in, and on how many threads
        self._threads = 0
        self._tape: _Tape | None = None
        self._version: object = None

    @property
    def kept_bytes(self) -> int:
        """The bytes that the program keeps of what is packed from constants."""
        return self._keeper.bytes if self._keeper else 0

    def run(self, version: object = None) -> None:
        """Run the calls; constants are as they were at the last run that was given an equal `version`, but for None.

        What a call raises ends the run: the calls before it have run, and those after it have not.
        """
        state, threads = memory(), thread_count()
        tape = self._tape
        if tape is None or self._state is not state or self._threads != threads:  # never so in a rehearsal
            self._run_and_note(version, state, threads)
            return
        ensure_helpers(threads)
        if version is None or version != self._version:
            tape.prepare()
            self._version = version
        tape.run()

    def _run_and_note(self, version: object, state: object, threads: int) -> None:
        """Run every call through its entry point; where that is for the second time in one place, note the launches."""
        is_second = self._state is state and self._threads == threads and not rehearses()
        self._tape, tape = None, _Tape()
        self._run_calls(tape)
        if is_second and memory() is state and thread_count() == threads:
            self._tape, self._version = tape.joined(), version
        if not rehearses():
            state, threads = memory(), thread_count()
        self._state, self._threads = state, threads

    def _run_calls(self, tape: _Tape) -> None:
        """Run every call through its door, and note on a tape what to do in its place."""
        self._keeper = None if self._constants is None else Keeper(self._constants)
        with keeping(self._keeper):
            for function, arguments in self._calls:
                if is_captured(function):
                    with recording() as launches:
                        function(*arguments)
                    tape.add_launches(launches)
                else:
                    run_call(function, arguments)
                    tape.add_call(function, arguments)


def is_captured(function: Callable[..., None]) -> bool:
    """Say whether programs repeat the launches of a call in its place: all of this room but what runs on the host."""
    if not isinstance(function, FunctionType):  # a method, or a kernel without its entry point
        return False
    return function.__module__.startswith(ROOM) and not hasattr(function, "runs_on_host")


def run_call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Call a function; what overflows becomes infinite without a warning, as it does in kernels."""
    with np.errstate(over="ignore", invalid="ignore"):
        function(*arguments)


class _Tape:
    """What a program does from its third run on."""

    def __init__(self) -> None:
        self._constant: list[Launch | Call] = []
        self._others: list[Launch | Call] = []
        self._steps: tuple[list[Call], list[Call]] = [], []

    def add_launches(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            (self._constant if launch.constant else self._others).append(launch)

    def add_call(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._others.append((function, arguments))

    def joined(self) -> _Tape:
        """Make one call of launches that follow each other; return the tape."""
        self._steps = _joined(self._constant), _joined(self._others)
        return self

    def prepare(self) -> None:
        """Do what depends on constants alone."""
        for function, arguments in self._steps[0]:
            function(*arguments)

    def run(self) -> None:
        """Do all the rest."""
        for function, arguments in self._steps[1]:
            function(*arguments)


def _joined(parts: Sequence[Launch | Call]) -> list[Call]:
    """Return calls that do the parts in order, with one call for launches that follow each other."""
    steps: list[Call] = []
    stretch: list[tuple[Launch, int, np.ndarray]] = []

    def close() -> None:
        if stretch:
            steps.append((_run_stretch, (_table(stretch), list(stretch))))
            stretch.clear()

    for part in parts:
        native = _native(part) if isinstance(part, Launch) else None
        if isinstance(part, Launch) and native is not None:
            stretch.append((part, *native))
            continue
        close()
        steps.append((part.kernel, part.arguments) if isinstance(part, Launch) else (run_call, part))
    close()
    return steps


def _table(stretch: Sequence[tuple[Launch, int, np.ndarray]]) -> np.ndarray:
    return np.array([(entry, words.ctypes.data) for _, entry, words in stretch], np.int64)


def _run_stretch(table: np.ndarray, stretch: Sequence[tuple[Launch, int, np.ndarray]]) -> None:
    """Run the launches of a table; `stretch` holds the memory that it points to."""
    failed = run_launches(table, turn(), POOL.address)
    if failed < len(table):
        kernel, arguments, _ = stretch[failed][0]
        kernel(*arguments)  # only called from Python does it raise
        raise RuntimeError(f"the kernel {kernel.__name__} failed, and did not when it was called again.")


class GuardError(Exception):
    """What a guard raises; the numbers that it looked at tell more."""


@jit
def _stop_unless_finite(numbers):
    for i in range(numbers.size):
        if not math.isfinite(numbers[i]):
            raise GuardError


def stop_unless_finite(numbers):
    """Raise GuardError where one of the numbers is infinite or NaN."""
    call_serial(_stop_unless_finite, numbers)


@jit
def _stop_if_any(counts):
    for i in range(counts.size):
        if counts[i] != 0:
            raise GuardError


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


def stop_if_spoilt(arrays, kept):
    """Raise GuardError where an element is infinite or NaN, and was finite when `keep` filled kept (n,)."""
    call_serial(_stop_if_spoilt, *_places(arrays), kept)


def _places(arrays):
    """Return the addresses and the sizes of arrays."""
    return np.array([a.ctypes.data for a in arrays], np.int64), np.array([a.size for a in arrays], np.int64)
