"""VGG: five stages of 3x3 convolutions, each halved by a pool, then three fully connected layers.

    vgg11, 13, 16, 19     configurations A, B, D, E     with _bn, batch normalization after every convolution

Source: Simonyan and Zisserman 2015; the layers' names are torchvision's. Where the last pool leaves other than 7x7
pixels, they are averaged to so many. First weights of the fully connected layers are normal with deviation 0.01.
"""

from collections.abc import Sequence
from itertools import pairwise

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.initializers import Normal
from fastcnn.layers import BatchNorm2d, Conv2d, Dropout, Layer, Linear, MaxPool2d, ReLU
from fastcnn.models.common import chain, image_input, pooled

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
LEAST = 2 ** len(WIDTHS)
POOLED, HIDDEN, DROPPED = 7, 4096, 0.5


def _features(layers: int, channels: int, with_norm: bool) -> list[Layer]:
    features: list[Layer] = []
    for width, depth in zip(WIDTHS, DEPTHS[layers], strict=True):
        for _ in range(depth):
            features += [Conv2d(channels, width, 3, padding=1), *([BatchNorm2d(width)] if with_norm else []), ReLU()]
            channels = width
        features.append(MaxPool2d(2))
    return features


def _vgg(layers: int, with_norm: bool, classes: int, input_shape: Sequence[int]) -> Graph:
    image = image_input(input_shape, classes, f"vgg{layers}" + "_bn" * with_norm, LEAST)
    x = pooled(chain(image, _features(layers, image.shape[-1], with_norm), "features"), POOLED)
    sizes = (x.shape[0], HIDDEN, HIDDEN, classes)
    hidden, last, logits = (
        Linear(size, following, weight_init=Normal(0.0, 0.01)) for size, following in pairwise(sizes)
    )
    head = [hidden, ReLU(), Dropout(DROPPED), last, ReLU(), Dropout(DROPPED), logits]
    return Graph(image, chain(x, head, "classifier"))


@checks_arguments
def vgg11(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-11, for images of 32x32 pixels or more.

    >>> vgg11().parameter_count
    132863336
    """
    return _vgg(11, False, classes, input_shape)


@checks_arguments
def vgg11_bn(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-11 with batch normalization, for images of 32x32 pixels or more.

    >>> vgg11_bn().parameter_count
    132868840
    """
    return _vgg(11, True, classes, input_shape)


@checks_arguments
def vgg13(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-13, for images of 32x32 pixels or more.

    >>> vgg13().parameter_count
    133047848
    """
    return _vgg(13, False, classes, input_shape)


@checks_arguments
def vgg13_bn(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-13 with batch normalization, for images of 32x32 pixels or more.

    >>> vgg13_bn().parameter_count
    133053736
    """
    return _vgg(13, True, classes, input_shape)


@checks_arguments
def vgg16(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-16, for images of 32x32 pixels or more.

    >>> vgg16().parameter_count
    138357544
    """
    return _vgg(16, False, classes, input_shape)


@checks_arguments
def vgg16_bn(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-16 with batch normalization, for images of 32x32 pixels or more.

    >>> vgg16_bn().parameter_count
    138365992
    """
    return _vgg(16, True, classes, input_shape)


@checks_arguments
def vgg19(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-19, for images of 32x32 pixels or more.

    >>> vgg19().parameter_count
    143667240
    """
    return _vgg(19, False, classes, input_shape)


@checks_arguments
def vgg19_bn(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return VGG-19 with batch normalization, for images of 32x32 pixels or more.

    >>> vgg19_bn().parameter_count
    143678248
    """
    return _vgg(19, True, classes, input_shape)
