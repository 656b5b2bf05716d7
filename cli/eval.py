"""`fastcnn eval MODEL`: accuracy and loss of a saved network on the test part of a data set."""

from dataclasses import replace
from math import isfinite
from pathlib import Path

import click

from fastcnn.cli.models import check_finite, load_model, normalization, quiet_overflow
from fastcnn.cli.options import FILE, data_options, device_options, json_option, use_threads
from fastcnn.cli.output import plural, write_json

EXAMPLES = """
\b
Examples:
  fastcnn eval lenet.safetensors
  fastcnn eval lenet.safetensors --data mnist --data-dir data/mnist --json result.json
"""


@click.command("eval", epilog=EXAMPLES)
@click.argument("model", type=FILE)
@data_options(None, "digits, mnist, fashion, cifar10, or a folder.  [default: what it learned from]")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@device_options
@json_option
def evaluate(
    model: Path,
    data: str | None,
    data_dir: Path | None,
    remap_labels: bool,
    batch_size: int,
    device: str,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Report accuracy and loss of MODEL, a .safetensors file.

    They are those of the test part of the data.
    """
    import fastcnn as fc
    from fastcnn.data import load, names

    net = load_model(model, device)
    data = data or str(net.metadata.get("data", ""))
    if not data or (data not in names() and not Path(data).is_dir()):
        problem = f"learned from {data!r}, which is no folder here" if data else "does not say what it learned from"
        raise click.UsageError(f"{model} {problem}; name the data by --data.")
    if device == "cpu":
        use_threads(threads)
    test = load(data, data_dir, remap_labels=remap_labels)[1]  # the training part goes at once
    test = replace(test, images=normalization(net).apply(test.images))
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(lr=0))
    with quiet_overflow():
        loss, accuracy = trainer.evaluate(test, batch_size)
    check_finite(isfinite(loss), model, f"a loss on {test.name}")
    click.echo(f"{plural(len(test), 'image')} of {test.name}: accuracy {accuracy:.2%}, loss {loss:.4f}")
    write_json(json_file, {"accuracy": accuracy, "loss": loss, "images": len(test)})
