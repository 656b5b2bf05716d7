"""MobileNets: depthwise 3x3 convolutions and 1x1 convolutions, with ReLU cut at 6.

    mobilenet_v1   a depthwise and a 1x1 convolution a block             Howard et al. 2017
    mobilenet_v2   1x1 to more channels, depthwise, 1x1 to few ones      Sandler et al. 2018
                   without ReLU; added to the block's input where the shapes agree

A width multiplier scales the channels of every layer. mobilenet_v2 has torchvision's names.
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.initializers import Normal
from fastcnn.layers import Dropout, ReLU6
from fastcnn.layers.node import Node
from fastcnn.models.common import classifier, conv_norm, image_input, pooled
from fastcnn.shapes import number

DIVISOR = 8  # of the channels of a scaled layer
LEAST_KEPT = 0.9  # of the channels asked for, where they are rounded to a multiple
LEAST_WIDTH = 0.01

# (channels, stride) of each block
V1_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))

# (expansion, channels, blocks, stride of the first) of each stage
V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
V2_LAST, V2_DROPPED = 1280, 0.2


def scaled(channels: int, width: float) -> int:
    """Return width * channels rounded to a multiple of 8, by at most a tenth downwards.

    >>> [scaled(channels, 0.35) for channels in (16, 24, 32, 160)]
    [8, 8, 16, 56]
    """
    wanted = channels * width
    rounded = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded + DIVISOR if rounded < LEAST_KEPT * wanted else rounded


def _conv(x: Node, width: int, size: int, names: tuple[str, str], stride: int = 1, groups: int = 1) -> Node:
    return ReLU6()(conv_norm(x, width, size, names, stride, groups))


@checks_arguments
def mobilenet_v1(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3), width: float = 1.0) -> Graph:
    """Return MobileNet, for images of any size.

    Parameters
    ----------
    width
        A factor of the channels, which are rounded to multiples of 8.

    >>> mobilenet_v1().parameter_count, mobilenet_v1(width=0.25).parameter_count
    (4231976, 470072)
    """
    image, width = image_input(input_shape, classes, "mobilenet_v1"), number(width, "width", LEAST_WIDTH)
    x = _conv(image, scaled(32, width), 3, ("conv1", "bn1"), 2)
    for i, (channels, stride) in enumerate(V1_BLOCKS, 1):
        x = _conv(x, x.shape[-1], 3, (f"block{i}.depthwise", f"block{i}.bn1"), stride, x.shape[-1])
        x = _conv(x, scaled(channels, width), 1, (f"block{i}.pointwise", f"block{i}.bn2"))
    return Graph(image, classifier(pooled(x), classes, "fc", Normal(0.0, 0.01)))


def _inverted(x: Node, channels: int, expansion: int, stride: int, name: str) -> Node:
    """Return an inverted residual block, whose middle is wider than its ends."""
    y, wide, i = x, x.shape[-1] * expansion, 0
    if expansion > 1:
        y, i = _conv(y, wide, 1, (f"{name}.conv.0.0", f"{name}.conv.0.1")), 1
    y = _conv(y, wide, 3, (f"{name}.conv.{i}.0", f"{name}.conv.{i}.1"), stride, wide)
    y = conv_norm(y, channels, 1, (f"{name}.conv.{i + 1}", f"{name}.conv.{i + 2}"))
    return x + y if x.shape == y.shape else y


@checks_arguments
def mobilenet_v2(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3), width: float = 1.0) -> Graph:
    """Return MobileNetV2, for images of any size.

    Parameters
    ----------
    width
        A factor of the channels (the last ones' only from 1 up), which are rounded to multiples of 8.

    >>> mobilenet_v2().parameter_count
    3504872
    """
    image, width = image_input(input_shape, classes, "mobilenet_v2"), number(width, "width", LEAST_WIDTH)
    x = _conv(image, scaled(32, width), 3, ("features.0.0", "features.0.1"), 2)
    i = 1
    for expansion, channels, blocks, stride in V2_STAGES:
        for block in range(blocks):
            x = _inverted(x, scaled(channels, width), expansion, 1 if block else stride, f"features.{i}")
            i += 1
    x = _conv(x, scaled(V2_LAST, max(1.0, width)), 1, (f"features.{i}.0", f"features.{i}.1"))
    x = Dropout(V2_DROPPED, name="classifier.0")(pooled(x))
    return Graph(image, classifier(x, classes, "classifier.1", Normal(0.0, 0.01)))
