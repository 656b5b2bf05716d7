"""Numbers on the command line: every option that takes one refuses what is none, before anything runs."""

from collections.abc import Callable
from typing import Any

import click
import pytest

from fastcnn.cli.main import COMMANDS, main
from fastcnn.cli.options import Number


def real_options() -> list[tuple[str, str]]:
    """Return all commands' options that take a real number."""
    found = []
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert isinstance(command, click.Command)
        for option in command.params:
            if isinstance(option.type, click.types.FloatParamType):
                found.append((name, option.opts[0]))
    return found


def test_commands_take_real_numbers() -> None:
    assert {"--lr", "--momentum", "--weight-decay", "--clip-norm", "--until", "--seconds"} <= {
        option for _, option in real_options()
    }


@pytest.mark.parametrize(("command", "option"), real_options())
@pytest.mark.parametrize("value", ["nan", "NaN", "-nan", "inf", "-inf", "1e999", "many"])
def test_what_is_no_number_is_bad_usage(run: Callable[..., Any], command: str, option: str, value: str) -> None:
    model = ["lenet"] if command == "train" else []
    result = run(command, *model, f"{option}={value}")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr
    assert not result.stdout


def test_a_number_keeps_its_range() -> None:
    kind = Number(0, 1, max_open=True)
    assert kind.convert("0.25", None, None) == 0.25
    with pytest.raises(click.BadParameter, match="not in the range 0<=x<1"):
        kind.convert("1", None, None)
