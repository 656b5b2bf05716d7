"""The progress bar of training, on terminals: one for each epoch, gone when the epoch is done."""

from __future__ import annotations

import sys
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

# The eye follows no more; a step of a small network takes less time than drawing a bar.
SECONDS_BETWEEN_UPDATES = 0.1


class Bar:
    """A bar over the images of an epoch with loss, accuracy and speed; silent if not wanted."""

    def __init__(self, wanted: bool | None, title: str, images: int) -> None:
        closed = sys.stderr is None
        self._wanted = not closed and (sys.stderr.isatty() if wanted is None else wanted)
        self._title, self._images = title, images
        self._progress: Progress | None = None
        self._next = 0.0

    def __enter__(self) -> Bar:
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True, force_terminal=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, numbers="", total=self._images)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, images: int, loss: float, accuracy: float | None, seconds: float) -> None:
        """Move the bar to this many images, unless it has just moved."""
        now = perf_counter()
        if self._progress is None or now < self._next:
            return
        self._next = now + SECONDS_BETWEEN_UPDATES
        speed = images / max(seconds, 1e-9)
        share = "" if accuracy is None else f"accuracy {accuracy:.2%}  "
        numbers = f"loss {loss:.4f}  {share}{speed:,.0f} images/s"
        self._progress.update(self._task, completed=images, numbers=numbers)
