"""The lock of a network's parameters: readers together, writers alone, in the order they came."""

import threading
import time

from fastcnn.locks import SharedLock


def started(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_readers_are_in_together():
    lock, together = SharedLock(), threading.Barrier(3)

    def read():
        lock.acquire_read()
        together.wait(5)
        lock.release_read()

    for thread in [started(read) for _ in range(3)]:
        thread.join(5)
        assert not thread.is_alive()


def test_a_writer_is_alone():
    lock, inside, most = SharedLock(), [0, 0], [0]

    def work(writes):
        for _ in range(300):
            lock.acquire(writes)
            inside[writes] += 1
            if writes:
                most[0] = max(most[0], inside[0] + inside[1])
            else:
                most[0] = max(most[0], 1 + inside[1])
            time.sleep(0)
            inside[writes] -= 1
            lock.release(writes)

    for thread in [started(lambda writes=writes: work(writes)) for writes in (0, 0, 0, 1, 1)]:
        thread.join(60)
        assert not thread.is_alive()
    assert most == [1]


def test_first_come_first_served():
    lock, order = SharedLock(), []
    lock.acquire_read()

    def work(name, writes):
        lock.acquire(writes)
        order.append(name)
        lock.release(writes)

    threads = []
    for name, writes in (("write 1", True), ("read 1", False), ("write 2", True), ("read 2", False)):
        threads.append(started(lambda name=name, writes=writes: work(name, writes)))
        while len(lock._queue) < len(threads):
            time.sleep(1e-4)
    lock.release_read()
    for thread in threads:
        thread.join(5)
    assert order == ["write 1", "read 1", "write 2", "read 2"]


def test_a_writer_may_write_and_read_inside():
    lock = SharedLock()
    with lock.writing(), lock.writing():
        lock.acquire_read()
        lock.release_read()
    thread = started(lambda: (lock.acquire_write(), lock.release_write()))
    thread.join(5)
    assert not thread.is_alive()


def test_a_reader_may_read_inside_while_a_writer_waits():
    lock = SharedLock()
    lock.acquire_read()
    writer = started(lambda: (lock.acquire_write(), lock.release_write()))
    while not lock._queue:
        time.sleep(1e-4)
    lock.acquire_read()
    lock.release_read()
    assert writer.is_alive()
    lock.release_read()
    writer.join(5)
    assert not writer.is_alive()
