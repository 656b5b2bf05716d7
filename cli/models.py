"""Saved networks as the commands use them: on a device, with their images' normalization."""

from pathlib import Path
from typing import TYPE_CHECKING

from fastcnn.errors import ShapeError

if TYPE_CHECKING:
    from fastcnn import Graph
    from fastcnn.data import Normalization


def load_model(path: Path, device: str) -> "Graph":
    """Return the saved network, on this device."""
    import fastcnn as fc

    return fc.load(path).to(device)


def image_shape(net: "Graph") -> tuple[int, int, int]:
    """Return (H, W, C) of the one image that the network takes."""
    shapes = net.input_shapes
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise ShapeError(f"The network takes inputs of shape {shapes}; give one that takes one image (H, W, C).")
    height, width, channels = shapes[0]
    return height, width, channels


def normalization(net: "Graph") -> "Normalization":
    """Return the normalization that the network was trained with."""
    from fastcnn.data import Normalization

    return Normalization.from_metadata(net.metadata, image_shape(net)[2])


def class_names(net: "Graph") -> list[str]:
    """Return the names of the classes, their numbers where the file has no fitting names."""
    count = net.output_shapes[0][-1]
    names = net.metadata.get("classes")
    if isinstance(names, list) and len(names) == count:
        return [str(name) for name in names]
    return [str(number) for number in range(count)]
