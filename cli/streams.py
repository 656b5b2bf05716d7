"""Standard output and error as commands find them: closed ones swallow what is written.

A reader that goes away, as `head` does, ends no run: a training whose model is still to be written goes on, quietly, to
its usual status.
"""

import errno
import io
import os
import sys
from typing import Any

# What systems say of a pipe that nobody reads any more.
GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)


class Pipe(io.FileIO):
    """A descriptor that becomes the null device when nobody reads it any more, or it has failed and said so."""

    def write(self, data: Any) -> int:
        """Write the bytes, and return how many were taken."""
        try:
            return super().write(data) or 0
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if error.errno not in GONE:
                raise
            return memoryview(data).nbytes


def prepare() -> None:
    """Let the process write to its output and error whether or not somebody reads them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the process began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif stream is getattr(sys, f"__{name}__") and not stream.isatty():
            setattr(sys, name, _tolerant(stream))


def _tolerant(stream: Any) -> io.TextIOWrapper:
    stream.flush()
    pipe = Pipe(stream.fileno(), "wb", closefd=False)
    lines = stream.line_buffering
    return io.TextIOWrapper(io.BufferedWriter(pipe), stream.encoding, stream.errors, line_buffering=lines)
