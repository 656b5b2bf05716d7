"""From cases to rows: measure ours and the peer's in turns, then set them against the roofs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastcnn.bench.cases.case import Case
from fastcnn.bench.machine import Machine
from fastcnn.bench.peer.process import Peer
from fastcnn.bench.report.ratios import distribution, geometric_mean, total_ratio
from fastcnn.bench.timing import Effort, alternate
from fastcnn.kernels.cpu.runtime import workspace

NOISE = 1.02  # medians of the same work lie this far apart on an idle machine


@dataclass
class Row:
    """One measured case: its JSON object holds these keys, the last ones null without a peer.

    `spread_ms` is the distance between the quartiles. `count` is how often the network holds the
    shape. `least_flops` is how many of `flops` were surely done (see `Case`). `bound` is the roof
    ("compute" or "memory") that limits a kernel of this many operations and bytes on this machine;
    what stays in the caches may pass the second. `scratch_bytes` is what the call held besides its
    arguments. `compile_ms` is how much longer its first call took: compilation or loading, planning
    and that memory, but not the register tile, which measuring the peak brings in before. `ratio`
    is the peer's time over ours: above 1, ours is faster.
    """

    layer: str
    name: str
    descriptor: str
    pass_name: str
    algorithm: str
    dtype: str
    threads: int
    count: int
    batch: int | None
    flops: int
    bytes: int
    scratch_bytes: int
    compile_ms: float
    median_ms: float
    spread_ms: float
    gflops: float
    percent_of_peak: float
    percent_of_roof: float
    gbytes_per_s: float
    bound: str
    max_relative_error: float
    images_per_s: float | None
    peer_median_ms: float | None = None
    peer_spread_ms: float | None = None
    peer_layout: str | None = None
    ratio: float | None = None
    least_flops: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON: the pass under "pass", null for what is not finite."""
        return {
            "pass" if key == "pass_name" else key: None
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for key, value in asdict(self).items()
        }


@dataclass
class Report:
    """All rows, the machine that they were measured on, and the peer's name, version and memory."""

    machine: Machine
    rows: list[Row]
    peer: dict[str, str] | None = None
    planned_rows: int | None = None  # of a run that was interrupted

    @property
    def complete(self) -> bool:
        """Whether nobody interrupted it."""
        return self.planned_rows is None

    @property
    def geomean_ratio(self) -> float | None:
        """Geometric mean of the rows' ratios, each row once; None without a peer."""
        return geometric_mean(row.ratio for row in self.rows)

    def by_pass(self) -> dict[str, list[Row]]:
        """Return the rows of each pass, in their order."""
        passes: dict[str, list[Row]] = {}
        for row in self.rows:
            passes.setdefault(row.pass_name, []).append(row)
        return passes

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        return {
            "machine": self.machine.as_dict(),
            "peer": self.peer,
            "complete": self.complete,
            "planned_rows": len(self.rows) if self.planned_rows is None else self.planned_rows,
            "peak_is_too_low": any(proves_more(row, self.machine) for row in self.rows),
            "rows": [row.as_dict() for row in self.rows],
            "geomean_ratio": self.geomean_ratio,
            "geomean_ratio_by_pass": {
                name: geometric_mean(row.ratio for row in rows) for name, rows in self.by_pass().items()
            },
            "total_ratio": total_ratio(self.rows),
            "total_ratio_by_pass": {name: total_ratio(rows) for name, rows in self.by_pass().items()},
            "ratio_distribution": distribution(row.ratio for row in self.rows),
            "ratio_distribution_by_pass": {
                name: distribution(row.ratio for row in rows) for name, rows in self.by_pass().items()
            },
        }


def measure(case: Case, machine: Machine, effort: Effort, peer: Peer | None) -> Row:
    """Measure one case; what depends on the roofs is filled in by `against_roofs`."""
    if peer is not None:
        peer.prepare(case.request)
    workspace.release()
    ours, theirs = alternate(case.call, None if peer is None else peer.turn, effort)
    row = Row(
        layer=case.layer,
        name=case.name,
        descriptor=case.descriptor,
        pass_name=case.pass_name,
        algorithm=case.algorithm,
        dtype=machine.dtype,
        threads=machine.threads,
        count=case.count,
        batch=case.images,
        flops=case.flops,
        bytes=case.bytes,
        scratch_bytes=workspace.held_bytes(),
        compile_ms=ours.compilation * 1e3,
        median_ms=ours.median * 1e3,
        spread_ms=ours.spread * 1e3,
        gflops=case.flops / ours.median / 1e9,
        percent_of_peak=0.0,
        percent_of_roof=0.0,
        gbytes_per_s=case.bytes / ours.median / 1e9,
        bound="",
        max_relative_error=case.error(),
        images_per_s=None if case.images is None else case.images / ours.median,
        least_flops=case.least_flops,
    )
    if theirs:
        row.peer_layout, best = min(theirs.items(), key=lambda item: item[1].median)
        row.peer_median_ms, row.peer_spread_ms = best.median * 1e3, best.spread * 1e3
        row.ratio = best.median / ours.median
    return row


def against_roofs(row: Row, machine: Machine) -> None:
    """Fill in the row's percent of peak, the roof that bounds it, and its percent of that."""
    row.percent_of_peak = 100 * row.gflops / machine.peak_gflops
    at_peak = row.flops / machine.peak_gflops
    at_bandwidth = row.bytes / machine.bandwidth_gbytes_per_s
    row.bound = "compute" if at_peak >= at_bandwidth else "memory"
    row.percent_of_roof = 100 * max(at_peak, at_bandwidth) / (row.median_ms * 1e6)


def proven_gflops(row: Row) -> float:
    """Return the rate of the operations that a row surely did; 0 where nobody knows how many."""
    return row.least_flops / row.median_ms / 1e6


def proves_more(row: Row, machine: Machine) -> bool:
    """Tell whether a row did more a second, by more than noise, than the measured peak allows."""
    return proven_gflops(row) > NOISE * machine.peak_gflops


def counts_spared(row: Row) -> bool:
    """Tell whether a row passes the peak, or may, because it counts operations that it need not do."""
    return row.percent_of_peak > 100 and row.least_flops < row.flops


def measure_all(
    cases: Sequence[Callable[[], Case]],
    machine: Machine,
    effort: Effort,
    peer: Peer | None,
    measured: Callable[[Row], None] = lambda row: None,
) -> Report:
    """Measure cases one by one, each made when its turn comes, so that one set of arrays lives.

    The peak is measured after each, which is then handed to `measured`. An interrupt ends the run with the rows so
    far, and is raised again where there are none.
    """
    rows: list[Row] = []
    try:
        for make in cases:
            rows.append(measure(make(), machine, effort, peer))
            machine.measure_peak()
            measured(rows[-1])
        machine.measure_bandwidth()
        machine.measure_peak_again(max(map(proven_gflops, rows), default=0.0))
    except KeyboardInterrupt:
        if not rows:
            raise
    if peer is not None:
        machine.versions[peer.name] = peer.version
    machine.keep_ceilings()
    for row in rows:
        against_roofs(row, machine)
    about = None if peer is None else {"name": peer.name, "version": peer.version, "memory": peer.memory}
    return Report(machine, rows, about, planned_rows=len(cases) if len(rows) < len(cases) else None)
