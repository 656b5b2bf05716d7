"""The group of commands: help, lazy loading, and how errors end."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

from fastcnn.cli import main as main_module
from fastcnn.cli.main import COMMANDS, main
from fastcnn.errors import ArgumentError, DataError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def run_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", [*COMMANDS, None])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(name: str | None, flag: str) -> None:
    result = run(*([name] if name else []), flag)
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    if name:
        assert f"fastcnn {name}" in result.output.split("Examples:")[1]
    else:
        assert all(f"  {command} " in result.output for command in COMMANDS)


def test_help_and_usage_errors_load_no_compiler() -> None:
    checked = run_process(
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from fastcnn.cli.main import main\n"
        "for arguments in (['-h'], ['train', '-h'], ['train', '--lr', '0', 'x'], ['train', 'x']):\n"
        "    assert CliRunner().invoke(main, arguments).exit_code in (0, 2)\n"
        "print([name for name in ('numba', 'rich', 'PIL', 'pooch') if name in sys.modules])"
    )
    assert checked.stdout == "[]\n", checked.stderr


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("fastcnn, version ")


def test_unknown_command_and_option() -> None:
    for arguments, sentence in (
        (["trian"], "No such command 'trian': did you mean train?"),
        (["frobnicate"], "the commands are train, eval, "),
        (["train", "lenet", "--no-such-option"], "No such option"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (DataError("The data are bad; give others."), 1, "Error: The data are bad; give others.\n"),
        (ArgumentError("lr was -1; give more."), 2, "Error: lr was -1; give more.\n"),
        (
            MemoryError(),
            1,
            "Error: The memory of this machine does not suffice; try a smaller batch.\n",
        ),
        (
            KeyError("x"),
            1,
            "Error: KeyError: 'x' (run it as `fastcnn --debug ...` to see where).\n",
        ),
    ],
)
def test_an_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, sentence: str
) -> None:
    _fail_with(monkeypatch, error)
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (status, sentence)
    assert not result.stdout
    assert run("--debug", "doctor").exception is error


def test_ctrl_c_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, KeyboardInterrupt())
    result = run("doctor")
    assert (result.exit_code, result.output) == (130, "")


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(main_module.Commands, "get_command", lambda *_: failing)
