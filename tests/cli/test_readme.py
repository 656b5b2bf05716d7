"""What the README tells its readers to type works."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import click
import pytest

from fastcnn.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line for block in BLOCKS for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", README)
COMMANDS = sorted({line for line in LINES if re.match(r"fastcnn [a-z]", line)})


def test_python_example(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    printed = io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(printed):
        exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert float(printed.getvalue()) > 0.95
    assert (tmp_path / "digits.safetensors").is_file()


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command = main.get_command(click.Context(main), name)
    assert command is not None, line
    known = {option for parameter in command.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_first_commands_are_those_the_build_runs() -> None:
    assert BLOCKS[0] == "pip install . && fastcnn train lenet\n"
    assert BLOCKS[1] == 'pip install -e ".[dev]" && pytest\n'
