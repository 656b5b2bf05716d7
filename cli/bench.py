"""`fastcnn bench`: measure layers or networks against the machine's roofs and PyTorch."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastcnn.bench.layers import DEFAULT_SHAPES, LAYERS
from fastcnn.bench.shapes import SETS, resolve
from fastcnn.cli.options import FILE, ModelName, OutputFile, json_option, use_threads
from fastcnn.cli.output import write_json
from fastcnn.errors import DataError, ShapeError
from fastcnn.files import write_atomically

if TYPE_CHECKING:
    from fastcnn.bench.case import Case
    from fastcnn.bench.run import Report, Row
    from fastcnn.bench.timing import Effort

EXAMPLES = """
\b
Examples:
  fastcnn bench --layer conv --shapes resnet50 --against torch
  fastcnn bench --layer conv --shapes mb16ic64ih56oc64kh3ph1 --pass forward --json new.json
  fastcnn bench --layer conv --shapes my_shapes.txt --compare old.json --plot roofline.png
  fastcnn bench --model lenet5 --batch 128 --against torch
"""


class Passes(click.ParamType):
    """Names of passes, separated by commas."""

    name = "pass,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the names; which exist depends on the layer."""
        return value if isinstance(value, list) else [name.strip() for name in value.split(",")]


@click.command(epilog=EXAMPLES)
@click.option("--layer", type=click.Choice(list(LAYERS)), help="Measure this layer alone.")
@click.option("--model", type=ModelName(), help="Measure a training step and the inference of a network.")
@click.option(
    "--shapes",
    multiple=True,
    metavar="SET|FILE|DESCRIPTOR",
    help=f"What to measure (may be repeated): {', '.join(SETS)}, a file with a benchdnn descriptor "
    f"a line, or a descriptor such as ic3ih32oc10kh5ph2.  [default: {DEFAULT_SHAPES}]",
)
@click.option(
    "--pass",
    "passes",
    type=Passes(),
    help="Only these passes, separated by commas.  [default: all]",
)
@click.option(
    "--algorithm",
    help="Algorithm of the layer: auto, direct, depthwise (groups of few channels) or winograd, whose GFLOP/s count "
    "the products of direct sums and may pass the peak.  [default: auto]",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Images at once.  [default: as each shape says; networks 128]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads to use.  [default: all cores]")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--against", type=click.Choice(["torch"]), help="Compare with PyTorch, in a process of its own.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=9,
    show_default=True,
    help="Fewest samples a row and side.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Shortest time a row and side.",
)
@click.option("--compare", type=FILE, help="Compare with an older --json file.")
@json_option
@click.option("--csv", "csv_file", type=OutputFile(), help="Write the rows here as CSV.")
@click.option(
    "--plot",
    "plot_file",
    type=OutputFile(),
    help="Draw the rows under the measured roofs (needs matplotlib).",
)
def bench(
    layer: str | None,
    model: str | None,
    threads: int | None,
    against: str | None,
    repeats: int,
    seconds: float,
    compare: Path | None,
    json_file: Path | None,
    csv_file: Path | None,
    plot_file: Path | None,
    **selection: Any,
) -> None:
    """Measure kernels or whole networks on this machine.

    A row shows the median time and its spread (between the quartiles), the rate as percent of the
    peak that this run measured, and the largest error against float64 in units of the output's root
    mean square. With --against torch both sides take turns, each in a process of its own; the ratio
    is PyTorch's better layout over ours. A narrow terminal shows fewer columns; --json and --csv
    hold all.
    """
    from fastcnn.bench import report
    from fastcnn.bench.peer import require
    from fastcnn.bench.timing import Effort

    if (layer is None) == (model is None):
        raise click.UsageError(f"Give either --layer ({', '.join(LAYERS)}) or --model NAME.")
    old = report.read_old(compare) if compare else None
    if plot_file:
        report.require_matplotlib()
    if against:
        require(against)
    cases = _layer_cases(layer, selection) if layer else _model_cases(str(model), selection)
    use_threads(threads)
    found = _measure(cases, str(selection["dtype"]), Effort(repeats, seconds), against)
    out = report.console()
    report.show(found, out)
    if old is not None:
        report.show_comparison(found, old, out)
    write_json(json_file, found.as_dict())
    _write_csv(csv_file, report.as_csv(found))
    if plot_file:
        report.plot_roofline(found, plot_file)
        click.echo(f"wrote {plot_file}")


def _layer_cases(name: str, selection: dict[str, Any]) -> Iterator["Case"]:
    """Check the choices; return the cases, made one at a time so that one set of arrays lives."""
    problems = []
    for text in selection["shapes"] or (DEFAULT_SHAPES,):
        try:
            problems += resolve(text)
        except ShapeError as error:
            known = f"{error} The sets are {', '.join(SETS)}."
            raise click.BadParameter(known, param_hint="'--shapes'") from None
    if selection["batch"]:
        problems = [problem.with_batch(selection["batch"]) for problem in problems]
    layer = LAYERS[name]()
    passes = selection["passes"] or layer.passes
    for chosen in passes:
        if chosen not in layer.passes:
            raise click.BadParameter(
                f"{chosen!r} is no pass: choose of {', '.join(layer.passes)}.",
                param_hint="'--pass'",
            )
    algorithm = selection["algorithm"] or "auto"
    if algorithm not in layer.algorithms:
        known = ", ".join(layer.algorithms)
        raise click.BadParameter(f"{algorithm!r} is no algorithm: choose of {known}.", param_hint="'--algorithm'")
    return (layer.case(problem, p, algorithm, selection["dtype"]) for p in passes for problem in problems)


def _model_cases(name: str, selection: dict[str, Any]) -> Iterator["Case"]:
    for option in ("shapes", "passes", "algorithm"):
        if selection[option]:
            shown = "--pass" if option == "passes" else f"--{option}"
            raise click.UsageError(f"{shown} goes with --layer; a network is measured whole. Leave it out.")
    from fastcnn.bench import model

    return iter(model.cases(name, selection["batch"] or model.BATCH, selection["dtype"]))


def _measure(cases: Iterator["Case"], dtype: str, effort: "Effort", against: str | None) -> "Report":
    """Measure all cases; each result goes to stderr as it comes, if that is a terminal."""
    from fastcnn.bench.machine import describe
    from fastcnn.bench.peer import Peer
    from fastcnn.bench.run import measure_all

    def measured(row: "Row") -> None:
        if sys.stderr.isatty():
            click.echo(f"{row.name or row.descriptor} {row.pass_name}: {row.median_ms:.3g} ms", err=True)

    machine = describe(dtype)
    with Peer(against, machine.threads) if against else nullcontext() as peer:
        return measure_all(cases, machine, effort, peer, measured)


def _write_csv(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None
    click.echo(f"wrote {path}")
