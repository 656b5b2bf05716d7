"""Standard output and error that are closed, full or read by nobody: no traceback, and the usual status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import crossed, selected

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the shell is POSIX's")

PROGRAM = f'"{sys.executable}" -c "from fastcnn.cli.main import main; main()"'
COMMANDS = [
    ("-h", 0), ("--version", 0), ("train -h", 0), ("summary vgg16", 0), ("summary nope", 2), ("nope", 2),
    ("summary {tmp}/damaged", 1), ("plot filters {tmp}/damaged", 1), ("eval {tmp}/damaged --data digits", 1),
]  # fmt: skip


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "damaged").write_bytes(b"nothing")
    return tmp_path


READERS = ("{} >&-", "{} 2>&1 >&-", "{} | true", "{} | head -1 >/dev/null", "{} <&- >&- 2>&-")


@pytest.mark.parametrize(("call", "how"), crossed(COMMANDS, READERS))
def test_nobody_reads(folder: Path, call: tuple[str, int], how: str) -> None:
    command, status = call
    line = how.format(f"{PROGRAM} {command.format(tmp=folder)}")
    result = shell(f"{line}; exit ${{PIPESTATUS[0]}}")
    assert result.returncode == status
    told = result.stdout + result.stderr
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    assert "NoneType" not in told


@pytest.mark.parametrize("how", selected(["{} >&-", "{} | true", "{} 2>&-"], "{} >&-"))
def test_a_run_that_nobody_watches_writes_its_files(tmp_path: Path, how: str) -> None:
    files = f"--out {tmp_path}/net --json {tmp_path}/json"
    line = how.format(f"{PROGRAM} train lenet5 --epochs 1 --batch-size 1437 --device reference {files}")
    assert shell(f"{line}; exit ${{PIPESTATUS[0]}}").returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["json", "net"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize("command", ["-h", "--version", "summary lenet5"])
def test_a_full_disk_fails_in_one_line(command: str) -> None:
    result = shell(f"{PROGRAM} {command} > /dev/full")
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1


def test_results_go_into_pipes_and_through_links(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/target")
    result = shell(f"{PROGRAM} summary lenet5 --json {tmp_path}/link && cat {tmp_path}/deep/target")
    assert result.returncode == 0
    assert result.stdout.endswith("}\n")
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    result = shell(f"cat {tmp_path}/pipe & {PROGRAM} summary lenet5 --json {tmp_path}/pipe > /dev/null; wait")
    assert '"parameters": 61706' in result.stdout
    result = shell(f"{PROGRAM} summary lenet5 --json /dev/stdout")
    assert '"parameters": 61706' in result.stdout
    assert Path("/dev/stdout").exists()
    (tmp_path / "dangling").symlink_to("missing/target")
    result = shell(f"{PROGRAM} summary lenet5 --json {tmp_path}/dangling")
    assert result.returncode == 2
    assert "missing of dangling does not exist" in result.stderr
