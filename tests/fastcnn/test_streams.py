"""Streams: seldom handed on between threads that come back at once, and soon where a thread does not."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from itertools import pairwise
from time import monotonic, sleep

import pytest

from fastcnn.concurrency import streams
from fastcnn.concurrency.streams import Stream, Streams


@pytest.fixture
def pool():
    return lambda limit: Streams(limit, lambda turn: object(), lambda workspace: workspace)


@contextmanager
def running(*functions):
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def wait_for(condition):
    end = monotonic() + 10
    while not condition():
        assert monotonic() < end
        sleep(1e-3)


def test_threads_that_come_back_at_once_change_seldom(pool):
    few, order = pool(1), []
    end = monotonic() + 0.5

    def call():
        while monotonic() < end:
            stream = few.take()
            order.append(threading.get_ident())
            few.give(stream)

    with running(call, call):
        pass
    changes = sum(a != b for a, b in pairwise(order))
    assert len(set(order)) == 2
    assert 1 <= changes <= len(order) / 100


def waits(pool, got):
    """Return a function that takes a stream, and notes when it had it."""

    def wait():
        stream = pool.take()
        got.append((stream, monotonic()))
        pool.give(stream)

    return wait


def test_a_stream_that_its_thread_left_goes_to_one_that_waits_while_another_computes(pool, monkeypatch):
    monkeypatch.setattr(streams, "SLICE", 100.0)  # neither the end of a slice nor a look of the one that waits
    two, got = pool(2), []
    left, mine = two.take(), two.take()
    with running(waits(two, got)):
        wait_for(lambda: two._queue)
        for stream in (left, mine):
            stream.begin()
        two.give(left)
        start = monotonic()
        while not got:
            two.give(mine)
            mine = two.take()
            assert monotonic() - start < 10
    assert got[0][0] is left
    assert got[0][1] - start >= streams.AWAY


def test_a_thread_that_comes_back_late_hands_its_stream_on(pool, monkeypatch):
    monkeypatch.setattr(streams, "SLICE", 100.0)
    one, got = pool(1), []
    stream = one.take()
    with running(waits(one, got)):
        wait_for(lambda: one._queue)
        stream.begin()
        for _ in range(100):
            one.give(stream)
            assert one.take() is stream
        assert not got
        sleep(0.1)
        stream.due = 0
        one.give(stream)
    assert got[0][0] is stream


def test_a_new_stream_is_handed_on_where_others_wait():
    stream = Stream(None)
    stream.passes = 1
    assert not stream.check(monotonic())
