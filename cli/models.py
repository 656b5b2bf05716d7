"""Saved networks as the commands use them: on a device, with their images' normalization."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastcnn.errors import CheckpointError, DataError, ShapeError

if TYPE_CHECKING:
    from fastcnn import Graph
    from fastcnn.data import Normalization


AGAIN = "train it again, at a lower learning rate"


def load_model(path: Path, device: str) -> "Graph":
    """Return the saved network, on this device; CheckpointError if a number that it keeps is not finite.

    Its outputs do not show every such weight: ReLU and max-pooling pass over NaN.
    """
    import numpy as np

    import fastcnn as fc

    net = fc.load(path)
    for name, layer in net.named_layers():
        for key, values in (*layer.params.items(), *layer.state.items()):
            if not np.isfinite(values).all():
                raise CheckpointError(
                    f"The model file {path} holds NaN or infinity in {name}.{key}, and tells no classes; {AGAIN}."
                )
    return net.to(device)


@contextmanager
def quiet_overflow() -> Iterator[None]:
    """Keep NumPy's warnings of overflow back: commands check what comes out, and say it in a sentence."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        yield


def check_finite(is_finite: bool, model: Path, what: str) -> None:
    """Raise DataError if what a network of finite weights puts out is not finite."""
    if not is_finite:
        raise DataError(f"{model} gives {what} that is NaN or infinity: its numbers overflow; {AGAIN}.")


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
    """Return the names of the classes, their numbers where the file has no fitting names.

    Raises
    ------
    ShapeError
        If the network does not put out one row of scores, (K,).
    """
    shapes = net.output_shapes
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise ShapeError(f"The network puts out arrays of shape {shapes}; give one that puts out scores of K classes.")
    count = shapes[0][0]
    names = net.metadata.get("classes")
    if isinstance(names, list) and len(names) == count:
        return [str(name) for name in names]
    return [str(number) for number in range(count)]
