"""`fastcnn plot filters FILE`: pictures of what a saved network or sparse-coding layer has learned."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastcnn.cli.options import FILE, OutputFile

if TYPE_CHECKING:
    from fastcnn.arrays import Array

EXAMPLES = """
\b
Examples:
  fastcnn plot filters lenet.safetensors
  fastcnn plot filters lenet.safetensors --layer conv2 --out filters.png
"""


@click.group(epilog=EXAMPLES)
def plot() -> None:
    """Draw what a saved network has learned."""


@plot.command(epilog=EXAMPLES)
@click.argument("file", type=FILE)
@click.option("--layer", help="Name of the layer whose filters to draw.  [default: the first convolution]")
@click.option(
    "--out",
    type=OutputFile(),
    help="Write the picture here (.png, .svg, .pdf, .jpg).  [default: FILE with the ending .png]",
)
def filters(file: Path, layer: str | None, out: Path | None) -> None:
    """Draw the filters of a convolution in FILE, a network or layers of sparse coding (.safetensors).

    Each filter is a tile, in colour where it meets three channels, else a grey tile for each channel;
    mid-grey is 0, white and black the filter's largest magnitude. Needs matplotlib: pip install "fastcnn[plot]".
    """
    from fastcnn.plotting import check_plot, plot_filters

    target = check_plot(out or file.with_suffix(".png"))
    name, weight = _find(file, layer)
    *window, channels, count = weight.shape
    size = "x".join(map(str, window))
    title = f"{name}: {count} filters of {size} on {channels} channel{'s' * (channels != 1)}"
    plot_filters(weight, target, title)
    click.echo(f"{title}\nwrote {target}")


def _find(file: Path, layer: str | None) -> "tuple[str, Array]":
    """Return the name and the weight (*filter, C, K) of a layer of the file, by default of its first convolution."""
    from fastcnn.errors import ArgumentError, DataError
    from fastcnn.sparse_coding.files import is_sparse_coding

    found = _sparse_filters(file) if is_sparse_coding(file) else _network_filters(file)
    if not found:
        raise DataError(f"{file} has no convolution, and so no filters to draw: give a network that has one.")
    if layer is None:
        return next(iter(found.items()))
    if layer not in found:
        raise ArgumentError(f"--layer {layer!r} names no filters of {file}: choose one of {', '.join(found)}.")
    return layer, found[layer]


def _sparse_filters(file: Path) -> "dict[str, Array]":
    from fastcnn.sparse_coding.files import load
    from fastcnn.sparse_coding.model import SparseCoding

    layers, _ = load(file, SparseCoding, "reference")
    return {f"layer{number}": layer.filters for number, layer in enumerate(layers, start=1)}


def _network_filters(file: Path) -> "dict[str, Array]":
    """Return the weights of convolutions; a transposed one, (*filter, K, C), is turned to have its outputs last."""
    import fastcnn as fc
    from fastcnn.layers.conv import FilterLayer
    from fastcnn.layers.conv_transpose import ConvTranspose

    net = fc.load(file, device="reference")
    found = {}
    for name, layer in net.named_layers():
        if isinstance(layer, FilterLayer):
            weight = layer.params["weight"]
            found[name] = weight.swapaxes(-1, -2) if isinstance(layer, ConvTranspose) else weight
    return found
