"""Programs in the reference room: lists of calls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Program:
    """Calls to be run many times on the same arrays; nothing is kept of the constants."""

    kept_bytes = 0

    def __init__(
        self,
        calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]],
        constants: Sequence[np.ndarray] | None = None,
    ) -> None:
        self._calls = list(calls)

    def run(self, version: object = None) -> None:
        """Run the calls; what overflows becomes infinite without a warning."""
        with np.errstate(over="ignore", invalid="ignore"):
            for function, arguments in self._calls:
                function(*arguments)
