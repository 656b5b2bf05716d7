"""`fastcnn bench`: measure layers or networks against the machine's roofs and PyTorch."""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastcnn.bench.cases.layers import LAYERS, Layer
from fastcnn.cli.options import FILE, ModelName, Number, OutputFile, json_option, require_kernels, use_threads
from fastcnn.cli.output import write_json
from fastcnn.errors import DataError, ShapeError
from fastcnn.files import write_atomically

if TYPE_CHECKING:
    from fastcnn.bench.cases.case import Case
    from fastcnn.bench.run import Report, Row
    from fastcnn.bench.timing import Effort

    Cases = Sequence[Callable[[], Case]]

EXAMPLES = """
\b
Examples:
  fastcnn bench --layer conv --shapes resnet50 --against torch
  fastcnn bench --layer conv --shapes mb16ic64ih56oc64kh3ph1 --pass forward --json new.json
  fastcnn bench --layer conv --shapes random:100:7 --seconds 0.1 --against torch
  fastcnn bench --layer conv --shapes my_shapes.txt --compare old.json --plot roofline.png
  fastcnn bench --layer depthwise --batch 1
  fastcnn bench --layer conv_transpose --shapes ic64ih16oc32kh4sh2ph1
  fastcnn bench --layer pool --shapes vgg19 --shapes avg:mb16ic1024ih7kh7
  fastcnn bench --layer linear --shapes mb64ic2048oc1000
  fastcnn bench --layer activation --shapes functions --shapes gelu:resnet50
  fastcnn bench --layer loss --shapes cross_entropy:mb256ic1000
  fastcnn bench --layer optimizer --shapes adam:mb1ic25557032 --against torch
  fastcnn bench --model lenet5 --batch 128 --against torch
  fastcnn bench --model resnet50 --batch 8 --profile
\b
Sets of shapes, the default ones in brackets:
"""
for _name, _layer in LAYERS.items():
    _sets = (f"[{known}]" if known in _layer.default else known for known in _layer.sets)
    EXAMPLES += f"  {_name:<16}{', '.join(_sets)}\n"


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
    metavar="SET|FILE|DESCRIPTOR|random:N[:SEED]",
    help="What to measure (may be repeated): a set named below, a file with a benchdnn descriptor a line, a "
    "descriptor such as ic3ih32oc10kh5ph2, or N convolutions drawn at random, the same for a SEED.",
)
@click.option(
    "--pass",
    "passes",
    type=Passes(),
    help="Only these passes, separated by commas.  [default: all]",
)
@click.option(
    "--algorithm",
    help="Algorithm of the layer: auto, direct, or for convolutions depthwise (groups of few channels) or winograd, "
    "whose GFLOP/s count the products of direct sums and may pass the peak.  [default: auto]",
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
    "--peer-memory",
    type=click.Choice(["fresh", "kept"]),
    default="fresh",
    show_default=True,
    help="Where PyTorch's outputs above 32 MB lie: in fresh pages at every call, as its users have it, or in memory "
    "that its process keeps (with glibc), which compares the kernels alone.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=9,
    show_default=True,
    help="Fewest samples a row and side.",
)
@click.option(
    "--seconds",
    type=Number(min=0),
    default=0.5,
    show_default=True,
    help="Shortest time a row and side.",
)
@click.option("--profile", is_flag=True, help="With --model: measure every kernel call of its runs instead.")
@click.option("--compare", type=FILE, help="Compare with an older --json file.")
@json_option
@click.option("--csv", "csv_file", type=OutputFile(), help="Write the rows here as CSV.")
@click.option(
    "--plot",
    "plot_file",
    type=OutputFile(),
    help="Draw the rows under the measured roofs, as PNG, SVG or PDF (needs matplotlib).",
)
def bench(
    layer: str | None,
    model: str | None,
    threads: int | None,
    against: str | None,
    peer_memory: str,
    repeats: int,
    seconds: float,
    profile: bool,
    compare: Path | None,
    json_file: Path | None,
    csv_file: Path | None,
    plot_file: Path | None,
    **selection: Any,
) -> None:
    """Measure kernels or whole networks on this machine.

    A row shows the median time and its spread (between the quartiles), the rate as percent of the
    peak that was measured on this machine, and the largest error against float64 in units of the
    output's root mean square. With --against torch both sides take turns, each in a process of its
    own, each turn begun by a call that is not timed; our outputs are there beforehand, PyTorch
    allocates its own at every call, as it does for its users (see --peer-memory). The ratio is
    PyTorch's better layout over ours. A narrow terminal shows fewer columns; --json and --csv hold all.

    Ctrl-C ends the run with the rows so far: they are printed and written, marked as incomplete, and the exit
    status is 130.

    With --profile the rows are the kernel calls of a network's training step and inference in their order, then their
    sums by kind of layer; "python" is what the whole run takes beyond them.
    """
    if profile:
        _refuse_with_profile(model, {"against": against, "compare": compare, "plot": plot_file})
    require_kernels()
    from fastcnn.bench.peer.process import require
    from fastcnn.bench.report import compare as comparison
    from fastcnn.bench.report import roofline_plot, table
    from fastcnn.bench.timing import Effort

    if (layer is None) == (model is None):
        raise click.UsageError(f"Give either --layer ({', '.join(LAYERS)}) or --model NAME.")
    effort = Effort(repeats, seconds)
    if profile:
        _check_model_options(selection)
        use_threads(threads)
        _profile(str(model), selection, effort, json_file, csv_file)
        return
    old = comparison.read_old(compare) if compare else None
    if plot_file:
        roofline_plot.check(plot_file)
    if against:
        require(against)
    cases = _layer_cases(layer, selection) if layer else _model_cases(str(model), selection)
    use_threads(threads)
    found = _measure(cases, str(selection["dtype"]), effort, against, peer_memory)
    out = table.console()
    table.show(found, out)
    if old is not None:
        comparison.show_comparison(found, old, out)
    write_json(json_file, found.as_dict())
    _write_csv(csv_file, table.as_csv(found))
    if plot_file:
        roofline_plot.plot_roofline(found, plot_file)
        click.echo(f"wrote {plot_file}")
    _end(found.complete)


def _end(complete: bool) -> None:
    """End with the status of an interrupt, if one left the report incomplete."""
    from fastcnn.cli.main import INTERRUPTED

    if not complete:
        click.get_current_context().exit(INTERRUPTED)


def _layer_cases(name: str, selection: dict[str, Any]) -> "Cases":
    """Check the choices; return what makes the cases, each when its turn comes."""
    layer = LAYERS[name]
    problems = _problems(layer, selection)
    kernels = layer.kernels()
    passes = selection["passes"] or kernels.PASSES
    for chosen in passes:
        if chosen not in kernels.PASSES:
            raise click.BadParameter(
                f"{chosen!r} is no pass: choose of {', '.join(kernels.PASSES)}.",
                param_hint="'--pass'",
            )
    algorithm, dtype = selection["algorithm"] or "auto", selection["dtype"]
    if algorithm not in kernels.ALGORITHMS:
        known = ", ".join(kernels.ALGORITHMS)
        raise click.BadParameter(f"{algorithm!r} is no algorithm: choose of {known}.", param_hint="'--algorithm'")
    for problem in problems if algorithm != "auto" else ():
        for chosen in passes:
            try:
                kernels.served_by(problem, chosen, algorithm, dtype)
            except ValueError as error:
                sentence = f"{problem.descriptor()}, {chosen}: {error}"
                raise click.BadParameter(sentence, param_hint="'--algorithm'") from None
    return [partial(kernels.case, problem, p, algorithm, dtype) for p in passes for problem in problems]


def _problems(layer: Layer, selection: dict[str, Any]) -> list[Any]:
    problems: list[Any] = []
    for text in selection["shapes"] or layer.default:
        try:
            problems += layer.resolve(text, selection["batch"])
        except ShapeError as error:
            known = f"{error} The sets are {', '.join(layer.sets)}."
            raise click.BadParameter(known, param_hint="'--shapes'") from None
    return problems


def _check_model_options(selection: dict[str, Any]) -> None:
    for option in ("shapes", "passes", "algorithm"):
        if selection[option]:
            shown = "--pass" if option == "passes" else f"--{option}"
            raise click.UsageError(f"{shown} goes with --layer; a network is measured whole. Leave it out.")


def _refuse_with_profile(model: str | None, options: dict[str, object]) -> None:
    if model is None:
        raise click.UsageError("--profile goes with --model: name a network.")
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"--{name} does not go with --profile: leave one of them out.")


def _profile(
    name: str, selection: dict[str, Any], effort: "Effort", json_file: Path | None, csv_file: Path | None
) -> None:
    from fastcnn.bench.cases import model
    from fastcnn.bench.machine import describe
    from fastcnn.bench.profile import profile
    from fastcnn.bench.report import profile_table, table

    found = profile(name, selection["batch"] or model.BATCH, describe(selection["dtype"]), effort)
    profile_table.show(found, table.console())
    write_json(json_file, found.as_dict())
    _write_csv(csv_file, table.as_csv(found))
    _end(found.complete)


def _model_cases(name: str, selection: dict[str, Any]) -> "Cases":
    _check_model_options(selection)
    from fastcnn.bench.cases import model

    cases = model.cases(name, selection["batch"] or model.BATCH, selection["dtype"])
    return [partial(_itself, case) for case in cases]


def _itself(case: "Case") -> "Case":
    return case


def _measure(cases: "Cases", dtype: str, effort: "Effort", against: str | None, memory: str) -> "Report":
    """Measure all cases; each result goes to stderr as it comes, if that is a terminal."""
    from fastcnn.bench.machine import describe
    from fastcnn.bench.peer.process import Peer
    from fastcnn.bench.run import measure_all

    def measured(row: "Row") -> None:
        if sys.stderr.isatty():
            click.echo(f"{row.name or row.descriptor} {row.pass_name}: {row.median_ms:.3g} ms", err=True)

    machine = describe(dtype)
    with Peer(against, machine.threads, memory) if against else nullcontext() as peer:
        return measure_all(cases, machine, effort, peer, measured)


def _write_csv(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None
    click.echo(f"wrote {path}")
