"""A lock for a network's parameters: many passes read them together, one at a time changes them.

First come, first served, so that neither predictions nor training steps keep each other out for good.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from threading import get_ident
from types import TracebackType
from typing import Self, TypeAlias
from weakref import WeakSet, ref

Watch: TypeAlias = "ref[Hold]"
"""A hold, which calls `release` where its `Hold` has come to its end without that."""


class _Waiter:
    """A thread in the queue; who lets it in opens the gate."""

    def __init__(self, hold: Watch, reads: bool) -> None:
        self.hold, self.reads, self.thread = hold, reads, get_ident()
        self.gate = threading.Lock()
        self.gate.acquire()


class SharedLock:
    """Held by any number of readers, or by one writer, who may take it again.

    A reader says that it is in and then looks whether the lock is closed; a writer closes it and then looks for
    readers. So readers need no mutex as long as nobody writes. A reader must not ask to write before it has let go.

    A hold is known by a weak reference to its `Hold`. An interrupt may come between any two steps here, and keep
    `release` from its end or from its very beginning. So `release` may come again, and undoes as much as has been done;
    it does when the `Hold` goes before that has ended.
    """

    def __init__(self) -> None:
        self._reset()
        _locks.add(self)

    def _reset(self) -> None:
        self._mutex = threading.RLock()  # taken again where an object ends that held the lock
        self._readers: dict[Watch, int] = {}  # the threads that read, by hold
        self._closed = False  # whether somebody writes or waits
        self._writer: int | None = None
        self._writes: set[Watch] = set()  # the writer's holds
        self._queue: deque[_Waiter] = deque()

    def acquire(self, hold: Watch, writes: bool) -> None:
        """Return when nobody writes or, to write, when nobody else holds the lock."""
        if writes:
            self._acquire_write(hold)
            return
        me = self._readers[hold] = get_ident()
        if self._closed:
            self._read_closed(hold, me)

    def _read_closed(self, hold: Watch, me: int) -> None:
        with self._mutex:
            reads = [*self._readers.values()].count(me)
            if not self._closed or self._writer == me or reads > 1:
                return
            del self._readers[hold]
            waiter = self._enqueue(hold, reads=True)
        waiter.gate.acquire()

    def _acquire_write(self, hold: Watch) -> None:
        me = get_ident()
        with self._mutex:
            if self._writer == me:
                self._writes.add(hold)
                return
            if self._readers:  # left behind by an interrupt: whoever reads does not ask to write
                for other in [other for other, thread in self._readers.items() if thread == me]:
                    del self._readers[other]
            self._closed = True
            if self._writer is None and not self._queue and not self._readers:
                self._writer, self._writes = me, {hold}
                return
            waiter = self._enqueue(hold, reads=False)
        waiter.gate.acquire()

    def release(self, hold: Watch) -> None:
        """Let go of what `acquire` has taken; of nothing, if that is so already."""
        self._readers.pop(hold, None)
        if self._closed:
            with self._mutex:
                self._writes.discard(hold)
                if not self._writes:
                    self._writer = None
                if self._queue:
                    self._queue = deque([waiter for waiter in self._queue if waiter.hold != hold])
                self._let_in()

    def _enqueue(self, hold: Watch, reads: bool) -> _Waiter:
        """Close the lock and queue; the caller holds the mutex."""
        waiter = _Waiter(hold, reads)
        self._closed = True
        self._queue.append(waiter)
        self._let_in()
        return waiter

    def _let_in(self) -> None:
        """Let in those at the head of the queue that may go on; the caller holds the mutex.

        Interrupts come after calls: one that is let in has left the queue before, and its gate is open after, the call.
        """
        while self._queue and self._writer is None:
            head = self._queue[0]
            if head.reads:
                self._readers[head.hold] = head.thread
            elif not self._readers:
                self._writer, self._writes = head.thread, {head.hold}
            else:
                return
            del self._queue[0]
            head.gate.release()
        self._closed = self._writer is not None

    def reading(self) -> Hold:
        """Return a context in which this thread holds the lock, beside others that read."""
        return Hold(self, writes=False)

    def writing(self) -> Hold:
        """Return a context in which this thread alone holds the lock."""
        return Hold(self, writes=True)


class Hold:
    """A context in which a thread holds a lock, which it lets go at its own end if it could not before."""

    __slots__ = ("__weakref__", "_lock", "_watch", "_writes")

    def __init__(self, lock: SharedLock, writes: bool) -> None:
        self._lock, self._writes = lock, writes
        self._watch: Watch | None = None

    def _begin(self, lock: SharedLock) -> None:
        self._lock = lock
        # Not `__del__`, which would come always, and swallow the interrupts that come in it.
        watch = self._watch = ref(self, lock.release)
        lock.acquire(watch, self._writes)

    def __enter__(self) -> Self:
        try:
            self._begin(self._lock)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        watch = self._watch
        if watch is not None:
            self._lock.release(watch)
            self._watch = None


_locks: WeakSet[SharedLock] = WeakSet()


def _forget_other_threads() -> None:
    """Let go of all locks in a forked child: the threads that may have held them are not there."""
    for lock in list(_locks):
        lock._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
