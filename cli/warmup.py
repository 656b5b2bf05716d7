"""`fastcnn warmup`: compile all kernels now, so that later runs start at once."""

import time
from typing import TYPE_CHECKING

import click

from fastcnn.cli.output import plural

if TYPE_CHECKING:
    from fastcnn import Graph

EXAMPLES = """
\b
Examples:
  fastcnn warmup
  fastcnn warmup --dtype float64
"""

BATCHES = (1, 64)  # small work takes the kernels of one thread, larger work those of several


@click.command(epilog=EXAMPLES)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
def warmup(dtype: str) -> None:
    """Compile the kernels and keep their machine code."""
    import fastcnn as fc
    from fastcnn import host

    folder = host.cache_folder()
    before = set(folder.iterdir())
    start = time.perf_counter()
    steps = {"LeNet": fc.models.lenet(), "the other layers, strides and groups": _other_layers()}
    for number, (title, net) in enumerate(steps.items(), start=1):
        click.echo(f"[{number}/{len(steps)}] {title} ...", nl=False)
        begun = time.perf_counter()
        _train(net.astype(dtype))
        click.echo(f" {time.perf_counter() - begun:.1f} s")
    made = len(set(folder.iterdir()) - before)
    seconds = time.perf_counter() - start
    click.echo(f"{plural(made, 'new file')} in {folder}, {seconds:.1f} s")


def _other_layers() -> "Graph":
    import fastcnn as fc

    x = fc.Input(12, 12, 4)
    h = fc.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False)(x)
    h = fc.ReLU()(h + fc.Conv2d(8, 8, 3, dilation=2, padding=2)(h))
    h = fc.AvgPool2d(2)(fc.MaxPool2d(3, stride=1, padding=1)(h))
    return fc.Graph(x, fc.Linear(72, 10, bias=False)(fc.Flatten()(h)))


def _train(net: "Graph") -> None:
    import numpy as np

    import fastcnn as fc

    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01, momentum=0.9))
    for batch in BATCHES:
        images = np.ones((batch, *net.input_shapes[0]), net.dtype)
        trainer.step(images, np.zeros(batch, np.int64))
        trainer.predict(images)
