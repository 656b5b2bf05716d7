"""What a measurement looks like: table, summary, slowest rows, JSON and CSV."""

import csv
import io
import math
import sys
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from fastcnn.bench.machine import Machine
from fastcnn.bench.profile import Profile
from fastcnn.bench.report.ratios import PERCENTILES, distribution, geometric_mean, lowest, total_ms
from fastcnn.bench.run import Report, Row, counts_spared, proves_more

PIPE_WIDTH = 190  # columns of the table in a file or a pipe: enough for the longest name of the sets

# What a narrow table does without, first to last; --json and --csv hold all of it.
MOST_DISPENSABLE = (
    "scratch\nMiB", "compile\nms", "spread\nms", "% of\nroof", "GB/s", "bound", "MFLOP", "peer\nlayout", "algorithm",
    "error", "GFLOP/s",
)  # fmt: skip
TEXTS = ("name", "pass", "algorithm")
FOLDED_NAME = 18  # columns that hold "resnet50:res2a_1 x3" on two lines, "lenet:conv1" on one
FRAME = 3  # columns between two cells
MEBIBYTE = 1 << 20
MEGA = 1e6
PROOF, SPARED = "!", "*"  # marks of rows above the peak: it is too low, or they count more than they do

MOST_SLOWEST = 10  # rows listed beneath the table
ENOUGH = 20  # ratios of a pass, from which on their percentiles are shown

LAYOUTS = {"nchw": "nchw", "channels_last": "nhwc", "out_in": "oi", "in_out": "io"}  # as the table abbreviates them


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
    made = empty_table(console)
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
        "name": [label(row) for row in rows],
        "pass": [row.pass_name for row in rows],
        "algorithm": [row.algorithm for row in rows],
        "compile\nms": [f"{row.compile_ms:.0f}" for row in rows],
        "scratch\nMiB": [number(row.scratch_bytes / MEBIBYTE) for row in rows],
        "median\nms": [number(row.median_ms) for row in rows],
        "spread\nms": [number(row.spread_ms) for row in rows],
        "MFLOP": [number(row.flops / MEGA) for row in rows],
        "GFLOP/s": [f"{row.gflops:.1f}" for row in rows],
        "% of\npeak": _percents_of_peak(report),
        "% of\nroof": [f"{row.percent_of_roof:.1f}" for row in rows],
        "GB/s": [f"{row.gbytes_per_s:.1f}" for row in rows],
        "bound": [row.bound for row in rows],
        "error": [f"{row.max_relative_error:.1e}" for row in rows],
    }
    if any(row.ratio is not None for row in rows):
        columns["peer\nms"] = [number(row.peer_median_ms) for row in rows]
        columns["peer\nlayout"] = [LAYOUTS.get(row.peer_layout or "", "") for row in rows]
        columns["ratio"] = [number(row.ratio) for row in rows]
    return columns


def peak_mark(row: Row, machine: Machine) -> str:
    """Return the mark of a row that passes the measured peak, else nothing."""
    if proves_more(row, machine):
        return PROOF
    return SPARED if counts_spared(row) else ""


def _percents_of_peak(report: Report) -> list[str]:
    """Return the cells of that column, their points one above the other where some have a mark."""
    marks = [peak_mark(row, report.machine) for row in report.rows]
    width = max(map(len, marks), default=0)
    return [f"{row.percent_of_peak:.1f}{mark:<{width}}" for row, mark in zip(report.rows, marks, strict=True)]


def notes(report: Report) -> list[str]:
    """Return what must be known to read the table: what passes the peak, and why, and what is missing."""
    marks = {peak_mark(row, report.machine) for row in report.rows}
    lines = []
    if PROOF in marks:
        lines.append(
            f"{PROOF} faster than the measured peak of {report.machine.peak_gflops:.0f} GFLOP/s, which is too low: "
            "another process was running while it was measured; measure again on an idle machine."
        )
    if SPARED in marks:
        lines.append(
            f"{SPARED} may pass the peak: counts the products of direct sums, of which it does fewer "
            "(transforms, taps on padding)."
        )
    if not report.complete:
        lines.append(incomplete(len(report.rows), report.planned_rows))
    return lines


def incomplete(rows: int, planned: int | None) -> str:
    """Return the sentence about a run that was interrupted."""
    return f"incomplete: interrupted after {rows} of {planned} rows."


def _width(columns: Mapping[str, list[str]]) -> int:
    """Return the width of a table of these columns, its names folded where they are long."""
    lines = {title: [*title.split("\n"), *cells] for title, cells in columns.items()}
    widths = {title: max(map(len, cells)) for title, cells in lines.items()}
    return sum(widths.values()) - max(0, widths["name"] - FOLDED_NAME) + FRAME * len(widths)


def empty_table(console: Console) -> Table:
    """Return a table without columns, plain ASCII where the console is no terminal."""
    return Table(
        box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2,
        header_style="bold",
        pad_edge=False,
    )


def label(row: Row) -> str:
    """Return what names a row: its name or else its descriptor, and its count."""
    return (row.name or row.descriptor) + (f" x{row.count}" if row.count > 1 else "")


def number(value: float | None) -> str:
    """Return three significant digits, never an exponent; empty for None.

    >>> [number(v) for v in (0.01234, 1.5, 1234.5, None)]
    ['0.0123', '1.50', '1234', '']
    """
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def summary(report: Report) -> list[str]:
    """Return the lines beneath the table: total times, counts included, and mean ratios, by pass and in all."""
    groups = report.by_pass()
    lines = [summary_line(name, rows) for name, rows in groups.items()]
    if len(groups) > 1 and report.geomean_ratio is not None:
        lines.append(summary_line("all passes", report.rows))
    return lines


def summary_line(name: str, rows: list[Row]) -> str:
    """Return the line of these rows: what a network of all of them takes, then the mean of each row once."""
    ours, theirs = total_ms(rows)
    flops = sum(row.flops * row.count for row in rows)
    line = f"{name}: {number(ours)} ms in all, counts included ({flops / ours / 1e6:.0f} GFLOP/s)"
    if theirs is not None:
        mean = geometric_mean(row.ratio for row in rows)
        line += f"; peer {number(theirs)} ms, ratio {number(theirs / ours)}"
        line += f"; geometric mean of the ratios, each row once: {number(mean)}"
    return line


def show(report: Report, console: Console) -> None:
    """Print header, table and summary, and against a peer how the ratios are spread and which rows are slowest."""
    for line in report.machine.lines() + peer_lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(table(report, console))
    for line in notes(report) + summary(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.geomean_ratio is not None:
        spread_is_shown = show_distribution(report, console)
        show_slowest(report, console, spread_is_shown)


def peer_lines(report: Report) -> list[str]:
    """Return the line about the peer, if there is one."""
    if report.peer is None:
        return []
    memory = {"fresh": "as users have it", "kept": "kept by its process"}[report.peer["memory"]]
    return [f"against {report.peer['name']} {report.peer['version']}, its memory {memory}"]


def show_distribution(report: Report, console: Console) -> bool:
    """Print the percentiles of the ratios by pass, if a pass has enough of them; return whether it has."""
    groups = {name: rows for name, rows in report.by_pass().items() if len(rows) >= ENOUGH}
    if not groups:
        return False
    if len(groups) > 1:
        groups["all passes"] = report.rows
    made = empty_table(console)
    made.add_column("ratio (above 1: ours is faster)", overflow="fold")
    for title in ("rows", "min", *(f"{p}%" for p in PERCENTILES), "max", "below 1"):
        made.add_column(title, justify="right", no_wrap=True)
    for name, rows in groups.items():
        found = distribution(row.ratio for row in rows)
        if found is not None:
            values = [number(found[key]) for key in ("min", *(f"p{p}" for p in PERCENTILES), "max")]
            made.add_row(name, str(found["rows"]), *values, f"{found['share_below_1']:.1%}")
    console.print(made)
    return True


def show_slowest(report: Report, console: Console, even_if_faster: bool) -> None:
    """Print the rows that lie farthest behind the peer, or those least ahead of it where none is behind."""
    behind = lowest(report.rows, len(report.rows), below=1)
    line = f"slower than the peer: {len(behind)} of {len(report.rows)} rows"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    shown = lowest(report.rows, MOST_SLOWEST) if even_if_faster else behind[:MOST_SLOWEST]
    if not shown:
        return
    made = empty_table(console)
    for title in ("lowest ratios", "pass", "algorithm"):
        made.add_column(title, overflow="fold", no_wrap=title != "lowest ratios")
    for title in ("ms", "peer ms", "ratio"):
        made.add_column(title, justify="right", no_wrap=True)
    for row in shown:
        times = number(row.median_ms), number(row.peer_median_ms), number(row.ratio)
        made.add_row(row.descriptor, row.pass_name, row.algorithm, *times)
    console.print(made)


def as_csv(report: Report | Profile) -> str:
    """Return the rows as CSV text under the names of their JSON keys, each with whether its run was complete."""
    rows = [row.as_dict() | {"complete": report.complete} for row in report.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
