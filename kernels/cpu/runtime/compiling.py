"""Tells, once a process, that kernels are being compiled: whoever waits for the first ones should know why.

Nothing is said of compilations that nobody notices.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

NOTICEABLE = 0.5  # seconds of compilation after which it is said
SENTENCE = "Compiling kernels for this machine, once: later runs load them."


def say_on_terminal(sentence: str) -> None:
    """Write to standard error where that is a terminal: a program's log has no use for it."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(sentence, file=sys.stderr, flush=True)


class Watch:
    """Counts the seconds of compilations, which stand inside each other, and says `SENTENCE` when they are many."""

    def __init__(self) -> None:
        self.say: Callable[[str], object] = say_on_terminal
        self._said = False
        self._depth, self._start, self._spent = 0, 0.0, 0.0

    def begin(self) -> None:
        """Note that a compilation begins."""
        now = perf_counter()
        if not self._said and self._spent + (now - self._start if self._depth else 0.0) >= NOTICEABLE:
            self._said = True
            self.say(SENTENCE)
        if not self._depth:
            self._start = now
        self._depth += 1

    def end(self) -> None:
        """Note that the innermost one is done."""
        self._depth = max(0, self._depth - 1)
        if not self._depth:
            self._spent += perf_counter() - self._start


watch = Watch()


@contextmanager
def announced(say: Callable[[str], object]) -> Iterator[None]:
    """Have the sentence said by `say`."""
    before, watch.say = watch.say, say
    try:
        yield
    finally:
        watch.say = before
