"""`fastcnn warmup`: compile all kernels now, so that later runs start at once."""

import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import click

from fastcnn.cli.output import plural

EXAMPLES = """
\b
Examples:
  fastcnn warmup
  fastcnn warmup --dtype float64
"""

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
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
def warmup(dtype: str) -> None:
    """Compile the kernels and keep their machine code."""
    from fastcnn import host

    folder = host.cache_folder()
    before = set(folder.iterdir())
    start = time.perf_counter()
    jobs = _jobs()
    click.echo(f"[1/{len(jobs)}] {FIRST} ...", nl=False)
    click.echo(f" {_do(FIRST, dtype):.1f} s")
    workers = min(len(jobs) - 1, host.available_cores())
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = {pool.submit(_do, job, dtype): job for job in jobs[1:]}
        for number, done in enumerate(as_completed(waiting), start=2):
            click.echo(f"[{number}/{len(jobs)}] {waiting[done]} {done.result():.1f} s")
    made = len(set(folder.iterdir()) - before)
    seconds = time.perf_counter() - start
    click.echo(f"{plural(made, 'new file')} in {folder}, {seconds:.1f} s")


def _jobs() -> list[str]:
    """Return what is compiled, by name; all but the first may run at once."""
    from fastcnn.bench.oracles import FAMILIES

    return [FIRST, *CONVOLUTIONS, *FAMILIES]


def _do(job: str, dtype: str) -> float:
    """Do one job, in this process, and return its seconds."""
    from fastcnn.bench.oracles import collect
    from fastcnn.bench.oracles.operation import run

    start = time.perf_counter()
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
