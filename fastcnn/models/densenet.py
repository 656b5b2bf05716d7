"""DenseNet: every layer of a block reads the channels of all layers before it, and adds a few of its own.

Source: Huang, Liu, van der Maaten, Weinberger 2017; the layers' names are torchvision's.
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.layers import AvgPool2d, BatchNorm2d, Concat, Conv2d, MaxPool2d, ReLU
from fastcnn.layers.node import Node
from fastcnn.models.common import classifier, conv_norm, image_input, pooled

GROWTH = 32  # channels that a layer adds
BOTTLENECK = 4  # times as many come out of its 1x1 convolution
BLOCKS = (6, 12, 24, 16)
LEAST = 29


@checks_arguments
def densenet121(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return DenseNet-121, for images of 29x29 pixels or more.

    >>> densenet121().parameter_count
    7978856
    """
    image = image_input(input_shape, classes, "densenet121", LEAST)
    x = ReLU()(conv_norm(image, 2 * GROWTH, 7, ("features.conv0", "features.norm0"), 2))
    x = MaxPool2d(3, 2, 1, name="features.pool0")(x)
    for i, layers in enumerate(BLOCKS, 1):
        x = _block(x, layers, f"features.denseblock{i}")
        if i < len(BLOCKS):
            x = _transition(x, f"features.transition{i}")
    x = ReLU()(BatchNorm2d(x.shape[-1], name="features.norm5")(x))
    return Graph(image, classifier(pooled(x), classes, "classifier"))


def _block(x: Node, layers: int, name: str) -> Node:
    parts = [x]
    for i in range(1, layers + 1):
        parts.append(_layer(Concat()(*parts) if i > 1 else x, f"{name}.denselayer{i}"))
    return Concat()(*parts)


def _layer(x: Node, name: str) -> Node:
    """Return the channels that a layer adds: 1x1 and 3x3 convolutions, each after normalization and ReLU."""
    x = ReLU()(BatchNorm2d(x.shape[-1], name=f"{name}.norm1")(x))
    x = ReLU()(conv_norm(x, BOTTLENECK * GROWTH, 1, (f"{name}.conv1", f"{name}.norm2")))
    return Conv2d(x.shape[-1], GROWTH, 3, padding=1, bias=False, name=f"{name}.conv2")(x)


def _transition(x: Node, name: str) -> Node:
    """Return half of the channels and half of the pixels of an axis."""
    x = ReLU()(BatchNorm2d(x.shape[-1], name=f"{name}.norm")(x))
    x = Conv2d(x.shape[-1], x.shape[-1] // 2, 1, bias=False, name=f"{name}.conv")(x)
    return AvgPool2d(2, name=f"{name}.pool")(x)
