"""What the models share: the check of their arguments, and rows of layers on nodes.

Layers whose weights are published carry the names that they have there, so that these can be found.
"""

from collections.abc import Iterable, Sequence

from fastcnn.arrays import Shape
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.initializers import Initializer
from fastcnn.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Layer, Linear
from fastcnn.layers.node import Input, Node
from fastcnn.shapes import per_axis, whole

ARGUMENTS = """Parameters
----------
classes
    K, the number of classes, at least 1: the network's scores are logits (K,).
input_shape
    (H, W, C) of an image.

Raises
------
ArgumentError
    If an argument is none of those described.
ShapeError
    If images are too small for the network.
"""


def image_shape(input_shape: Sequence[int], model: str, least: int = 1) -> Shape:
    """Return (H, W, C), or refuse what is no image shape, or has fewer than `least` pixels on a side.

    >>> image_shape([28, 28, 1], "lenet", least=4)
    (28, 28, 1)
    """
    if not isinstance(input_shape, list | tuple) or len(input_shape) != 3:
        raise ArgumentError(f"input_shape={input_shape!r} was given: give (H, W, C), as (28, 28, 1).")
    shape = per_axis(input_shape, 3, 1, "input_shape")
    if min(shape[:2]) < least:
        raise ShapeError(
            f"{model} got input_shape {shape} as (H, W, C), and needs images of at least {least}x{least} pixels for "
            "its pools and strides: put the channels last, or enlarge the images."
        )
    return shape


def image_input(input_shape: Sequence[int], classes: int, model: str, least: int = 1) -> Input:
    """Return the input of a classifier, or refuse its image shape or number of classes."""
    whole(classes, 1, "classes")
    return Input(*image_shape(input_shape, model, least))


def chain(x: Node, layers: Iterable[Layer], prefix: str) -> Node:
    """Return a node after layers in a row, named "prefix.0", "prefix.1", ... as in a PyTorch Sequential."""
    for number, layer in enumerate(layers):
        layer.name = f"{prefix}.{number}"
        x = layer(x)
    return x


def conv_norm(
    x: Node,
    width: int,
    size: int,
    names: tuple[str, str],
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
    eps: float = 1e-5,
) -> Node:
    """Return a convolution without bias, padded by half its filter, and its batch normalization, under two names."""
    pad = size // 2 if padding is None else padding
    conv = Conv2d(x.shape[-1], width, size, stride, pad, groups=groups, bias=False, name=names[0])
    return BatchNorm2d(width, eps, name=names[1])(conv(x))


def pooled(x: Node, size: int = 1) -> Node:
    """Return the features (F,) of an image: the means of size x size parts of it, or itself where it has that size."""
    if x.shape[:2] != (size, size):
        x = AdaptiveAvgPool2d(size, name="avgpool")(x)
    return Flatten()(x)


def classifier(x: Node, classes: int, name: str, weight_init: Initializer | None = None) -> Node:
    """Return the logits (classes,) of features (F,)."""
    return Linear(x.shape[0], classes, weight_init=weight_init, name=name)(x)
