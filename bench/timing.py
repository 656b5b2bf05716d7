"""How long a call takes: the median of many samples, and how far they spread.

A sample is one call, or as many calls as fill `SHORTEST_SAMPLE`, so that the clock's own cost stays
below a percent. Calls are warm: the arrays are those of the call before. Two sides take turns
(ours, theirs, ours, ...), so that a machine that slows down slows both, and hand the turn over only
once their threads sleep: an OpenMP run-time lets idle threads spin for a while, on the cores that
the other side now needs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

SHORTEST_SAMPLE = 0.5e-3  # seconds; two readings of the clock cost about 0.1e-6
TURNS = 3  # times that each side is measured
QUIET = 0.02  # seconds without CPU time after which a process counts as asleep
LONGEST_WAIT = 2.0  # seconds to wait for that; a run-time told to spin for ever would never fall asleep


@dataclass(frozen=True)
class Effort:
    """How long to measure: at least `repeats` samples and `seconds`, over all turns of a side."""

    repeats: int = 9
    seconds: float = 0.5

    def turn(self) -> "Effort":
        """Return the share of one turn."""
        return Effort(-(-self.repeats // TURNS), self.seconds / TURNS)


@dataclass
class Timing:
    """Samples in seconds a call, and the first call's time, which holds the compilation."""

    first: float = 0.0
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds a call."""
        return float(np.median(self.samples))

    @property
    def spread(self) -> float:
        """Distance between the quartiles, in seconds."""
        low, high = np.percentile(self.samples, [25, 75])
        return float(high - low)

    @property
    def compilation(self) -> float:
        """How much longer the first call took than the median one, in seconds."""
        return max(0.0, self.first - self.median)


def clocked(call: Callable[[], object], times: int = 1) -> float:
    """Return the seconds that `times` calls take together."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - start


def take_turn(call: Callable[[], object], effort: Effort) -> list[float]:
    """Return samples of one turn: one call to warm up, then until the effort is spent."""
    once = max(clocked(call), 1e-9)
    times = max(1, round(SHORTEST_SAMPLE / once))
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < effort.repeats or time.perf_counter() - start < effort.seconds:
        samples.append(clocked(call, times) / times)
    return samples


def fall_asleep() -> None:
    """Return once this process's threads have used no CPU time for a while."""
    deadline = time.perf_counter() + LONGEST_WAIT
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(QUIET)
        if time.process_time() - before < QUIET / 20:
            return


def alternate(
    ours: Callable[[], object],
    theirs: Callable[[Effort], dict[str, list[float]]] | None,
    effort: Effort,
) -> tuple[Timing, dict[str, Timing]]:
    """Measure a call, and the peer's, in turns.

    `theirs` takes one turn elsewhere and returns its samples by layout; it is asleep again when it
    returns.
    """
    mine = Timing(first=clocked(ours))
    peers: dict[str, Timing] = {}
    for _ in range(TURNS):
        mine.samples += take_turn(ours, effort.turn())
        if theirs is None:
            continue
        fall_asleep()
        for layout, samples in theirs(effort.turn()).items():
            peers.setdefault(layout, Timing()).samples.extend(samples)
    return mine, peers
