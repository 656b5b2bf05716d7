"""The roofline: every row's GFLOP/s over its operations a byte, under the two measured roofs.

The rows farthest below their roof have a number, which the list beside the plot explains: names in the plot would
lie over each other.

Source: Williams, Waterman, Patterson 2009.
"""

from math import atan2, cos, degrees, pi, sin
from pathlib import Path
from typing import Any

from fastcnn.bench.machine import Machine
from fastcnn.bench.report.table import incomplete, label
from fastcnn.bench.run import Report, Row, proves_more
from fastcnn.errors import ArgumentError, BackendError
from fastcnn.plotting import write_figure

MOST_NAMES = 30  # rows that the list beside a plot of this size can hold
LONGEST_NAME = 34  # characters of a name in the list
MARKERS = "osD^v<>P"
FORMATS = ("jpg", "pdf", "png", "svg")

Place = tuple[float, float]  # in pixels of the figure

INCHES = 13.0, 6.8  # of the figure
PLOT = 0.06, 0.09, 0.57, 0.82  # left, bottom, width and height of the axes, in shares of the figure
LIST = 0.65  # left edge of the legend and of the list
NUMBER_SIZE, LIST_SIZE = 6.5, 7.0  # points
MARGIN = 3.0  # factor between the outermost points, or the ridge, and the edges
FEW_DECADES = 2.5  # an axis of no more than these has ticks at 1, 2 and 5, a longer one at 1 alone
BESIDE = 1.05  # factor between a roof, or an edge, and the roof's name
RINGS, TURNS = 8, 16  # places about a point that are tried for its number: distances, and directions


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
    """Draw the rows, and those of a peer, under the roofs; the lowest rows are listed by name."""
    from matplotlib.figure import Figure  # a figure of its own, without pyplot, needs no display

    figure = Figure(figsize=INCHES)
    axes = figure.add_axes(PLOT)
    _draw_axes(axes, report)
    _draw_roofs(axes, report.machine)
    _draw_points(axes, report)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(LIST, PLOT[1] + PLOT[3]), bbox_transform=figure.transFigure,
                         borderaxespad=0, fontsize=8, frameon=False)  # fmt: skip
    rows = named_rows(report)
    below = legend.get_window_extent().y0 / figure.bbox.height - 0.02
    figure.text(LIST, below, listing(rows, report), va="top", family="monospace", fontsize=LIST_SIZE, linespacing=1.15)
    _number_points(axes, rows, report)
    write_figure(figure, path)


def intensity(row: Row) -> float:
    """Return the operations a byte of a row."""
    return row.flops / row.bytes


def roof(row: Row, machine: Machine) -> float:
    """Return the GFLOP/s that the roofs leave to a row."""
    return min(machine.peak_gflops, intensity(row) * machine.bandwidth_gbytes_per_s)


def peer_gflops(row: Row) -> float | None:
    """Return the peer's GFLOP/s of a row, None without a peer."""
    return row.flops / row.peer_median_ms / 1e6 if row.peer_median_ms else None


def named_rows(report: Report) -> list[Row]:
    """Return the rows to name, those farthest below their roof first; one of each shape."""
    lowest = sorted(report.rows, key=lambda row: row.gflops / roof(row, report.machine))
    once = {row.descriptor: row for row in reversed(lowest)}  # the last of a shape, its lowest, stays
    return [row for row in lowest if once[row.descriptor] is row][:MOST_NAMES]


def listing(rows: list[Row], report: Report) -> str:
    """Return the list of numbered rows: number, share of the roof, pass, name."""
    lines = ["% of the roof: the lowest row of a shape, lowest shapes first"]
    width = max((len(row.pass_name) for row in rows), default=0)
    for number, row in enumerate(rows, 1):
        share = 100 * row.gflops / roof(row, report.machine)
        name = label(row)
        short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
        lines.append(f"{number:>2} {share:>4.0f}%  {row.pass_name:<{width}}  {short}")
    return "\n".join(lines)


def title(report: Report) -> str:
    """Return the lines above the plot: the machine, and what is wrong with the run."""
    machine = report.machine
    lines = [f"{machine.cpu}, {machine.threads} thread{'s' * (machine.threads != 1)}, {machine.dtype}"]
    if any(proves_more(row, machine) for row in report.rows):
        lines.append("the measured peak is too low: another process was running; measure again")
    if not report.complete:
        lines.append(incomplete(len(report.rows), report.planned_rows))
    return "\n".join(lines)


def _draw_axes(axes: Any, report: Report) -> None:
    """Set limits that hold all points and some of both roofs, ticks with plain numbers, and titles."""
    machine = report.machine
    ridge = machine.peak_gflops / machine.bandwidth_gbytes_per_s
    rates = [row.gflops for row in report.rows] + [rate for row in report.rows if (rate := peer_gflops(row))]
    across, up = [*map(intensity, report.rows), ridge], [*rates, machine.peak_gflops]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(across) / MARGIN, max(across) * MARGIN)
    axes.set_ylim(min(up) / MARGIN, max(up) * MARGIN)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        _set_ticks(axis, high / low)
    axes.set_xlabel("operations a byte (every array once)")
    axes.set_ylabel("GFLOP/s (a multiply-add counts 2, by direct sums)")
    axes.set_title(title(report), fontsize=10)
    axes.grid(visible=True, which="major", linewidth=0.4, alpha=0.6)


def _set_ticks(axis: Any, ratio: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 10**FEW_DECADES else (1,), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:,.6f}".rstrip("0").rstrip(".")))
    axis.set_minor_formatter(NullFormatter())


def _draw_roofs(axes: Any, machine: Machine) -> None:
    """Draw the slope of the bandwidth up to the peak, each with its name along it."""
    peak, bandwidth = machine.peak_gflops, machine.bandwidth_gbytes_per_s
    ridge, (low, high) = peak / bandwidth, axes.get_xlim()
    axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color="black", label="measured roofs", zorder=1)
    start = max(low, axes.get_ylim()[0] / bandwidth)
    (x0, y0), (x1, y1) = axes.transData.transform([(start, start * bandwidth), (ridge, peak)])
    style = {"va": "bottom", "fontsize": 8, "rotation_mode": "anchor"}
    angle, begin = degrees(atan2(y1 - y0, x1 - x0)), start * BESIDE  # at the edges: no point is there
    axes.text(begin, begin * bandwidth * BESIDE, f"bandwidth {bandwidth:.3g} GB/s", rotation=angle, ha="left", **style)
    axes.text(high / BESIDE, peak * BESIDE, f"peak {peak:.4g} GFLOP/s", ha="right", **style)


def _draw_points(axes: Any, report: Report) -> None:
    """Draw the rows of each pass in one colour: ours filled, those by transforms hollow, the peer's as crosses."""
    for (name, rows), marker in zip(report.by_pass().items(), MARKERS * len(report.rows), strict=False):
        colour = None
        for hollow in (False, True):
            some = [row for row in rows if (row.algorithm == "winograd") is hollow]
            if not some:
                continue
            (line,) = axes.plot(
                [intensity(row) for row in some], [row.gflops for row in some], marker, ms=5, alpha=0.75, zorder=3,
                color=colour, label=f"{name}, by transforms (may pass the peak)" if hollow else name,
            )  # fmt: skip
            colour = line.get_color()
            if hollow:
                line.set_markerfacecolor("none")
        theirs = [(intensity(row), rate) for row in rows if (rate := peer_gflops(row))]
        if theirs:
            peer = report.peer["name"] if report.peer else "peer"
            axes.plot(*zip(*theirs, strict=True), "x", ms=4, alpha=0.6, color=colour, label=f"{name}, {peer}", zorder=2)


def _number_points(axes: Any, rows: list[Row], report: Report) -> None:
    """Write each row's number at the nearest place to its point where it covers no other number and no point."""
    dots = axes.figure.dpi / 72  # of a typographic point
    points = [_pixels(axes, row) for row in report.rows]
    size = NUMBER_SIZE * dots
    taken: list[tuple[float, float]] = []
    for number, row in enumerate(rows, 1):
        at = _pixels(axes, row)
        place = free_place(at, points, taken, size)
        taken.append(place)
        offset = ((place[0] - at[0]) / dots, (place[1] - at[1]) / dots)
        axes.annotate(
            str(number), (intensity(row), row.gflops), xytext=offset, textcoords="offset points", ha="center",
            va="center", fontsize=NUMBER_SIZE, zorder=4,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "alpha": 0.6, "shrinkA": 3, "shrinkB": 2},
        )  # fmt: skip


def _pixels(axes: Any, row: Row) -> Place:
    x, y = axes.transData.transform((intensity(row), row.gflops))
    return float(x), float(y)


def free_place(at: Place, points: list[Place], taken: list[Place], size: float) -> Place:
    """Return where a number of this size goes: as near to its point as it covers no other number and no point.

    >>> x, y = free_place((0.0, 0.0), [(0.0, 0.0)], [], 10.0)
    >>> round(x**2 + y**2, 6)
    100.0
    """
    places = [
        (at[0] + ring * size * cos(2 * pi * turn / TURNS), at[1] + ring * size * sin(2 * pi * turn / TURNS))
        for ring in range(1, RINGS + 1)
        for turn in range(TURNS)
    ]

    def covered(place: Place) -> int:
        numbers = sum(abs(place[0] - x) < 1.6 * size and abs(place[1] - y) < 1.2 * size for x, y in taken)
        dots = sum(abs(place[0] - x) < size and abs(place[1] - y) < 0.9 * size for x, y in points)
        return 4 * numbers + dots  # a number over a number can be read least of all

    return min(places, key=covered)  # the first, nearest one of the least
