"""`fastcnn summary MODEL|FILE`: what a network is made of, layer by layer."""

from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastcnn.cli.options import ModelName, json_option
from fastcnn.cli.output import print_table, write_json

if TYPE_CHECKING:
    from fastcnn import Graph
    from fastcnn.engine.memory import Memory

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
MEBIBYTE = 1 << 20

EXAMPLES = """
\b
Examples:
  fastcnn summary lenet5
  fastcnn summary resnet50 --batch 8 --optimizer adam
  fastcnn summary lenet --input-shape 32x32x3 --classes 100
  fastcnn summary lenet.safetensors --json layers.json
"""


class ModelOrFile(ModelName):
    """The name of a model, or a .safetensors file."""

    name = "model|file"
    only_classifiers = False

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value, or fail with the nearest names."""
        return value if Path(value).is_file() else super().convert(value, param, ctx)


class ImageShape(click.ParamType):
    """Three numbers from 1 up, such as 28x28x1."""

    name = "HxWxC"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Return (H, W, C)."""
        parts = value.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is no image shape; write it as 28x28x1.", param, ctx)
        height, width, channels = map(int, parts)
        return height, width, channels


@click.command(epilog=EXAMPLES)
@click.argument("model", type=ModelOrFile())
@click.option("--input-shape", type=ImageShape(), metavar="HxWxC", help="Shape of an image.  [default: the model's]")
@click.option("--classes", type=click.IntRange(min=1), help="Classes.  [default: the model's]")
@click.option("--batch", type=click.IntRange(min=1), help="Show the memory that so many images at once need, too.")
@click.option(
    "--optimizer",
    type=click.Choice(list(OPTIMIZERS)),
    default="sgd",
    show_default=True,
    help="Whose state to count, with --batch; sgd has momentum.",
)
@json_option
def summary(
    model: str,
    input_shape: tuple[int, int, int] | None,
    classes: int | None,
    batch: int | None,
    optimizer: str,
    json_file: Path | None,
) -> None:
    """Show the layers of MODEL, a name or a .safetensors file.

    Each with its output shape, parameters, multiply-adds and receptive field. With --batch, the memory of a training
    step and of a prediction comes beneath: nothing runs for that, and no weight is drawn.
    """
    net = _network(model, input_shape, classes)
    measures = net.measures()
    total = sum(layer.multiply_adds for layer in measures)
    print_table(
        (
            ("name", False),
            ("layer", False),
            ("output", True),
            ("parameters", True),
            ("multiply-\nadds", True),
            ("receptive\nfield", True),
        ),
        (
            (
                layer.name,
                layer.description,
                "x".join(map(str, layer.output_shape)),
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
                "x".join(map(str, layer.receptive_field or ())) or "all",
            )
            for layer in measures
        ),
    )
    click.echo(f"{net.parameter_count:,} parameters, {total:,} multiply-adds per image")
    content: dict[str, Any] = {
        "parameters": net.parameter_count,
        "multiply_adds": total,
        "layers": [asdict(layer) for layer in measures],
    }
    if batch is not None:
        training, prediction = _memory(net, batch, optimizer)
        _show_memory(training, prediction)
        content["memory"] = {
            "batch_size": batch,
            "training": training.parts() | {"total": training.total},
            "prediction": prediction.parts() | {"total": prediction.total},
        }
    write_json(json_file, content)


def _memory(net: "Graph", batch: int, optimizer: str) -> "tuple[Memory, Memory]":
    import fastcnn as fc

    rule = fc.SGD(momentum=0.9) if optimizer == "sgd" else getattr(fc, OPTIMIZERS[optimizer])()
    return net.memory(batch, True, rule), net.memory(batch, False)


def _show_memory(training: "Memory", prediction: "Memory") -> None:
    print_table(
        (("MiB", False), (f"training step,\nbatch {training.batch_size}", True), ("prediction", True)),
        [
            (name, *(f"{size / MEBIBYTE:,.1f}" for size in sizes))
            for name, *sizes in (
                *((name, size, prediction.parts()[name]) for name, size in training.parts().items()),
                ("total", training.total, prediction.total),
            )
        ],
    )


def _network(model: str, input_shape: tuple[int, int, int] | None, classes: int | None) -> "Graph":
    import fastcnn as fc

    if not Path(model).is_file():
        given = {"input_shape": input_shape, "classes": classes}
        options = {name: value for name, value in given.items() if value is not None}
        build = fc.models.get(model)
        if classes and "classes" not in signature(build).parameters:
            raise click.UsageError(f"{model} has no classes; leave out --classes.")
        return build(**options)
    if input_shape or classes:
        raise click.UsageError("A model file has its own shapes; leave out --input-shape and --classes.")
    return fc.load(model)
