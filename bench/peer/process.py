"""The peer library in a process of its own, asked for its times one turn at a time.

Two OpenMP run-times in one process spin against each other and flatter neither side, so PyTorch
runs in a worker (`peer_torch`). We talk in JSON, one line each way:

    {"prepare": request}                         -> {}
    {"turn": {"repeats": R, "seconds": S}}       -> {"samples": {layout: [seconds, ...], ...}}

and an answer {"error": sentence} where the worker could not.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from types import TracebackType
from typing import IO, Any

from fastcnn.bench.timing import Effort
from fastcnn.errors import BackendError

WORKERS = {"torch": "fastcnn.bench.peer.torch_worker"}
EXTRAS = {"torch": "oracle"}
# How glibc's malloc keeps what was freed: an array above 32 MB else comes in fresh pages from the system at every call,
# which costs several times what a kernel bound by memory takes. The thread cache must go, too: it withholds the few
# bytes in front of an aligned block, so that the next block of the same size does not fit in its place.
KEPT = {"mmap_max": 0, "trim_threshold": 1 << 40, "tcache_count": 0}
MEMORY: dict[str, dict[str, str]] = {
    "fresh": {},
    "kept": {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in KEPT.items())},
}
LONGEST_GOODBYE = 10  # seconds for the worker to leave before it is stopped


def require(name: str) -> None:
    """Raise a BackendError unless the peer's package is installed."""
    if importlib.util.find_spec(name) is None:
        raise BackendError(
            f"Comparing against {name} needs the package {name}, which is not installed; "
            f'run: pip install "fastcnn[{EXTRAS[name]}]"'
        )


class Peer:
    """A running worker; use it in a `with` statement, which ends it.

    `memory` is a key of MEMORY: "fresh" leaves the worker's allocator as users have it, "kept" lets it
    use again what it freed (with glibc; elsewhere they are the same).
    """

    def __init__(self, name: str, threads: int, memory: str = "fresh") -> None:
        require(name)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            **MEMORY[memory],
        }
        self._complaints: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKERS[name], str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C in a terminal reaches us alone: we end the worker
        )
        self.name, self.memory = name, memory
        self._owes_answer = True  # it begins with its version
        try:
            self.version = str(self._answer()["version"])
        except BaseException:
            self.close()
            raise

    def prepare(self, request: dict[str, Any]) -> None:
        """Make the worker ready for this work; it drops what it held before."""
        self._ask({"prepare": request})

    def turn(self, effort: Effort) -> dict[str, list[float]]:
        """Let the worker take one turn; return its samples, in seconds, by memory layout."""
        samples: dict[str, list[float]] = self._ask({"turn": asdict(effort)})["samples"]
        return samples

    def close(self) -> None:
        """End the worker: one that owes an answer at once, for nobody waits for it any more."""
        if self._owes_answer:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(LONGEST_GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._complaints.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._owes_answer = True
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._lost() from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._lost()
        self._owes_answer = False
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BackendError(f"{self.name} could not run its side of the comparison: {answer['error']}")
        return answer

    def _lost(self) -> BackendError:
        self._complaints.seek(0)
        said = self._complaints.read().strip().splitlines()
        return BackendError(
            f"The {self.name} process ended before it answered"
            f"{': ' + said[-1] if said else ', perhaps for lack of memory'}; "
            "run without --against to do without it."
        )

    def __enter__(self) -> "Peer":
        """Return the worker itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the worker."""
        self.close()
