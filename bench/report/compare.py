"""A report beside an older one: how many times faster each row is, and which rows have no partner."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fastcnn.bench.report.ratios import geometric_mean
from fastcnn.bench.report.table import empty_table, label, number
from fastcnn.bench.run import Report
from fastcnn.errors import DataError

# Rows of two reports are the same measurement where these agree. The algorithm may have changed.
IDENTITY = ("layer", "descriptor", "pass", "dtype", "threads")
MOST_NAMED = 3  # missing rows named in a sentence

Identity = tuple[Any, ...]


@dataclass(frozen=True)
class OldRow:
    """What is compared of an older row."""

    label: str
    algorithm: str
    median_ms: float


@dataclass(frozen=True)
class OldReport:
    """An older report: the CPU it was measured on, and its rows."""

    cpu: str
    rows: dict[Identity, OldRow]


def read_old(path: Path) -> OldReport:
    """Return the older report that `--json` wrote.

    Raises
    ------
    DataError
        If the file is no report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = {
            tuple(row[key] for key in IDENTITY): OldRow(
                f"{row['name'] or row['descriptor']} {row['pass']}", str(row["algorithm"]), float(row["median_ms"])
            )
            for row in content["rows"]
        }
        return OldReport(str(content["machine"]["cpu"]), rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a report to compare with ({type(error).__name__}: {error}); "
            "give a file that fastcnn bench --json wrote."
        ) from error


def show_comparison(report: Report, old: OldReport, console: Console) -> None:
    """Print how many times faster each row is than in the older report, and what only one of them holds."""
    made = empty_table(console)
    for title in ("name", "pass", "algorithm"):
        made.add_column(title, overflow="fold")
    for title in ("old ms", "new ms", "old / new"):
        made.add_column(title, justify="right", no_wrap=True)
    left, ratios, new = dict(old.rows), [], []
    for row in report.rows:
        fields = row.as_dict()
        before = left.pop(tuple(fields[key] for key in IDENTITY), None)
        cells = [label(row), row.pass_name, row.algorithm, "-", number(row.median_ms), "-"]
        if before is None:
            new.append(f"{row.name or row.descriptor} {row.pass_name}")
        else:
            ratios.append(before.median_ms / row.median_ms)
            changed = before.algorithm != row.algorithm
            cells[2:] = [
                f"{row.algorithm} (was {before.algorithm})" if changed else row.algorithm,
                number(before.median_ms), number(row.median_ms), number(ratios[-1]),
            ]  # fmt: skip
        made.add_row(*cells)
    console.print(made)
    for line in sentences(report, old, ratios, new, [row.label for row in left.values()]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def sentences(report: Report, old: OldReport, ratios: list[float], new: list[str], gone: list[str]) -> Iterable[str]:
    """Yield what the comparison comes to, and what it lacks."""
    line = f"{len(ratios)} of {len(report.rows)} rows stand in the older report"
    mean = geometric_mean(ratios)
    if mean is not None:
        line += f"; geometric mean of old / new: {number(mean)} (above 1: faster now)"
    yield line
    if new:
        yield f"not in the older report: {named(new)}"
    if gone:
        yield f"only in the older report: {named(gone)}"
    if old.cpu != report.machine.cpu:
        yield f"the older report is of another CPU: {old.cpu}"


def named(rows: list[str]) -> str:
    """Return the first rows by name, and how many more there are.

    >>> named(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(rows) - MOST_NAMED
    return ", ".join(rows[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
