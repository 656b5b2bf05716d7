"""How many processes a run of the tests is spread over."""

import os
from typing import Any

import pytest

MOST = 4  # each holds up to 2 GB, and its kernels run on several threads


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(config: Any) -> None:
    """Take a process for each core where all tests are asked for and pytest-xdist is there: a kernel compiles on one.

    `pytest -n 0` stays in one process, as tests do that are asked for by path.
    """
    option = config.option
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    unasked = getattr(option, "numprocesses", 0) is None and not (option.usepdb or option.collectonly)
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # it reads the same command line, and must not spread it again
    if everything and unasked and not is_worker:
        option.numprocesses, option.dist = min(MOST, cores()), "worksteal"
