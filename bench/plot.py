"""The roofline: every row's GFLOP/s over its operations a byte, under the two measured roofs.

Source: Williams, Waterman, Patterson 2009.
"""

from pathlib import Path
from typing import Any

from fastcnn.bench.machine import Machine
from fastcnn.bench.run import Report, Row
from fastcnn.errors import ArgumentError, BackendError
from fastcnn.plotting import write_figure

MOST_NAMES = 24  # labels that a plot of this size can hold; the rows farthest below their roof get them
MARKERS = "osD^v<>P"
FORMATS = ("jpg", "pdf", "png", "svg")


def check(path: Path) -> None:
    """Refuse before anything runs what could not be drawn at its end.

    Raises
    ------
    ArgumentError
        If the file's ending names none of FORMATS.
    BackendError
        If matplotlib is not installed.
    """
    if path.suffix.removeprefix(".").lower() not in FORMATS:
        raise ArgumentError(f"--plot {path} has no ending that can be drawn: use one of {', '.join(FORMATS)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendError(
            'A roofline plot needs matplotlib, which is not installed; run: pip install "fastcnn[plot]"'
        ) from error


def plot_roofline(report: Report, path: Path) -> None:
    """Draw the rows, those of a pass alike, the lowest of them named, under the roofs."""
    from matplotlib.figure import Figure  # a figure of its own, without pyplot, needs no display

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    _draw_roofs(axes, report.machine, [intensity(row) for row in report.rows])
    for (name, rows), marker in zip(report.by_pass().items(), MARKERS * len(report.rows), strict=False):
        axes.plot([intensity(row) for row in rows], [row.gflops for row in rows], marker, label=name, alpha=0.6, ms=5)
    for row in named_rows(report):
        short = (row.name or row.descriptor).split(":", 1)[-1]
        at = intensity(row), row.gflops
        axes.annotate(short, at, xytext=(4, -2), textcoords="offset points", fontsize=6)
    machine = report.machine
    axes.set_xlabel("operations a byte (every array once)")
    axes.set_ylabel("GFLOP/s (a multiply-add counts 2)")
    axes.set_title(f"{machine.cpu}, {machine.threads} thread{'s' * (machine.threads != 1)}, {machine.dtype}")
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    axes.legend()
    write_figure(figure, path)


def intensity(row: Row) -> float:
    """Return the operations a byte of a row."""
    return row.flops / row.bytes


def roof(row: Row, machine: Machine) -> float:
    """Return the GFLOP/s that the roofs leave to a row."""
    return min(machine.peak_gflops, intensity(row) * machine.bandwidth_gbytes_per_s)


def named_rows(report: Report) -> list[Row]:
    """Return the rows to name, those farthest below their roof first; one of each shape."""
    lowest = sorted(report.rows, key=lambda row: row.gflops / roof(row, report.machine))
    once = {row.descriptor: row for row in reversed(lowest)}  # the last of a shape, its lowest, stays
    return [row for row in lowest if once[row.descriptor] is row][:MOST_NAMES]


def _draw_roofs(axes: Any, machine: Machine, intensities: list[float]) -> None:
    """Draw the slope of the bandwidth up to the peak, from below the lowest row to above the highest."""
    peak, bandwidth = machine.peak_gflops, machine.bandwidth_gbytes_per_s
    ridge = peak / bandwidth
    low, high = min([*intensities, ridge]) / 2, max([*intensities, ridge]) * 2
    roofs = f"measured roofs: {bandwidth:.0f} GB/s, {peak:.0f} GFLOP/s"
    axes.loglog([low, ridge, high], [low * bandwidth, peak, peak], color="black", label=roofs)
