"""How many threads the kernels may use: what the process was given, never more.

The affinity mask, the control group's CPU quota and FASTCNN_NUM_THREADS each lower the count. Kernels cut
their work by shape alone, so the count changes the speed and not one bit of a result.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

config: Any = numba.config  # its names come from the environment when Numba is imported

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # control groups, version 2: "<quota> <period>" or "max <period>"


def available_cores() -> int:
    """Return the cores this process may use: its affinity mask, cut by its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))


def _requested_threads() -> int | None:
    text = os.environ.get("FASTCNN_NUM_THREADS")
    if text is None or not text.strip():
        return None
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"FASTCNN_NUM_THREADS must be a whole number from 1 up, not {text!r}.")
    return int(text)


def thread_count() -> int:
    """Return the number of threads that kernels called from this Python thread use."""
    return numba.get_num_threads()


def thread_limit() -> int:
    """Return the largest number of threads that `set_thread_count` takes."""
    return config.NUMBA_NUM_THREADS


def set_thread_count(threads: int) -> None:
    """Use this many threads from now on.

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
    numba.set_num_threads(threads)


def threads_for(worth: bool) -> int:
    """Return how many threads share a kernel's tasks: one where they are not `worth` waking others."""
    return numba.get_num_threads() if worth else 1


def call_parallel(worth: bool, kernel: Callable[..., None], *arguments: object) -> None:
    """Call a kernel with the number of its threads before its other arguments."""
    kernel(threads_for(worth), *arguments)


# A thread that waits for work spins for some microseconds, then sleeps. The OpenMP run-times would spin for
# milliseconds, in which another process could use the core, or the very thread that is waited for.
WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}  # of GNU (turns of a loop) and of LLVM (milliseconds)


def _configure() -> None:
    if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
        config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    wanted = min(_requested_threads() or thread_limit(), available_cores(), thread_limit())
    chosen = {"OMP_WAIT_POLICY", *WAITING} & os.environ.keys()
    os.environ.update({} if chosen else WAITING)
    try:
        numba.set_num_threads(wanted)  # loads the layer, which reads its environment
    finally:
        for name in set() if chosen else WAITING:
            del os.environ[name]


_configure()
