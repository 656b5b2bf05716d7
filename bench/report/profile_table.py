"""What a profile looks like: a table by step, a table by kind of layer."""

from rich.console import Console

from fastcnn.bench.profile import Profile, Row
from fastcnn.bench.report.table import MEBIBYTE, MEGA, empty_table, number

RUNS = {"train": "training step", "infer": "inference"}
STEP_COLUMNS = ("layer", "kind", "with", "pass", "kernel", "ms", "MFLOP", "GFLOP/s", "MiB", "GB/s", "%")
KIND_COLUMNS = ("kind", "pass", "ms", "MFLOP", "GFLOP/s", "MiB", "GB/s", "%")
TEXTS = ("layer", "kind", "with", "pass", "kernel")


def show(found: Profile, console: Console) -> None:
    """Print the header and, for each run, its steps in order and their sums by kind of layer."""
    for line in found.machine.lines():
        _line(line, console)
    kinds = found.by_kind()
    for run, whole in found.whole_ms.items():
        _line(f"{found.name}, batch {found.batch}, {RUNS[run]}: {number(whole)} ms", console)
        _print([row for row in found.rows if row.run == run], STEP_COLUMNS, console)
        _print([row for row in kinds if row.run == run], KIND_COLUMNS, console)
    if not found.complete:
        _line("incomplete: interrupted; the medians are over the rounds until then.", console)


def _line(text: str, console: Console) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print(rows: list[Row], titles: tuple[str, ...], console: Console) -> None:
    table = empty_table(console)
    for title in titles:
        table.add_column(title, justify="left" if title in TEXTS else "right", overflow="fold")
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[title] for title in titles))
    console.print(table, markup=False)


def _cells(row: Row) -> dict[str, str]:
    return {
        "layer": row.layer,
        "kind": row.kind,
        "with": row.fused,
        "pass": row.pass_name,
        "kernel": f"{row.kernel} {row.algorithm}".strip(),
        "ms": _signed(row.median_ms),
        "MFLOP": number(row.flops / MEGA) if row.flops else "",
        "GFLOP/s": f"{row.gflops:.1f}" if row.flops else "",
        "MiB": number(row.bytes / MEBIBYTE) if row.bytes else "",
        "GB/s": f"{row.gbytes_per_s:.1f}" if row.bytes else "",
        "%": f"{row.share:.1f}",
    }


def _signed(value: float) -> str:
    """Return a time; what is left over of a run may be negative where the machine is noisy."""
    return number(value) if value >= 0 else f"-{number(-value)}"
