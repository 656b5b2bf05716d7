"""Ctrl-C in `fastcnn bench`: the rows so far are printed and written, and nothing goes on running."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LONGEST = 240  # seconds until a run on a busy machine, which may have to compile, gets so far
MANY = "random:500:1"  # more than anybody waits for
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is the peer")

# What a terminal does for us: a row is announced on standard error as soon as it is measured.
TERMINAL = """
import sys
from pathlib import Path
from fastcnn.cli.main import main
from fastcnn.bench.roofline import peak, record
peak.CALLS, peak.REPEATS, peak.TRIAD_BYTES = 1, 1, 1 << 20
file = Path(sys.argv.pop(1))
record.ceilings_file = lambda: file
sys.stderr.isatty = lambda: True
sys.argv[0] = "fastcnn"
main()
"""


def interrupted(tmp_path: Path, *arguments: str, first: str) -> tuple[int, str]:
    """Interrupt a run once it said `first` on standard error; return its status and what it printed."""
    command = [sys.executable, "-c", TERMINAL, str(tmp_path / "ceilings.json"), "bench", *arguments]
    with (
        (tmp_path / "out").open("w+") as out,
        (tmp_path / "err").open("w+") as err,
        subprocess.Popen(command, stdout=out, stderr=err, cwd=tmp_path, start_new_session=True) as process,
    ):
        try:
            wait(lambda: first in (tmp_path / "err").read_text() or process.poll() is not None)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            status = process.wait(LONGEST)
        finally:
            process.kill()
    complaints = (tmp_path / "err").read_text()
    assert "Traceback" not in complaints, complaints
    return status, (tmp_path / "out").read_text()


def wait(condition) -> None:
    deadline = time.monotonic() + LONGEST
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_rows_so_far_are_printed_and_written(tmp_path):
    more = ["--plot", "out.svg"] if importlib.util.find_spec("matplotlib") else []
    status, printed = interrupted(
        tmp_path, "--layer", "conv", "--shapes", MANY, "--seconds", "0.01", "--repeats", "1", "--json", "out.json",
        "--csv", "out.csv", *more, first="forward: ",
    )  # fmt: skip
    assert status == 130, printed
    content = json.loads((tmp_path / "out.json").read_text())
    rows = content["rows"]
    assert 0 < len(rows) < 1500
    assert (content["complete"], content["planned_rows"]) == (False, 1500)
    assert f"incomplete: interrupted after {len(rows)} of 1500 rows." in printed
    assert "measured peak" in printed
    read = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["complete"] for row in read] == ["False"] * len(rows)
    if more:
        assert "incomplete: interrupted" in (tmp_path / "out.svg").read_text()


@needs_torch
def test_the_peers_process_is_ended(tmp_path):
    pid_file = tmp_path / "pid"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'fastcnn.bench.peer.torch_worker' in sys.orig_argv:\n"
        f"    open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        status, printed = interrupted(
            tmp_path, "--layer", "conv", "--shapes", "ic1ih5oc1kh3", "--shapes", "mb16ic64ih56oc64kh3ph1",
            "--seconds", "0.1", "--repeats", "1", "--against", "torch", first="forward: ",
        )  # fmt: skip
    assert status == 130
    assert "peer" in printed
    pid = int(pid_file.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_profile_keeps_the_rounds_so_far(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "import fastcnn.bench.profile as profile\n"
        "clocked, calls = profile.clocked, []\n"
        "def told(stages):\n"
        "    calls.append(0)\n"
        "    if len(calls) == profile.WARM_ROUNDS + 3:\n"
        "        print('three rounds', file=sys.stderr, flush=True)\n"
        "    return clocked(stages)\n"
        "profile.clocked = told\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        status, printed = interrupted(
            tmp_path, "--model", "lenet5", "--batch", "2", "--profile", "--seconds", "1000", "--json", "out.json",
            "--csv", "out.csv", first="three rounds",
        )  # fmt: skip
    assert status == 130, printed
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["complete"] is False
    assert {row["run"] for row in content["rows"]} == {"train"}
    assert "incomplete: interrupted" in printed
