"""Timing by a clock of our own, so that the arithmetic is exact and nothing waits."""

import pytest

from fastcnn.bench import timing


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only element is the time; calls move it on."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: 0.0)
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def taking(clock, *durations):
    """Return a call that takes these seconds, the last of them from then on."""
    left = list(durations)

    def call():
        clock[0] += left.pop(0) if len(left) > 1 else left[0]

    return call


def test_long_calls_are_sampled_one_by_one(clock):
    samples = timing.take_turn(taking(clock, 9.0, 1.0, 3.0, 2.0), timing.Effort(3, 0.0))
    assert samples == [1.0, 3.0, 2.0]


def test_turn_lasts_as_long_as_asked(clock):
    assert len(timing.take_turn(taking(clock, 0.25), timing.Effort(1, 2.0))) == 8


def test_short_calls_are_sampled_many_at_once(clock):
    calls = 0

    def call():
        nonlocal calls
        calls += 1
        clock[0] += 2.0**-20

    samples = timing.take_turn(call, timing.Effort(5, 0.0))
    assert samples == [2.0**-20] * 5
    assert calls == 1 + 5 * round(timing.SHORTEST_SAMPLE * 2**20)


def test_median_spread_and_compilation():
    found = timing.Timing(first=10.0, samples=[1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.median, found.spread, found.compilation) == (3.0, 2.0, 7.0)


def test_sides_take_turns_and_share_the_effort(clock):
    order = []

    def ours():
        order.append("ours")
        clock[0] += 1.0

    def theirs(effort):
        assert (effort.repeats, effort.seconds) == (3, 2.0)
        order.append("theirs")
        return {"a": [2.0], "b": [3.0]}

    mine, peers = timing.alternate(ours, theirs, timing.Effort(7, 6.0))
    turns = [side for side, before in zip(order, [None, *order], strict=False) if side != before]
    assert turns == ["ours", "theirs"] * timing.TURNS
    assert mine.samples == [1.0] * 9
    assert peers["a"].samples == [2.0] * 3
    assert set(peers) == {"a", "b"}


def test_asleep_once_no_thread_uses_the_cpu(clock, monkeypatch):
    used = iter([0.0, 0.02, 0.02, 0.04, 0.04, 0.04])  # busy, busy, idle
    monkeypatch.setattr(timing.time, "process_time", lambda: next(used))
    timing.fall_asleep()
    assert clock[0] == pytest.approx(3 * timing.QUIET)


def test_threads_that_never_sleep_are_not_waited_for(clock, monkeypatch):
    monkeypatch.setattr(timing.time, "process_time", lambda: clock[0])
    timing.fall_asleep()
    assert clock[0] == pytest.approx(timing.LONGEST_WAIT, abs=timing.QUIET)
