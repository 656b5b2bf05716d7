"""A lock for a network's parameters: many passes read them together, one at a time changes them.

First come, first served, so that neither predictions nor training steps keep each other out for good.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from threading import get_ident
from types import TracebackType
from weakref import WeakSet


class _Waiter:
    """A thread in the queue; who lets it in opens the gate."""

    def __init__(self, reads: bool) -> None:
        self.reads, self.thread, self.is_in = reads, get_ident(), False
        self.gate = threading.Lock()
        self.gate.acquire()


class SharedLock:
    """Held by any number of readers, or by one writer, who may take it again.

    A reader says that it is in and then looks whether the lock is closed; a writer closes it and then looks for
    readers. So readers need no mutex as long as nobody writes. A reader must not ask to write before it has let go.
    """

    def __init__(self) -> None:
        self._reset()
        _locks.add(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._readers: list[int] = []  # the threads that read, as often as they do
        self._closed = False  # whether somebody writes or waits
        self._writer: int | None = None
        self._depth = 0
        self._queue: deque[_Waiter] = deque()

    def acquire(self, writes: bool) -> None:
        """Return when nobody writes or, to write, when nobody else holds the lock."""
        (self.acquire_write if writes else self.acquire_read)()

    def release(self, writes: bool) -> None:
        """Let go of what `acquire` has taken."""
        (self.release_write if writes else self.release_read)()

    def acquire_read(self) -> None:
        """Return when nobody writes; a thread that reads or writes already goes on."""
        me = get_ident()
        self._readers.append(me)
        if self._closed:
            self._read_closed(me)

    def _read_closed(self, me: int) -> None:
        with self._mutex:
            if not self._closed or self._writer == me or self._readers.count(me) > 1:
                return
            self._readers.remove(me)
            waiter = self._enqueue(reads=True)
        self._wait(waiter)

    def release_read(self) -> None:
        """Let go of what `acquire_read` has taken."""
        self._readers.remove(get_ident())
        if self._closed:
            with self._mutex:
                self._let_in()

    def acquire_write(self) -> None:
        """Return when nobody else reads or writes."""
        me = get_ident()
        with self._mutex:
            if self._writer == me:
                self._depth += 1
                return
            while me in self._readers:  # left behind by an interrupt: whoever reads does not ask to write
                self._readers.remove(me)
            self._closed = True
            if self._writer is None and not self._queue and not self._readers:
                self._writer, self._depth = me, 1
                return
            waiter = self._enqueue(reads=False)
        if not waiter.is_in:
            self._wait(waiter)

    def release_write(self) -> None:
        """Let go of what `acquire_write` has taken."""
        with self._mutex:
            self._depth -= 1
            if self._depth == 0:
                self._writer = None
                self._let_in()

    def _enqueue(self, reads: bool) -> _Waiter:
        """Close the lock and queue; the caller holds the mutex."""
        waiter = _Waiter(reads)
        self._closed = True
        self._queue.append(waiter)
        self._let_in()
        return waiter

    def _let_in(self) -> None:
        """Let in those at the head of the queue that may go on; the caller holds the mutex."""
        while self._queue and self._writer is None:
            head = self._queue[0]
            if head.reads:
                self._readers.append(head.thread)
            elif not self._readers:
                self._writer, self._depth = head.thread, 1
            else:
                return
            self._queue.popleft()
            head.is_in = True
            head.gate.release()
        self._closed = self._writer is not None

    def _wait(self, waiter: _Waiter) -> None:
        try:
            waiter.gate.acquire()
        except BaseException:  # an interrupt
            with self._mutex:
                queued = not waiter.is_in
                if queued:
                    self._queue.remove(waiter)
                    self._let_in()
            if not queued:
                self.release(not waiter.reads)
            raise

    def writing(self) -> _Writing:
        """Return a context in which this thread alone holds the lock."""
        return _Writing(self)


class _Writing:
    """A context in which one thread alone holds a lock."""

    def __init__(self, lock: SharedLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.acquire_write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release_write()


_locks: WeakSet[SharedLock] = WeakSet()


def _forget_other_threads() -> None:
    """Let go of all locks in a forked child: the threads that may have held them are not there."""
    for lock in list(_locks):
        lock._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
