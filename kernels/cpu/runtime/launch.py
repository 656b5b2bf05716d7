"""How many threads the kernels may use: what the process was given, never more.

The affinity mask, the control group's CPU quota and FASTCNN_NUM_THREADS each lower the count. Kernels cut
their work by shape alone, so the count changes the speed and not one bit of a result.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import config
from fastcnn.kernels.cpu.runtime.cpu_info import _requested_threads, available_cores
from fastcnn.kernels.cpu.runtime.thread_pool import Pool
from fastcnn.kernels.cpu.runtime.workspace import keeps, rehearse, rehearses

Entry = TypeVar("Entry", bound=Callable[..., None])

LAYER = "pool"  # the helpers of `thread_pool.py`, in reports


def thread_count() -> int:
    """Return the number of threads that kernels called from this Python thread use."""
    return _setting.threads


def thread_limit() -> int:
    """Return the largest number of threads that `set_thread_count` takes."""
    return config.NUMBA_NUM_THREADS


def set_thread_count(threads: int) -> None:
    """Use this many threads from now on, in kernels called from this Python thread.

    Raises
    ------
    ValueError
        If `threads` is below 1 or above `thread_limit()`.
    """
    if not 1 <= threads <= thread_limit():
        raise ValueError(
            f"threads (={threads}) must lie between 1 and {thread_limit()}, the cores of this process: "
            "give a number in that range."
        )
    _setting.threads = threads


def threads_for(worth: bool) -> int:
    """Return how many threads share a kernel's tasks: one where they are not `worth` waking others."""
    return _setting.threads if worth else 1


def ensure_helpers(threads: int) -> None:
    """Have helpers for kernels on so many threads: a process has none at first, and a forked child again none."""
    if POOL.helpers < threads - 1:
        POOL.grow(threads - 1)


def call_parallel(worth: bool, kernel: Any, *arguments: Any, packs: np.ndarray | None = None) -> None:
    """Call a kernel with its team (threads, address of the pool of helpers) before its other arguments.

    `packs` is what its results depend on alone, where they stand in memory that was asked for by `packed` (see
    `workspace.py`, for rehearsals, too: nothing is called in one).
    """
    threads = threads_for(worth)
    ensure_helpers(threads)
    call_serial(kernel, (threads, POOL.address), *arguments, packs=packs)


def call_serial(kernel: Any, *arguments: Any, packs: np.ndarray | None = None) -> None:
    """Call a kernel that has no team; the rest as in `call_parallel`."""
    if rehearses():
        rehearse(kernel, arguments)
        return
    kernel(*arguments)
    if _setting.launches is not None:
        _setting.launches.append(Launch(kernel, arguments, packs is not None and keeps(packs)))


class Launch(NamedTuple):
    """A kernel that a door has called, its arguments, and whether these stay as they are with a program's constants."""

    kernel: Any
    arguments: tuple[Any, ...]
    constant: bool


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Note the launches that this thread makes."""
    launches: list[Launch] = []
    _setting.launches = launches
    try:
        yield launches
    finally:
        _setting.launches = None


def runs_on_host(entry: Entry) -> Entry:
    """Mark an entry point that does more than launch kernels, or launches them with what it reads in arrays."""
    entry.runs_on_host = True  # type: ignore[attr-defined]
    return entry


class _Setting(threading.local):
    """What each Python thread has by itself: its number of threads, which must not change between a buffer's making
    and use, and the launches that it notes.
    """

    threads = min(_requested_threads() or thread_limit(), available_cores(), thread_limit())
    launches: list[Launch] | None = None


_setting = _Setting()
POOL = Pool()
