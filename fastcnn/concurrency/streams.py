"""Streams: who computes now, and on what memory.

A pass through a network takes a stream of its device, runs on what the network has planned for that stream, and gives
it back: so one network serves several Python threads, each with its own arrays. There are as many streams as cores;
further threads wait their turn. A thread that comes back at once finds its stream again, and others take it over after
a slice of time: handing it on at every call would cost more than a small network takes. Where calls take long, waiting
threads get streams of their own.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from ctypes import c_int64
from math import inf
from time import monotonic
from typing import Any
from weakref import WeakSet

# In seconds. A thread that calls again and again keeps its stream for a slice, and longer if nobody waits: systems may
# take milliseconds until the threads that compute then stand on different cores.
SLICE = 0.05
CHECK = 0.0005  # after which a thread that computes looks again whether it is another's turn
AWAY = 0.0002  # for which a thread may do something else without being taken not to come back
PATIENCE = 0.25  # after which a thread that waits gets another stream


class Stream:
    """What one thread at a time computes on: scratch memory, and a key for what networks keep for it."""

    __slots__ = ("__weakref__", "before", "due", "pace", "passes", "seen", "since", "workspace")

    def __init__(self, workspace: Any) -> None:
        self.workspace = workspace
        self.before: Any = None  # the workspace that the thread which holds the stream has left for it
        self.passes = 0  # how often it has been given back
        self.since = 0.0  # when it came to its thread from another that waited, too
        self.seen = 0, 0.0  # its passes at its last check, and the time
        self.pace = 0.0  # the seconds a pass took then
        self.due = 0  # the passes at which to check again

    def begin(self) -> None:
        """Note that it comes to another thread, which may take any time for a pass."""
        self.since = monotonic()
        self.seen, self.pace, self.due = (self.passes, self.since), inf, 0

    def check(self, now: float) -> bool:
        """Say whether its thread should keep it: that has not had its time, and comes back at once."""
        passes, time = self.seen
        pace = (now - time) / (self.passes - passes)
        comes_back = pace <= 4 * self.pace + AWAY
        self.seen, self.pace = (self.passes, now), pace
        self.due = self.passes + int(CHECK / max(pace, 1e-6))
        return comes_back and now - self.since < SLICE


class _Waiter:
    """A thread that waits for a stream."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.pause = SLICE
        self.gate = threading.Lock()
        self.gate.acquire()


class Streams:
    """The streams of a device.

    Parameters
    ----------
    limit
        How many there are, as long as threads do not wait too long.
    make
        Makes the scratch memory of one, from a word that is 1 while a thread with a stream is in Python, and else 0.
    enter
        Lets the calling thread use some scratch memory, and returns what it has used before.
    """

    def __init__(self, limit: int, make: Any, enter: Any) -> None:
        self._limit, self._make, self._enter = limit, make, enter
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._idle: list[Stream] = []
        self._streams: WeakSet[Stream] = WeakSet()  # one that an interrupt has lost is none any more
        self._is_crowded = False  # whether there may be more than the limit
        self._queue: deque[_Waiter] = deque()
        self._left: tuple[tuple[int, int], float] = (0, 0), 0.0  # an idle stream, by its passes, and when it was seen
        self._turn = c_int64(0)

    def next(self) -> Stream:
        """Return the stream that a thread would get now."""
        stream = self.take(enter=False)
        self.give(stream)
        return stream

    def take(self, enter: bool = True) -> Stream:
        """Return a stream that is this thread's until it gives it back; `enter` lets it use its scratch memory."""
        try:
            stream = self._idle.pop()  # one step, which no other thread interrupts
        except IndexError:
            stream = self._take_another()
        if enter:
            stream.before = self._enter(stream.workspace)
            self._turn.value = 1
        return stream

    def give(self, stream: Stream) -> None:
        """Give a stream back, and go on with the scratch memory that this thread has used before."""
        if stream.before is not None:
            self._enter(stream.before)
            stream.before = None
        stream.passes += 1
        if self._is_crowded or (self._queue and stream.passes >= stream.due):
            self._give_to_others(stream)
        else:
            self._idle.append(stream)

    def _give_to_others(self, stream: Stream) -> None:
        """Give back a stream of which there are too many, or for which others wait; and one that was left before."""
        now = monotonic()
        if self._is_crowded or not stream.check(now):
            with self._mutex:
                self._return(stream)
            return
        oldest = self._idle[:1]
        self._idle.append(stream)
        for other in oldest:
            mark = id(other), other.passes
            if mark != self._left[0]:
                self._left = mark, now
            elif now - self._left[1] >= AWAY:
                with self._mutex, suppress(ValueError):  # somebody may take it
                    self._idle.remove(other)
                    self._return(other)

    def _take_another(self) -> Stream:
        with self._mutex:
            with suppress(IndexError):
                return self._idle.pop()
            if len(self._streams) < self._limit:
                return self._another()
            waiter = _Waiter()
            self._queue.append(waiter)
            waiter.pause = self._pause(waiter)
        return self._wait(waiter)

    def _another(self) -> Stream:
        stream = Stream(self._make(self._turn))
        self._streams.add(stream)
        self._is_crowded = len(self._streams) > self._limit
        return stream

    def _return(self, stream: Stream) -> None:
        if self._queue:
            waiter = self._queue.popleft()
            waiter.stream = stream
            stream.begin()
            waiter.gate.release()
        elif len(self._streams) > self._limit:
            self._streams.remove(stream)  # nobody needs it any more
            self._is_crowded = len(self._streams) > self._limit
        else:
            self._idle.append(stream)

    def _pause(self, waiter: _Waiter) -> float:
        """Return the seconds until a waiter's turn, and some more: who looks for it disturbs those that compute."""
        return SLICE * (1 + (1 + self._queue.index(waiter)) / self._limit)

    def _wait(self, waiter: _Waiter) -> Stream:
        """Wait for a stream that is handed over, for one that nobody came back for, or for the end of patience."""
        end = monotonic() + PATIENCE
        try:
            while not waiter.gate.acquire(timeout=waiter.pause):
                with self._mutex:
                    if waiter.stream is not None:
                        break
                    with suppress(IndexError):
                        waiter.stream = self._idle.pop()
                    if waiter.stream is None and monotonic() >= end:
                        waiter.stream = self._another()
                    if waiter.stream is not None:
                        self._queue.remove(waiter)
                        waiter.stream.begin()
                        break
                    waiter.pause = self._pause(waiter)
        except BaseException:  # an interrupt
            with self._mutex:
                if waiter.stream is not None:
                    self._return(waiter.stream)
                else:
                    self._queue.remove(waiter)
            raise
        assert waiter.stream is not None
        return waiter.stream


_pools: WeakSet[Streams] = WeakSet()


def _forget_other_threads() -> None:
    """Start without streams in a forked child: the threads that may have held them are not there."""
    for pool in list(_pools):
        pool._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
