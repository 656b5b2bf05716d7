"""The command `fastcnn`: finds the subcommand, and ends errors as one sentence and a status.

    0  done      1  the run failed (bad data, a loss that is not finite, an unreadable model file)
    2  bad usage (an unknown option, name or value)      130  stopped with Ctrl-C

Whether somebody reads its output changes nothing in that.

A command's file is imported when the command is named, and numba, rich and pillow only when it
runs.
"""

import difflib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

import click

from fastcnn.cli import streams
from fastcnn.errors import ArgumentError, FastcnnError
from fastcnn.threads import compilation_announced

COMMANDS = {
    "train": "fastcnn.cli.train:train",
    "eval": "fastcnn.cli.eval:evaluate",
    "predict": "fastcnn.cli.predict:predict",
    "summary": "fastcnn.cli.summary:summary",
    "bench": "fastcnn.cli.bench:bench",
    "plot": "fastcnn.cli.plot:plot",
    "operations": "fastcnn.cli.operations:operations",
    "doctor": "fastcnn.cli.doctor:doctor",
    "warmup": "fastcnn.cli.warmup:warmup",
}
INTERRUPTED = 130  # 128 + SIGINT, what shells expect


class Misuse(click.ClickException):
    """Bad usage that only a running command could see."""

    exit_code = 2


class Commands(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """Import and return a command, or fail with the nearest name."""
        if name not in COMMANDS:
            ctx.fail(_unknown(name))
        module, attribute = COMMANDS[name].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; an output that takes nothing more, as on a full disk, ends as one sentence, too."""
        streams.prepare()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            click.echo(f"Error: the output cannot be written ({error.strerror or error}).", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; without --debug, whatever it raises ends as one sentence."""
        ctx.with_resource(compilation_announced(_to_stderr))
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        ctx.with_resource(_plain_warnings())
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click knows how to end on each
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except Exception as error:
            explain(error)


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the commands are {', '.join(COMMANDS)}."
    return f"No such command {name!r}: {hint}"


def explain(error: Exception) -> NoReturn:
    """Raise what tells a user of an error: one sentence and the status."""
    if isinstance(error, ArgumentError):
        raise Misuse(str(error)) from None
    if isinstance(error, FastcnnError):
        raise click.ClickException(str(error)) from None
    if isinstance(error, MemoryError):
        raise click.ClickException("The memory of this machine does not suffice; try a smaller batch.") from None
    raise click.ClickException(
        f"{type(error).__name__}: {error} (run it as `fastcnn --debug ...` to see where)."
    ) from None


def _to_stderr(sentence: str) -> None:
    # Not by click.echo: it goes past what a progress bar puts in place of the stream to write above itself.
    print(sentence, file=sys.stderr, flush=True)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings as one sentence: where in the source they arose says nothing to users of commands."""

    def show(message: Warning | str, *where: object, **more: object) -> None:
        _to_stderr(f"Warning: {message}")

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try `fastcnn train lenet`: it trains on digits that travel with the package.",
)
@click.version_option(version("fastcnn"), prog_name="fastcnn")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Train, use and measure convolutional networks on CPU cores."""
