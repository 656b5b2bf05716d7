"""The commands about this machine: `doctor` and `warmup`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sweeps import selected

import fastcnn as fc
from fastcnn import threads as host
from fastcnn.kernels.cpu.runtime import cache

NAMES = ("python", "packages", "optional", "cpu", "threads", "cache", "kernels", "ceilings")


@pytest.mark.usefixtures("quick_roofs")
def test_doctor_finds_all_well(run: Callable[..., Any]) -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[:-1]] == list(NAMES)
    assert result.stdout.endswith("All is well.\n")
    assert f"fastcnn {fc.__version__}" in result.stdout
    assert "measured now" in result.stdout
    assert "the highest measured so far" in run("doctor").stdout


@pytest.mark.usefixtures("quick_roofs")
def test_doctor_finds_a_kernel_that_computes_wrong(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcnn.kernels.cpu import conv

    right = conv.conv_backward_weight

    def wrong(x: np.ndarray, dy: np.ndarray, *arguments: Any) -> None:
        right(x, dy, *arguments)
        (dw,) = (argument for argument in arguments if isinstance(argument, np.ndarray))
        dw[0] += 1

    monkeypatch.setattr(conv, "conv_backward_weight", wrong)
    result = run("doctor")
    assert result.exit_code == 1
    assert "kernels   BROKEN: ArithmeticError" in result.stdout
    assert result.stderr == "Error: Broken here: kernels.\n"


def test_an_impossible_thread_count_is_one_sentence() -> None:
    command = [sys.executable, "-c", "from fastcnn.cli.main import main; main()", "train", "lenet"]
    environment = os.environ | {"FASTCNN_NUM_THREADS": "many"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    sentence = "Error: FASTCNN_NUM_THREADS must be a whole number from 1 up, not 'many'.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_a_second_warmup_finds_everything_compiled(tmp_path: Path) -> None:
    folder = host.cache_folder()
    command = [sys.executable, "-c", "from fastcnn.cli.main import main; main()", "warmup"]

    def run_in(root: Path) -> list[str]:
        environment = os.environ | {"FASTCNN_CACHE_DIR": str(root)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    run_in(folder.parent)
    again = tmp_path / folder.name  # a copy, which no other process fills at the same time
    again.mkdir(mode=0o700)
    for path in folder.iterdir():
        if path.suffix in cache.KINDS:
            shutil.copy2(path, again)
    assert list(again.iterdir())
    lines = run_in(tmp_path)
    jobs = len(lines) - 1
    assert [line.split()[0] for line in lines[:-1]] == [f"[{i}/{jobs}]" for i in range(1, jobs + 1)]
    assert lines[-1].startswith(f"0 new files in {again}")


@pytest.mark.parametrize(
    "command",
    [
        ("warmup",),
        ("train", "lenet5"),
        ("bench", "--layer", "conv", "--shapes", "ic3ih8oc4oh8kh3ph1"),
        ("summary", "lenet5", "--batch", "3"),
    ],
    ids=lambda command: command[0],
)
def test_commands_say_why_nothing_is_compiled(command: tuple[str, ...]) -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    call = [sys.executable, "-c", "from fastcnn.cli.main import main; main()", *command]
    result = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith('Error: the device "cpu" runs compiled kernels, and NUMBA_DISABLE_JIT')
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("quick_roofs")
def test_doctor_names_damaged_kernels_until_they_are_mended(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = cache.Cache(lambda: "kernels")
    monkeypatch.setenv("FASTCNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(host, "_machine_code", lambda: code)
    for name in ("a.o", "b.nbc"):
        code.save(name, b"machine code")
    assert f"{tmp_path / 'kernels'}: 2 compiled kernels" in run("doctor").stdout
    (tmp_path / "kernels/a.o").write_bytes(b"")
    found = run("doctor")
    assert found.exit_code == 1
    assert f"1 file in {tmp_path / 'kernels'} cannot be used" in found.stdout
    assert "(a.o): run `fastcnn warmup`" in found.stdout
    assert "All is well" not in found.output
    host.mend_cache()
    assert "1 compiled kernel," in run("doctor").stdout


# Runs a command, and writes down which kernels it asks for: in the cache, and where that has none, it compiles.
ASKS = """
import atexit, pathlib, sys
from fastcnn.cli.main import main
from fastcnn.kernels.cpu.runtime.compiler import machine_code

asked, right = [], machine_code.load
machine_code.load = lambda name: (asked.append(name), right(name))[1]
atexit.register(lambda: pathlib.Path("asked").write_text(" ".join(asked)))
main()
"""


@pytest.mark.parametrize("cache", selected(["shared", "empty"], "shared"))
def test_after_warmup_of_a_network_its_commands_compile_nothing(tmp_path: Path, cache: str) -> None:
    environment = os.environ | ({"FASTCNN_CACHE_DIR": str(tmp_path / "cache")} if cache == "empty" else {})

    def asked(*arguments: str) -> set[str]:
        """Run a command, which says nothing on standard error; return the names of the kernels it asks for."""
        command = [sys.executable, "-c", ASKS, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return set((tmp_path / "asked").read_text().split())

    compiled = asked("warmup", "lenet5")
    assert len(compiled) > 50
    quickly = ("train", "lenet5", "--epochs", "1", "--out", "net.safetensors")
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "eight.png")
    for command in (
        quickly,
        (*quickly, "--optimizer", "adam", "--augment", "--batch-size", "77"),
        ("eval", "net.safetensors", "--batch-size", "100"),
        ("predict", "net.safetensors", "eight.png"),
        (*quickly, "--threads", "1", "--optimizer", "rmsprop"),
        ("bench", "--model", "lenet5", "--batch", "3", "--seconds", "0", "--repeats", "1"),
    ):
        needed = asked(*command)
        assert needed
        assert not needed - compiled
    if cache == "empty":
        shutil.rmtree(tmp_path / "cache")
        command = [sys.executable, "-c", ASKS, "eval", "net.safetensors"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=tmp_path)
        assert done.stderr == "Compiling kernels for this machine, once: later runs load them.\n"


def test_what_is_compiled_is_told_on_standard_error_unless_only_errors_are_wanted(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastcnn.kernels.cpu.runtime.compiling import watch

    def fit(*arguments: object, **keywords: object) -> None:
        watch.say("compiling")
        raise fc.TrainingError("enough")

    monkeypatch.setattr(fc.Trainer, "fit", fit)
    assert run("train", "lenet5").stderr == "compiling\nError: enough\n"
    assert run("train", "lenet5", "--quiet").stderr == "Error: enough\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--input-shape", "8x8x1"), "--input-shape and --classes go with the name of a network: give one."),
        (("lenet6",), "did you mean lenet"),
        (("lenet5", "--input-shape", "2x2x1"), "lenet5"),
        (("autoencoder", "--classes", "3"), "autoencoder has no classes; leave out --classes."),
    ],
)
def test_warmup_refuses_what_is_no_network(run: Callable[..., Any], arguments: tuple[str, ...], sentence: str) -> None:
    result = run("warmup", *arguments)
    assert result.exit_code in (1, 2)
    assert sentence in result.stderr
    assert "[1/" not in result.stdout


def test_what_is_told_while_a_bar_is_drawn_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    from fastcnn.cli.main import _to_stderr
    from fastcnn.training.progress import Bar

    with Bar(True, "epoch 1/1", 10):
        _to_stderr("compiling")
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err))
    assert "compiling" in [line.strip() for line in lines]
