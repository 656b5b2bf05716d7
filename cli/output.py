"""What commands print and write: tables, JSON files."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastcnn.errors import DataError
from fastcnn.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120  # columns of a table that goes into a file or a pipe


def console() -> "Console":
    """Return a console on today's stdout; outside a terminal it is as wide as our widest table."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; a column is its title and whether it holds numbers (flush right)."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else box.ASCII2, pad_edge=False)
    for title, is_number in columns:
        table.add_column(title, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)


def write_json(path: Path | None, content: dict[str, Any], say: Callable[[str], object] = click.echo) -> None:
    """Write the content to the file in one step, and say so; nothing if there is no path.

    Raises
    ------
    DataError
        If a number is NaN or infinity, which JSON does not have, or the file cannot be written.
    """
    if path is None:
        return
    for place, number in _numbers(content):
        if not isfinite(number):
            raise DataError(f"{path} is not written, as JSON has no number {number}, which is the result's {place}.")
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None
    say(f"wrote {path}")


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every float in JSON values with its place, such as "epochs[0].loss"."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{place}[{number}]")


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return "1 image", "2,000 images"; `nouns` is the plural where it is not noun + "s".

    >>> plural(2000, "image")
    '2,000 images'
    """
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
