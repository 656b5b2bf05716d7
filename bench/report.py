"""What a measurement looks like: table, CSV, comparison with an older run, roofline plot."""

import csv
import io
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fastcnn.bench.run import Report, Row, geometric_mean
from fastcnn.errors import BackendError, DataError

# Rows of two reports are the same measurement where these agree.
IDENTITY = ("name", "descriptor", "pass", "algorithm", "dtype", "threads")

PIPE_WIDTH = 170  # columns of the table in a file or a pipe: enough for the longest name of the sets

# What a narrow table does without, first to last; --json and --csv hold all of it.
MOST_DISPENSABLE = (
    "compile\nms", "spread\nms", "GB/s", "bound", "peer\nlayout", "algorithm", "error", "GFLOP/s",
)  # fmt: skip
TEXTS = ("name", "pass", "algorithm")
FOLDED_NAME = 18  # columns that hold "resnet50:res2a_1 x3" on two lines, "lenet:conv1" on one
FRAME = 3  # columns between two cells

LAYOUTS = {"nchw": "nchw", "channels_last": "nhwc"}  # as the table abbreviates them


def console() -> Console:
    """Return a console on standard output."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def table(report: Report, console: Console) -> Table:
    """Return the rows as a table: plain ASCII where the console is no terminal.

    A narrow console gets the columns of MOST_DISPENSABLE no more than it has room for.
    """
    columns = _columns(report)
    for title in MOST_DISPENSABLE:
        if _width(columns) > console.width:
            columns.pop(title, None)
    made = _empty_table(console)
    for title in columns:
        is_text = title in TEXTS
        made.add_column(title, justify="left" if is_text else "right", overflow="fold", no_wrap=title != "name")
    for cells in zip(*columns.values(), strict=True):
        made.add_row(*cells)
    return made


def _columns(report: Report) -> dict[str, list[str]]:
    """Return the cells of every column by its title, those of the peer only where there is one."""
    rows = report.rows
    columns = {
        "name": [_label(row) for row in rows],
        "pass": [row.pass_name for row in rows],
        "algorithm": [row.algorithm for row in rows],
        "compile\nms": [f"{row.compile_ms:.0f}" for row in rows],
        "median\nms": [_number(row.median_ms) for row in rows],
        "spread\nms": [_number(row.spread_ms) for row in rows],
        "GFLOP/s": [f"{row.gflops:.1f}" for row in rows],
        "% of\npeak": [f"{row.percent_of_peak:.1f}" for row in rows],
        "GB/s": [f"{row.gbytes_per_s:.1f}" for row in rows],
        "bound": [row.bound for row in rows],
        "error": [f"{row.max_relative_error:.1e}" for row in rows],
    }
    if any(row.ratio is not None for row in rows):
        columns["peer\nms"] = [_number(row.peer_median_ms) for row in rows]
        columns["peer\nlayout"] = [LAYOUTS.get(row.peer_layout or "", "") for row in rows]
        columns["ratio"] = [_number(row.ratio) for row in rows]
    return columns


def _width(columns: Mapping[str, list[str]]) -> int:
    """Return the width of a table of these columns, its names folded where they are long."""
    lines = {title: [*title.split("\n"), *cells] for title, cells in columns.items()}
    widths = {title: max(map(len, cells)) for title, cells in lines.items()}
    return sum(widths.values()) - max(0, widths["name"] - FOLDED_NAME) + FRAME * len(widths)


def _empty_table(console: Console) -> Table:
    return Table(
        box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2,
        header_style="bold",
        pad_edge=False,
    )


def _label(row: Row) -> str:
    return (row.name or row.descriptor) + (f" x{row.count}" if row.count > 1 else "")


def _number(value: float | None) -> str:
    """Return three significant digits, never an exponent; empty for None.

    >>> [_number(v) for v in (0.01234, 1.5, 1234.5, None)]
    ['0.0123', '1.50', '1234', '']
    """
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def summary(report: Report) -> list[str]:
    """Return the lines beneath the table: total time, counts included, and mean ratio by pass."""
    lines = []
    for name, rows in report.by_pass().items():
        total = sum(row.median_ms * row.count for row in rows)
        flops = sum(row.flops * row.count for row in rows)
        rate = f"{flops / total / 1e6:.0f} GFLOP/s"
        line = f"{name}: {_number(total)} ms in all, counts included ({rate})"
        if all(row.peer_median_ms is not None for row in rows):
            theirs = sum((row.peer_median_ms or 0) * row.count for row in rows)
            mean = geometric_mean(row.ratio for row in rows)
            line += f"; peer {_number(theirs)} ms; geometric mean of the ratios {_number(mean)}"
        lines.append(line)
    if report.geomean_ratio is not None:
        lines.append(
            f"all passes: geometric mean of the ratios {_number(report.geomean_ratio)} (above 1: ours is faster)"
        )
    return lines


def show(report: Report, console: Console) -> None:
    """Print header, table and summary."""
    for line in report.machine.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(table(report, console))
    for line in summary(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def as_json(report: Report) -> str:
    """Return the report as JSON text."""
    return json.dumps(report.as_dict(), indent=2) + "\n"


def as_csv(report: Report) -> str:
    """Return the rows as CSV text, under the names of their JSON keys."""
    rows = [row.as_dict() for row in report.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_old(path: Path) -> dict[tuple[Any, ...], float]:
    """Return the median times of an older report by the identity of their rows.

    Raises
    ------
    DataError
        If the file is no report.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {tuple(row[key] for key in IDENTITY): float(row["median_ms"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a report to compare with ({type(error).__name__}: {error}); "
            "give a file that fastcnn bench --json wrote."
        ) from error


def show_comparison(report: Report, old: Mapping[tuple[Any, ...], float], console: Console) -> None:
    """Print how many times faster each row is than in the older report."""
    made = _empty_table(console)
    for title in ("name", "pass", "algorithm"):
        made.add_column(title, overflow="fold")
    for title in ("old ms", "new ms", "old / new"):
        made.add_column(title, justify="right", no_wrap=True)
    ratios = []
    for row in report.rows:
        fields = row.as_dict()
        before = old.get(tuple(fields[key] for key in IDENTITY))
        ratio = None if before is None else before / row.median_ms
        ratios.append(ratio)
        made.add_row(
            _label(row),
            row.pass_name,
            row.algorithm,
            _number(before) or "-",
            _number(row.median_ms),
            _number(ratio) or "-",
        )
    console.print(made)
    mean, known = geometric_mean(ratios), len(ratios) - ratios.count(None)
    line = f"{known} of {len(ratios)} rows stand in the older report"
    if mean is not None:
        line += f"; geometric mean of old / new: {_number(mean)} (above 1: faster now)"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def require_matplotlib() -> None:
    """Raise a BackendError unless matplotlib can be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendError(
            'A roofline plot needs matplotlib, which is not installed; run: pip install "fastcnn[plot]"'
        ) from error


def plot_roofline(report: Report, path: Path) -> None:
    """Draw GFLOP/s over operations a byte, one point a row, under the two measured roofs."""
    require_matplotlib()
    from matplotlib.figure import Figure

    machine = report.machine
    ridge = machine.peak_gflops / machine.bandwidth_gbytes_per_s
    points = {name: [(row.flops / row.bytes, row.gflops) for row in rows] for name, rows in report.by_pass().items()}
    intensities = [x for pairs in points.values() for x, _ in pairs] + [ridge]
    low, high = min(intensities) / 2, max(intensities) * 2
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(
        [low, ridge, high],
        [low * machine.bandwidth_gbytes_per_s, machine.peak_gflops, machine.peak_gflops],
        color="black",
        label=f"{machine.bandwidth_gbytes_per_s:.0f} GB/s, {machine.peak_gflops:.0f} GFLOP/s",
    )
    for name, pairs in points.items():
        axes.plot(*zip(*pairs, strict=True), "o", label=name, alpha=0.7)
    axes.set_xlabel("operations a byte (input, weights and output once)")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"{machine.cpu}, {machine.threads} threads, {machine.dtype}")
    axes.legend()
    figure.savefig(path)
