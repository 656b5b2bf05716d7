"""Made-up machines and rows, for what is computed and printed from measurements."""

import io

import pytest
from rich.console import Console

from fastcnn.bench.machine import Machine
from fastcnn.bench.run import Row


def made_up_machine():
    return Machine("a CPU", "float32", 512, 2, "pool", {"L1": "32 KiB"}, {"numba": "1"}, 100.0, 10.0)


def made_up_row(**changes):
    fields = {
        "layer": "conv", "name": "net:conv1", "descriptor": "mb1ic1ih5oc1kh3", "pass_name": "forward",
        "algorithm": "direct", "dtype": "float32", "threads": 2, "count": 1, "batch": 1,
        "flops": 2_000_000, "bytes": 100_000, "scratch_bytes": 3 << 19, "compile_ms": 12.0, "median_ms": 0.1,
        "spread_ms": 0.01, "gflops": 20.0, "percent_of_peak": 0.0, "percent_of_roof": 0.0, "gbytes_per_s": 1.0,
        "bound": "", "max_relative_error": 1e-6, "images_per_s": 1e4,
    }  # fmt: skip
    return Row(**(fields | changes))


@pytest.fixture(scope="session")
def machine():
    """Return a maker of the same machine, roofs 100 GFLOP/s and 10 GB/s."""
    return made_up_machine


@pytest.fixture(scope="session")
def row():
    """Return a maker of rows without a peer."""
    return made_up_row


@pytest.fixture(scope="session")
def compared():
    """Return a maker of rows with a peer, from their ratio."""

    def make(ratio, **changes):
        theirs = {"peer_median_ms": 0.1 * ratio, "peer_layout": "channels_last", "peer_spread_ms": 0.0}
        return made_up_row(ratio=ratio, **(theirs | changes))

    return make


@pytest.fixture(scope="session")
def printed():
    """Return a caller of what prints on a console, that gives back the text."""

    def call(show, *arguments, width=200):
        out = io.StringIO()
        show(*arguments, Console(file=out, width=width))
        return out.getvalue()

    return call
