"""A pass through a layer or a network: the parameters held meanwhile, and the stream that computes."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self
from weakref import ref

from fastcnn.concurrency.locks import Hold, SharedLock, Watch

if TYPE_CHECKING:
    from fastcnn.concurrency.streams import Stream
    from fastcnn.layers.parameters import Store


class Owner(Protocol):
    """Whose parameters a pass works with: a layer or a network."""

    def own_store(self) -> Store:
        """Return the store that holds them now."""

    def has_store(self, store: Store) -> bool:
        """Say whether a store still does: another network may have claimed the layers meanwhile."""


class Pass(Hold):
    """A context in which this thread holds a store, beside others that read or alone, and a stream of its device.

    Parameters
    ----------
    owner
        Whose store.
    writes
        Whether parameters, gradients or states change.
    enter
        Whether to compute on the stream's scratch memory, or on the thread's own.
    """

    __slots__ = ("_enter", "_known", "_owner", "store", "stream")

    store: Store
    stream: Stream

    def __init__(self, owner: Owner, writes: bool, enter: bool = True) -> None:
        self._owner, self._writes, self._enter, self._watch = owner, writes, enter, None
        self._known: Watch | None = None  # the watch of the last lock, for as long as the pass is used again

    def _begin(self, lock: SharedLock) -> None:
        if self._known is None or lock is not self._lock:
            self._lock, self._known = lock, ref(self, lock.release)
        self._watch = self._known
        lock.acquire(self._known, self._writes)

    def __enter__(self) -> Self:
        while True:
            store = self.store = self._owner.own_store()
            try:
                self._begin(store.lock)
                if self._owner.has_store(store):
                    self.stream = store.backend.streams.take(self._enter)
                    return self
            except BaseException:
                self._end()
                raise
            self._end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.store.backend.streams.give(self.stream)
        finally:
            self._end()
        del self._owner, self.store, self.stream  # it stays, and they may go
        _ended.append(self)


_ended: list[Pass] = []


def passing(owner: Owner, writes: bool, enter: bool = True) -> Pass:
    """Return a `Pass`: one that has ended, if there is one, since making it takes longer than using it."""
    try:
        again = _ended.pop()
    except IndexError:
        return Pass(owner, writes, enter)
    again._owner, again._writes, again._enter = owner, writes, enter
    return again
