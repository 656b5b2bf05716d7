"""The helpers: threads that wait for a job, join it while it has free seats, and leave.

A caller opens its job, works on it itself, closes it, and waits for those alone that have joined. So it never waits for
a helper that the operating system has not let run: beside other processes on the same cores, that would cost a slice of
their time in every call. Helpers wait in a short spin, then asleep.

One word holds the state of the job: its number, the free seats, the helpers inside. One job is open at a time; the
callers of others meanwhile (from several Python threads) do theirs by themselves.
"""

import atexit
import ctypes
import os
import sys
import threading
import time
from _thread import start_new_thread

import numpy as np
from numba import types

from fastcnn.kernels.cpu.runtime.atomics import add, call, pause, read, replace, write
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.workspace import LINE, aligned_empty

# Words of the pool, as offsets in bytes; those that threads write to stand on cache lines of their own.
TAKEN, STATE, SLEEPERS, ENTRY, JOB, HELPERS, STOPPED, ENDED = (i * LINE for i in range(8))
LOCK, BELL = 8 * LINE, 10 * LINE  # a mutex and a condition variable of the operating system, at most 128 bytes
C_LOCK, C_UNLOCK, C_WAIT, C_RING, C_YIELD = (12 * LINE + 8 * i for i in range(5))  # addresses of its functions
POOL_BYTES = 13 * LINE

# The state: number << 32 | free seats << 16 | helpers inside.
NUMBER, SEATS = 32, 16
INSIDE = (1 << SEATS) - 1

HELPER_SPINS = 2000  # pauses, of some 20 ns: more than Python takes between two kernels, much less than a time slice
CALLER_SPINS = 2000  # then it yields its core, which the helper may need
NAMES = {
    True: "AcquireSRWLockExclusive ReleaseSRWLockExclusive SleepConditionVariableSRW WakeAllConditionVariable "
    "SwitchToThread",
    False: "pthread_mutex_lock pthread_mutex_unlock pthread_cond_wait pthread_cond_broadcast sched_yield",
}  # on Windows, and elsewhere


@jit(inner=True)
def _open_job(pool, seats, entry, job):
    """Offer the job at address `job`, run by entry(job, thread), to so many helpers; the caller holds the pool."""
    write(pool + ENTRY, entry)
    write(pool + JOB, job)
    write(pool + STATE, ((read(pool + STATE) >> NUMBER) + 1 << NUMBER) + (seats << SEATS))
    if read(pool + HELPERS) - read(pool + SLEEPERS) < seats:
        _ring(pool)


@jit(inner=True)
def _close_job(pool):
    """Let nobody else join, and return when those who joined have left."""
    state = read(pool + STATE)
    while not replace(pool + STATE, state, state & ~(INSIDE << SEATS)):
        state = read(pool + STATE)
    spins = 0
    while read(pool + STATE) & INSIDE:
        pause()
        spins += 1
        if spins > CALLER_SPINS:
            call(read(pool + C_YIELD), 0, 0, 0, 0)


def work(pool, threads, entry, job):
    """Do a job in so many threads, this one among them; `share` compiles this."""
    if threads > 1 and replace(pool + TAKEN, 0, 1):
        _open_job(pool, threads - 1, entry, job)
        call(entry, job, 0, 0, 0)
        _close_job(pool)
        write(pool + TAKEN, 0)
    else:
        call(entry, job, 0, 0, 0)


@jit(inner=True)
def _ring(pool):
    call(read(pool + C_LOCK), pool + LOCK, 0, 0, 0)
    call(read(pool + C_RING), pool + BELL, 0, 0, 0)
    call(read(pool + C_UNLOCK), pool + LOCK, 0, 0, 0)


@jit(inner=True)
def _is_open(pool, last):
    """Say whether there is a job with a free seat other than number `last`."""
    state = read(pool + STATE)
    return state >> NUMBER != last and state >> SEATS & INSIDE > 0


@jit(inner=True)
def _wait(pool, last):
    """Return when a job other than number `last` may have a seat, or when the pool stops."""
    for _ in range(HELPER_SPINS):
        if _is_open(pool, last) or read(pool + STOPPED):
            return
        pause()
    call(read(pool + C_LOCK), pool + LOCK, 0, 0, 0)
    add(pool + SLEEPERS, 1)
    while not (_is_open(pool, last) or read(pool + STOPPED)):
        call(read(pool + C_WAIT), pool + BELL, pool + LOCK, -1, 0)
    add(pool + SLEEPERS, -1)
    call(read(pool + C_UNLOCK), pool + LOCK, 0, 0, 0)


@jit
def _help(pool):
    """Be a helper until the pool stops: join every job once."""
    last = 0
    while not read(pool + STOPPED):
        _wait(pool, last)
        state = read(pool + STATE)
        number, seat = state >> NUMBER, state >> SEATS & INSIDE
        if number == last or seat == 0 or not replace(pool + STATE, state, state - (1 << SEATS) + 1):
            continue
        last = number
        call(read(pool + ENTRY), read(pool + JOB), seat, 0, 0)
        add(pool + STATE, -1)
    add(pool + ENDED, 1)


@jit
def ring(pool):
    """Wake the helpers that sleep."""
    _ring(pool)


class Pool:
    """The helpers of this process; a forked child starts with none and makes its own."""

    def __init__(self) -> None:
        windows = sys.platform == "win32"
        self._words = aligned_empty(POOL_BYTES // 8, np.dtype(np.int64))
        self.address = self._words.ctypes.data
        self._system = ctypes.WinDLL("kernel32") if windows else ctypes.CDLL(None)  # type: ignore[attr-defined]
        functions = [getattr(self._system, name) for name in NAMES[windows].split()]
        self._functions = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)
        atexit.register(self._stop)

    def _reset(self) -> None:
        self._words.fill(0)
        self._words[C_LOCK // 8 : C_LOCK // 8 + len(self._functions)] = self._functions
        self.helpers = 0
        self._growing = threading.Lock()  # a new one: the fork may have copied one that is held
        if sys.platform != "win32":
            self._system.pthread_mutex_init(ctypes.c_void_p(self.address + LOCK), None)
            self._system.pthread_cond_init(ctypes.c_void_p(self.address + BELL), None)

    def grow(self, helpers: int) -> None:
        """Have so many helpers, or as many as the system grants."""
        with self._growing:
            if self.helpers < helpers:
                _help.compile((types.int64,))
            while self.helpers < helpers:
                try:
                    start_new_thread(_help, (self.address,))
                except RuntimeError:
                    break
                self.helpers += 1
                self._words[HELPERS // 8] = self.helpers

    def _stop(self) -> None:
        """End the helpers before the machine code they run goes."""
        self._words[STOPPED // 8] = 1
        ring(self.address)
        deadline = time.monotonic() + 1
        while self._words[ENDED // 8] < self.helpers and time.monotonic() < deadline:
            time.sleep(1e-4)
