"""The lock of a network's parameters: readers together, writers alone, in the order they came."""

import signal
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from fastcnn.concurrency.locks import Hold, SharedLock


def started(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_readers_are_in_together():
    lock, together = SharedLock(), threading.Barrier(3)

    def read():
        with lock.reading():
            together.wait(5)

    for thread in [started(read) for _ in range(3)]:
        thread.join(5)
        assert not thread.is_alive()


def test_a_writer_is_alone():
    lock, inside, most = SharedLock(), [0, 0], [0]

    def work(writes):
        for _ in range(300):
            with Hold(lock, writes):
                inside[writes] += 1
                if writes:
                    most[0] = max(most[0], inside[0] + inside[1])
                else:
                    most[0] = max(most[0], 1 + inside[1])
                time.sleep(0)
                inside[writes] -= 1

    for thread in [started(lambda writes=writes: work(writes)) for writes in (0, 0, 0, 1, 1)]:
        thread.join(60)
        assert not thread.is_alive()
    assert most == [1]


def test_first_come_first_served():
    lock, order = SharedLock(), []

    def work(name, writes):
        with Hold(lock, writes):
            order.append(name)

    threads = []
    with lock.reading():
        for name, writes in (("write 1", True), ("read 1", False), ("write 2", True), ("read 2", False)):
            threads.append(started(lambda name=name, writes=writes: work(name, writes)))
            while len(lock._queue) < len(threads):
                time.sleep(1e-4)
    for thread in threads:
        thread.join(5)
    assert order == ["write 1", "read 1", "write 2", "read 2"]


def written(lock):
    with lock.writing():
        pass


def test_a_writer_may_write_and_read_inside():
    lock = SharedLock()
    with lock.writing(), lock.writing(), lock.reading():
        pass
    thread = started(lambda: written(lock))
    thread.join(5)
    assert not thread.is_alive()


def test_a_reader_may_read_inside_while_a_writer_waits():
    lock = SharedLock()
    with lock.reading():
        writer = started(lambda: written(lock))
        while not lock._queue:
            time.sleep(1e-4)
        with lock.reading():
            pass
        assert writer.is_alive()
    writer.join(5)
    assert not writer.is_alive()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of signals")
@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("contended", [False, True])
def test_an_interrupt_leaves_no_hold_behind(writes, contended):
    lock, ended = SharedLock(), []
    delays = np.random.default_rng(0).uniform(5e-5, 1e-3, 300)

    def others():
        while not ended:
            with lock.reading():
                time.sleep(0)
            written(lock)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    thread = started(others) if contended else None
    try:
        for delay in delays:
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, delay)
                while True:
                    with Hold(lock, writes):
                        pass
            after = started(lambda: written(lock))
            after.join(10)
            assert not after.is_alive()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ended.append(True)
    if thread is not None:
        thread.join(10)
        assert not thread.is_alive()
    assert (lock._readers, lock._closed, len(lock._queue)) == ({}, False, 0)
