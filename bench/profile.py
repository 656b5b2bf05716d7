"""Where the time of a network goes: every kernel call of a training step and of the inference of one batch.

The calls are those of the plans that `Trainer.step` and `Graph.predict` run, in their order, with a look at the clock
between two of them. Such a run and the whole step take turns, so that both meet the same caches and the same machine;
what the whole takes beyond its parts is Python's, mostly the checks at the door.

`flops` counts the products of direct sums in convolutions and linear layers, a multiply-add as 2, whatever the
algorithm, so that Winograd's and sparse gradients may pass the peak; other layers count none. `bytes` is what crosses
the memory bus if every array of a call crosses it once.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastcnn as fc
from fastcnn.bench.cases import model
from fastcnn.bench.machine import Machine
from fastcnn.bench.timing import Effort
from fastcnn.engine.loss_heads import bind_heads
from fastcnn.engine.plan import Part
from fastcnn.engine.training_step import check_calls
from fastcnn.kernels.cpu import conv
from fastcnn.layers.base import Call
from fastcnn.optimizers.update import Update

Array = NDArray[Any]

REST = "python"  # the kind of the row that holds what no call takes
WARM_ROUNDS = (
    4  # not timed: the first compiles, in the second memory stays where it is, the third is noted to be repeated
)

# By kernel: the array on the side of the filter that sums are written to (or, backward, read from), for it holds a
# number for each product with the filter's other axes.
SUMS = {
    "conv_forward": "y", "conv_backward_input": "dy", "conv_backward_weight": "dy",
    "conv_measured_forward": "y", "conv_measured_backward_input": "dy",
    "conv_transpose_forward": "x", "conv_transpose_backward_input": "dx", "conv_transpose_backward_weight": "x",
    "conv_pool_forward": "y", "conv_pool_backward": "dy",
    "linear_forward": "y", "linear_backward_input": "dy", "linear_backward_weight": "dy",
}  # fmt: skip

# The kernels that choose an algorithm by shape, with their passes.
CHOOSING = {
    "conv_forward": "forward", "conv_backward_input": "backward_input", "conv_backward_weight": "backward_weight",
    "conv_measured_forward": "forward", "conv_measured_backward_input": "backward_input",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One thing that a run does: a kernel call of a layer, or a copy, a loss, a check or an update."""

    layer: str
    kind: str
    fused: str
    pass_name: str
    kernel: str
    algorithm: str
    flops: int
    bytes: int
    call: Callable[[], object]


@dataclass
class Row:
    """One measured stage: its JSON object holds these keys.

    `run` is "train" or "infer". `kind` is the layer's class, `fused` the layers that the same kernels serve.
    `spread_ms` is the distance between the quartiles, `share` the percentage of the whole run.
    """

    run: str
    layer: str
    kind: str
    fused: str
    pass_name: str
    kernel: str
    algorithm: str
    flops: int
    bytes: int
    median_ms: float
    spread_ms: float
    gflops: float
    gbytes_per_s: float
    share: float

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON: the pass under "pass"."""
        return {"pass" if key == "pass_name" else key: value for key, value in asdict(self).items()}


@dataclass
class Profile:
    """The rows of one network in their order, and the median milliseconds of whole runs by name."""

    name: str
    batch: int
    machine: Machine
    rows: list[Row]
    whole_ms: dict[str, float]
    complete: bool = True

    def by_kind(self) -> list[Row]:
        """Return the sums of each run's rows by kind of layer and pass, the longest first."""
        groups: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.run, row.kind, row.pass_name), []).append(row)
        sums = [_sum(rows) for rows in groups.values()]
        return sorted(sums, key=lambda row: (list(self.whole_ms).index(row.run), -row.median_ms))

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        return {
            "machine": self.machine.as_dict(),
            "name": self.name,
            "batch": self.batch,
            "complete": self.complete,
            "whole_ms": self.whole_ms,
            "rows": [row.as_dict() for row in self.rows],
            "kinds": [row.as_dict() for row in self.by_kind()],
        }


def profile(name: str, batch: int, machine: Machine, effort: Effort) -> Profile:
    """Measure every call of a training step and of an inference of a model at this batch size.

    An interrupt ends the profile with the rounds so far, and is raised again where there are none.
    """
    net = model.network(name, machine.dtype)
    images, labels = model.random_batch(net, batch)
    optimizer = fc.SGD(model.LEARNING_RATE, momentum=model.MOMENTUM)
    trainer = fc.Trainer(net, fc.CrossEntropy(), optimizer, seed=0)
    stages = {"train": training(net, optimizer, images, labels), "infer": inference(net, images)}
    wholes: dict[str, Callable[[], object]] = {
        "train": lambda: trainer.step(images, labels),
        "infer": lambda: net.predict(images, batch_size=batch),
    }
    rows: list[Row] = []
    whole_ms: dict[str, float] = {}
    complete = True
    for run, parts in stages.items():
        times: list[Array] = []
        whole: list[float] = []
        try:
            collect(parts, wholes[run], effort, times, whole)
        except KeyboardInterrupt:
            complete = False
        if whole:
            whole_ms[run] = float(np.median(whole)) * 1e3
            rows += _run_rows(run, parts, wholes[run], np.array(times[: len(whole)]), np.array(whole[: len(times)]))
        if not complete:
            break
    if not rows:
        raise KeyboardInterrupt
    return Profile(name, batch, machine, rows, whole_ms, complete)


def _run_rows(run: str, parts: list[Stage], call: Callable[[], object], times: Array, whole: Array) -> list[Row]:
    """Return the rows of a run's stages, and of what the whole run takes beyond them."""
    rest = Stage("", REST, "", "", "", "", 0, 0, call)
    columns = [*times.T, whole - times.sum(1)]
    whole_ms = float(np.median(whole)) * 1e3
    return [_row(run, *pair, whole_ms) for pair in zip([*parts, rest], columns, strict=True)]


def measure(stages: Sequence[Stage], whole: Callable[[], object], effort: Effort) -> tuple[Array, Array]:
    """Return the seconds of every stage, (rounds, stages), and of the whole run, (rounds,), taking turns."""
    times: list[Array] = []
    wholes: list[float] = []
    collect(stages, whole, effort, times, wholes)
    return np.array(times), np.array(wholes)


def collect(
    stages: Sequence[Stage], whole: Callable[[], object], effort: Effort, times: list[Array], wholes: list[float]
) -> None:
    """Append the seconds of every stage and of the whole run, round by round, so that an interrupt leaves them."""
    for _ in range(WARM_ROUNDS):
        clocked(stages)
        whole()
    start = time.perf_counter()
    while len(wholes) < effort.repeats or time.perf_counter() - start < effort.seconds:
        round_times = clocked(stages)
        begin = time.perf_counter()
        whole()
        end = time.perf_counter()
        times.append(round_times)
        wholes.append(end - begin)


def clocked(stages: Sequence[Stage]) -> Array:
    """Run all stages once; return the seconds of each."""
    clock, calls = time.perf_counter, [stage.call for stage in stages]
    marks = [clock()]
    with np.errstate(over="ignore", invalid="ignore"):
        for call in calls:
            call()
            marks.append(clock())
    return np.diff(marks)


def training(net: fc.Graph, optimizer: fc.Optimizer, images: Array, labels: Array) -> list[Stage]:
    """Return what a training step does, in its order."""
    plan = net.plan(len(images), training=True, returns="parameters")
    backend, store = plan.backend, plan.store
    batch = bind_heads(backend, plan, [(fc.CrossEntropy(), 1.0)], [labels], training=True)
    batch.heads[0].targets[...] = labels
    ends, store_bytes = plan.outputs[0].nbytes, store.values.nbytes
    kept = len(optimizer.kept())
    check = backend.program.Program(check_calls(plan))
    update = Update(optimizer, backend, store.own_values, store.gradients, store.decayed)
    return [
        _other("input", "input", images.nbytes + plan.inputs[0].nbytes, lambda: plan.load([images])),
        *layer_stages(plan.forward_parts, "forward", backend.program.Program),
        _other("loss", "forward", ends, batch.forward),
        _other("loss", "backward", 2 * ends, batch.backward),
        *layer_stages(plan.backward_parts, "backward", backend.program.Program),
        _other("check", "update", store_bytes, check.run),
        _other(
            "optimizer",
            "update",
            (3 + 2 * kept) * store_bytes,  # values and state are read and written, gradients read
            update.run,
        ),
    ]


def inference(net: fc.Graph, images: Array) -> list[Stage]:
    """Return what the prediction of one batch does, in its order."""
    plan = net.plan(len(images), training=False)
    ends = 2 * sum(y.nbytes for y in plan.outputs)
    calls = [call for _, calls in plan.forward_parts for call in calls]
    folded = [array for call in calls if kernel_name(call) == "fold_norm" for array in call[1][-2:]]
    constants = [*plan.store.constants, *folded]  # what is made of them is made once
    return [
        _other("input", "input", images.nbytes + plan.inputs[0].nbytes, lambda: plan.load([images])),
        *layer_stages(plan.forward_parts, "forward", partial(plan.backend.program.Program, constants=constants)),
        _other("output", "output", ends, lambda: [plan.backend.download(y) for y in plan.outputs]),
    ]


def layer_stages(parts: Iterable[Part], pass_name: str, program: Callable[..., Any]) -> list[Stage]:
    """Return a stage for every kernel call of a plan's parts, repeated as a program of its own."""
    return [
        Stage(
            layer=step.layer.name or "",
            kind=type(step.layer).__name__,
            fused=" + ".join(type(node.layer).__name__ for node in step.nodes[1:]),
            pass_name=pass_name,
            kernel=kernel_name(call),
            algorithm=algorithm_of(call),
            flops=2 * multiply_adds(call),
            bytes=array_bytes(call[1]),
            call=partial(program([call]).run, version=0),
        )
        for step, calls in parts
        for call in calls
    ]


def kernel_name(call: Call) -> str:
    """Return the name of a call's function."""
    return str(getattr(call[0], "__name__", type(call[0]).__name__))


def algorithm_of(call: Call) -> str:
    """Return the algorithm that a convolution's call chooses; empty for a kernel that has only one."""
    name = kernel_name(call)
    if name not in CHOOSING:
        return ""
    given = _arguments(call)
    dtype = given.get("w", given.get("dw")).dtype
    return conv.algorithm_of(CHOOSING[name], given["problem"], dtype, given["algorithm"])


def multiply_adds(call: Call) -> int:
    """Return the multiply-adds of a convolution's or linear layer's call, by direct sums; 0 for other kernels."""
    name = kernel_name(call)
    if name not in SUMS:
        return 0
    given = _arguments(call)
    weight = given.get("w", given.get("dw"))
    count = int(given[SUMS[name]].size) * prod(weight.shape[:-1]) * prod(given.get("window", ()))
    return count * (2 if name == "conv_pool_backward" and given["dx"] is not None else 1)


def array_bytes(arguments: Iterable[Any]) -> int:
    """Return the bytes of all arrays among some arguments, each counted once."""
    found: dict[tuple[int, int], int] = {}

    def look(given: Any) -> None:
        if isinstance(given, np.ndarray):
            found[given.ctypes.data, given.nbytes] = given.nbytes
        elif isinstance(given, tuple | list):
            for one in given:
                look(one)

    look(list(arguments))
    return sum(found.values())


def _arguments(call: Call) -> Mapping[str, Any]:
    bound = inspect.signature(call[0]).bind(*call[1])
    bound.apply_defaults()
    return bound.arguments


def _other(kind: str, pass_name: str, bytes: int, call: Callable[[], object]) -> Stage:
    return Stage("", kind, "", pass_name, "", "", 0, bytes, call)


def _row(run: str, stage: Stage, seconds: Array, whole_ms: float) -> Row:
    low, median, high = np.percentile(seconds, [25, 50, 75]) * 1e3
    texts = stage.layer, stage.kind, stage.fused, stage.pass_name, stage.kernel, stage.algorithm
    return _rated(Row(run, *texts, stage.flops, stage.bytes, float(median), float(high - low), 0, 0, 0), whole_ms)


def _rated(row: Row, whole_ms: float) -> Row:
    """Fill in the rates of a row and its share."""
    if row.median_ms > 0:
        row.gflops, row.gbytes_per_s = row.flops / row.median_ms / 1e6, row.bytes / row.median_ms / 1e6
    row.share = 100 * row.median_ms / whole_ms
    return row


def _sum(rows: Sequence[Row]) -> Row:
    """Return the sum of some rows of one run and kind."""
    first = rows[0]
    flops, bytes = sum(row.flops for row in rows), sum(row.bytes for row in rows)
    total, spread = sum(row.median_ms for row in rows), sum(row.spread_ms for row in rows)
    made = Row(first.run, "", first.kind, "", first.pass_name, "", "", flops, bytes, total, spread, 0, 0, 0)
    made = _rated(made, 1.0)
    made.share = sum(row.share for row in rows)
    return made
