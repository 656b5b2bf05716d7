"""`fastcnn warmup`: compile kernels now, so that later runs start at once: all, or those of some networks."""

import contextlib
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from inspect import signature
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastcnn.cli.output import plural
from fastcnn.cli.summary import ImageShape, ModelOrFile
from fastcnn.errors import BackendError, FastcnnError

if TYPE_CHECKING:
    from fastcnn import Graph

EXAMPLES = """
\b
Examples:
  fastcnn warmup
  fastcnn warmup --dtype float64
  fastcnn warmup lenet5 resnet20
  fastcnn warmup resnet18 --input-shape 64x64x3 --classes 5
"""

Shape = tuple[int, int, int]

# The images of the data sets with names, (H, W, C), in ten classes.
IMAGES: tuple[Shape, ...] = ((8, 8, 1), (28, 28, 1), (32, 32, 3))
START = "start"  # what every network runs through

FIRST = "LeNet"  # compiles what all others need too
# Image, layer's arguments: one for each way through the kernels.
CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "small and grouped": ((12, 12, 12), dict(out_channels=12, kernel_size=3, groups=2, padding=1, stride=2)),
    "Winograd, 3x3": ((28, 28, 64), dict(out_channels=64, kernel_size=3, padding=1)),
    "Winograd, 3x3, many channels": ((14, 14, 512), dict(out_channels=512, kernel_size=3, padding=1)),
    "Winograd, 5x5": ((27, 27, 48), dict(out_channels=64, kernel_size=5, padding=2)),
    "1x1": ((14, 14, 64), dict(out_channels=64, kernel_size=1)),
    "depthwise": ((28, 28, 64), dict(out_channels=64, kernel_size=3, groups=64, padding=1)),
    "large filters": ((9, 9, 8), dict(out_channels=64, kernel_size=7)),
}


@click.command(epilog=EXAMPLES)
@click.argument("networks", type=ModelOrFile(), nargs=-1, metavar="[MODEL|FILE]...")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option(
    "--input-shape",
    type=ImageShape(),
    metavar="HxWxC",
    help="Shape of an image.  [default: the model's, and those of digits, mnist, fashion and cifar10]",
)
@click.option("--classes", type=click.IntRange(min=1), help="Classes.  [default: the model's, and 10]")
def warmup(networks: tuple[str, ...], dtype: str, input_shape: Shape | None, classes: int | None) -> None:
    """Compile kernels and keep their machine code.

    With networks, names or .safetensors files: every kernel that train, eval, predict and bench --model run with
    them, under any options and for batches of any size. Without, those of all operations, for usual shapes. Damaged
    files of the cache are removed first.
    """
    from fastcnn.threads import cache_folder, cache_lasts, compilation_announced, mend_cache

    if (input_shape or classes) and not networks:
        raise click.UsageError("--input-shape and --classes go with the name of a network: give one.")
    folder = cache_folder()
    if not cache_lasts():
        raise BackendError(
            "No folder can keep kernels here: set FASTCNN_CACHE_DIR to one of your own that no one else can write."
        )
    mend_cache()
    before = set(folder.iterdir())
    start = time.perf_counter()
    click.get_current_context().with_resource(compilation_announced(_say_nothing))
    if networks:
        _compile_networks(networks, dtype, input_shape, classes)
    else:
        _compile_operations(dtype)
    made = len(set(folder.iterdir()) - before)
    seconds = time.perf_counter() - start
    click.echo(f"{plural(made, 'new file')} in {folder}, {seconds:.1f} s")


def _say_nothing(sentence: str) -> None:
    """Announce no compilation: it is what was asked for."""


def _compile_networks(names: tuple[str, ...], dtype: str, shape: Shape | None, classes: int | None) -> None:
    jobs = [(name, net) for name in dict.fromkeys(names) for net in _networks(name, dtype, shape, classes)]
    _told(1, len(jobs) + 1, START, lambda: _start(dtype))
    for number, (name, net) in enumerate(jobs, start=2):
        _told(number, len(jobs) + 1, f"{name} on {'x'.join(map(str, net.input_shapes[0]))}", partial(_prepare, net))


def _told(number: int, jobs: int, what: str, do: Callable[[], object]) -> None:
    click.echo(f"[{number}/{jobs}] {what} ...", nl=False)
    start = time.perf_counter()
    do()
    click.echo(f" {time.perf_counter() - start:.1f} s")


def _prepare(net: "Graph") -> None:
    from fastcnn.engine.preparation import prepare

    prepare(net)


def _networks(name: str, dtype: str, shape: Shape | None, classes: int | None) -> "list[Graph]":
    """Return a network for each shape that it will probably meet; a file has its own."""
    import fastcnn as fc

    if Path(name).is_file():
        if shape or classes:
            raise click.UsageError("A model file has its own shapes; leave out --input-shape and --classes.")
        return [fc.load(name)]
    build = fc.models.get(name)
    has_classes = "classes" in signature(build).parameters
    if classes and not has_classes:
        raise click.UsageError(f"{name} has no classes; leave out --classes.")
    asked = {"classes": classes} if classes else {}
    if shape:
        return [build(input_shape=shape, **asked).astype(dtype)]
    usual = asked or ({"classes": 10} if has_classes else {})
    made = [build(**asked).astype(dtype)]
    for images in IMAGES:
        with contextlib.suppress(FastcnnError):  # too small, or of other channels
            made.append(build(input_shape=images, **usual).astype(dtype))
    return list({(*net.input_shapes, *net.output_shapes): net for net in made}.values())


def _start(dtype: str) -> None:
    """Train, use and measure as little as can be, in earnest: launches are repeated, threads start, images move."""
    import numpy as np

    import fastcnn as fc
    from fastcnn.bench.machine import describe

    describe(dtype)
    for channels in (1, 3):
        net = fc.Sequential(fc.Flatten(), fc.Linear(16 * channels, 2), input_shape=(4, 4, channels)).astype(dtype)
        moves = (fc.augment.RandomShift(1), fc.augment.RandomFlip())
        data = np.ones((4, 4, 4, channels), net.dtype), np.zeros(4, np.int64)
        trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01), augment=moves, progress=False)
        trainer.fit(data, epochs=3, batch_size=2, validation=data)
        for _ in range(3):
            trainer.predict(data[0])
    loss = fc.CrossEntropy()
    for kind in dict.fromkeys((dtype, "float64")):  # as `bench` compares gradients with those of float64
        loss.forward(np.ones((4, 10), kind), np.zeros(4, np.int64))
        loss.backward()


def _compile_operations(dtype: str) -> None:
    from fastcnn.threads import available_cores

    jobs = _jobs()
    _told(1, len(jobs), FIRST, lambda: _do(FIRST, dtype))
    workers = min(len(jobs) - 1, available_cores())
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = {pool.submit(_do, job, dtype): job for job in jobs[1:]}
        for number, done in enumerate(as_completed(waiting), start=2):
            click.echo(f"[{number}/{len(jobs)}] {waiting[done]} {done.result():.1f} s")


def _jobs() -> list[str]:
    """Return what is compiled, by name; all but the first may run at once."""
    from fastcnn.bench.oracles import FAMILIES

    return [FIRST, *CONVOLUTIONS, *FAMILIES]


def _do(job: str, dtype: str) -> float:
    """Do one job, in this process, and return its seconds."""
    from fastcnn.bench.oracles import collect
    from fastcnn.bench.oracles.operation import run
    from fastcnn.threads import compilation_announced

    start = time.perf_counter()
    warnings.filterwarnings("ignore", "Kernels are kept in")  # the first process has said it
    with compilation_announced(_say_nothing):
        if job == FIRST:
            _train_lenet(dtype)
        elif job in CONVOLUTIONS:
            _convolve(job, dtype)
        else:
            for operation in collect((job,))[job]:
                run(operation, "cpu", dtype)
    return time.perf_counter() - start


def _train_lenet(dtype: str) -> None:
    import numpy as np

    import fastcnn as fc

    for net in (fc.models.lenet(), fc.models.lenet5()):  # Winograd and tiles before the pooling
        net.astype(dtype)
        trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01, momentum=0.9))
        for batch in (1, 64):
            trainer.step(np.ones((batch, *net.input_shapes[0]), net.dtype), np.zeros(batch, np.int64))
            trainer.predict(np.ones((batch, *net.input_shapes[0]), net.dtype))


def _convolve(job: str, dtype: str) -> None:
    import numpy as np

    import fastcnn as fc

    image, arguments = CONVOLUTIONS[job]
    layer = fc.Conv2d(image[-1], **arguments, dtype=dtype)
    layer.backward(np.ones_like(layer.forward(np.ones((2, *image), dtype))))
