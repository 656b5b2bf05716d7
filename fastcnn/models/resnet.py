"""Residual networks: blocks of convolutions whose input is added to their output.

    resnet18, 34           2 convolutions 3x3 a block             stages of 64, 128, 256, 512 channels
    resnet50, 101, 152     1x1, 3x3, 1x1, four times as wide      stages of 256, 512, 1024, 2048 channels
    resnet20, 56, 110      2 convolutions 3x3 a block             stages of 16, 32, 64 channels, for CIFAR

Source: He, Zhang, Ren, Sun 2015. Names and strides are torchvision's: a block of three convolutions strides in its 3x3
one, the paper's in its first. Where a stage narrows the image, the large networks project the shortcut by a 1x1
convolution; those for CIFAR drop every other pixel and add channels of zeros, which has no parameters.
"""

from collections.abc import Callable, Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.layers import MaxPool2d, PadChannels, ReLU, Subsample
from fastcnn.layers.node import Node
from fastcnn.models.common import classifier, conv_norm, image_input, pooled

EXPANSION = 4  # of channels, in a block of three convolutions
CIFAR_STAGES = 3

Block = Callable[[Node, int, int, str], Node]
Shortcut = Callable[[Node, Node, int, str], Node]


def _basic(x: Node, width: int, stride: int, name: str) -> Node:
    y = ReLU()(conv_norm(x, width, 3, (f"{name}.conv1", f"{name}.bn1"), stride))
    return conv_norm(y, width, 3, (f"{name}.conv2", f"{name}.bn2"))


def _bottleneck(x: Node, width: int, stride: int, name: str) -> Node:
    y = ReLU()(conv_norm(x, width, 1, (f"{name}.conv1", f"{name}.bn1")))
    y = ReLU()(conv_norm(y, width, 3, (f"{name}.conv2", f"{name}.bn2"), stride))
    return conv_norm(y, width * EXPANSION, 1, (f"{name}.conv3", f"{name}.bn3"))


def _projected(x: Node, y: Node, stride: int, name: str) -> Node:
    return conv_norm(x, y.shape[-1], 1, (f"{name}.downsample.0", f"{name}.downsample.1"), stride)


def _padded(x: Node, y: Node, stride: int, name: str) -> Node:
    missing = y.shape[-1] - x.shape[-1]
    return PadChannels(missing // 2, missing - missing // 2)(Subsample(stride - 1)(x))


def _stages(x: Node, block: Block, shortcut: Shortcut, depths: Sequence[int]) -> Node:
    """Return the node after all stages: each but the first halves the image and doubles the channels."""
    first = x.shape[-1]
    for stage, depth in enumerate(depths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            name = f"layer{stage + 1}.{number}"
            y = block(x, first * 2**stage, stride, name)
            x = ReLU()(y + (x if x.shape == y.shape else shortcut(x, y, stride, name)))
    return x


def _imagenet(name: str, block: Block, depths: Sequence[int], classes: int, input_shape: Sequence[int]) -> Graph:
    image = image_input(input_shape, classes, name)
    x = ReLU()(conv_norm(image, 64, 7, ("conv1", "bn1"), 2))
    x = MaxPool2d(3, 2, 1, name="maxpool")(x)
    return Graph(image, classifier(pooled(_stages(x, block, _projected, depths)), classes, "fc"))


def _cifar(depth: int, classes: int, input_shape: Sequence[int]) -> Graph:
    image = image_input(input_shape, classes, f"resnet{depth}")
    blocks = (depth - 2) // (2 * CIFAR_STAGES)
    x = ReLU()(conv_norm(image, 16, 3, ("conv1", "bn1")))
    x = _stages(x, _basic, _padded, [blocks] * CIFAR_STAGES)
    return Graph(image, classifier(pooled(x), classes, "fc"))


@checks_arguments
def resnet18(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return ResNet-18, for images of any size.

    >>> resnet18().parameter_count
    11689512
    """
    return _imagenet("resnet18", _basic, (2, 2, 2, 2), classes, input_shape)


@checks_arguments
def resnet34(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return ResNet-34, for images of any size.

    >>> resnet34().parameter_count
    21797672
    """
    return _imagenet("resnet34", _basic, (3, 4, 6, 3), classes, input_shape)


@checks_arguments
def resnet50(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return ResNet-50, for images of any size.

    >>> resnet50().parameter_count
    25557032
    """
    return _imagenet("resnet50", _bottleneck, (3, 4, 6, 3), classes, input_shape)


@checks_arguments
def resnet101(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return ResNet-101, for images of any size.

    >>> resnet101().parameter_count
    44549160
    """
    return _imagenet("resnet101", _bottleneck, (3, 4, 23, 3), classes, input_shape)


@checks_arguments
def resnet152(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return ResNet-152, for images of any size.

    >>> resnet152().parameter_count
    60192808
    """
    return _imagenet("resnet152", _bottleneck, (3, 8, 36, 3), classes, input_shape)


@checks_arguments
def resnet20(classes: int = 10, input_shape: Sequence[int] = (32, 32, 3)) -> Graph:
    """Return the ResNet of 20 layers for CIFAR, for images of any size.

    >>> resnet20().parameter_count
    269722
    """
    return _cifar(20, classes, input_shape)


@checks_arguments
def resnet56(classes: int = 10, input_shape: Sequence[int] = (32, 32, 3)) -> Graph:
    """Return the ResNet of 56 layers for CIFAR, for images of any size.

    >>> resnet56().parameter_count
    853018
    """
    return _cifar(56, classes, input_shape)


@checks_arguments
def resnet110(classes: int = 10, input_shape: Sequence[int] = (32, 32, 3)) -> Graph:
    """Return the ResNet of 110 layers for CIFAR, for images of any size.

    >>> resnet110().parameter_count
    1727962
    """
    return _cifar(110, classes, input_shape)
