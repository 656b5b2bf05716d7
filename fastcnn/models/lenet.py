"""The two LeNets: convolution, pooling, convolution, pooling, then fully connected layers.

lenet5   6 and 16 filters 5x5, 120, 84, K     LeCun et al. 1998, with ReLU and maximum pooling
lenet    20 and 50 filters 5x5, 500, K        its wider descendant
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Shape
from fastcnn.graph.sequential import Sequential
from fastcnn.layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU
from fastcnn.models.common import image_shape
from fastcnn.shapes import whole

FILTER = 5
POOL = 2

# LeNet-5 was drawn for 32x32 images; smaller ones are padded as if they stood in such a frame.
LENET5_IMAGE = 32


@checks_arguments
def lenet5(classes: int = 10, input_shape: Sequence[int] = (28, 28, 1)) -> Sequential:
    """Return LeNet-5.

    Its first convolution pads by 2 where an image is smaller than 32 pixels (28x28 then gives the
    original's sizes), its second only where less than a window would be left.

    >>> [node.shape for node in lenet5(input_shape=(32, 32, 1)).nodes if len(node.shape) == 3]
    [(32, 32, 1), (28, 28, 6), (28, 28, 6), (14, 14, 6), (10, 10, 16), (10, 10, 16), (5, 5, 16)]
    """
    shape = image_shape(input_shape, "lenet5", POOL * POOL)
    height, width, channels = shape
    first = tuple(2 if size < LENET5_IMAGE else 0 for size in (height, width))
    halves = [(size + 2 * pad - FILTER + 1) // POOL for size, pad in zip((height, width), first, strict=True)]
    second = tuple(2 if size < FILTER + POOL - 1 else 0 for size in halves)
    trunk = [
        Conv2d(channels, 6, FILTER, padding=first), ReLU(), MaxPool2d(POOL),
        Conv2d(6, 16, FILTER, padding=second), ReLU(), MaxPool2d(POOL), Flatten(),
    ]  # fmt: skip
    return _with_head(trunk, (120, 84, classes), shape)


@checks_arguments
def lenet(classes: int = 10, input_shape: Sequence[int] = (28, 28, 1)) -> Sequential:
    """Return the LeNet of 20 and 50 filters, whose convolutions keep the image's size.

    >>> [node.shape for node in lenet().nodes if len(node.shape) == 1]
    [(2450,), (500,), (500,), (10,)]
    """
    shape = image_shape(input_shape, "lenet", POOL * POOL)
    trunk = [
        Conv2d(shape[-1], 20, FILTER, padding=2), ReLU(), MaxPool2d(POOL),
        Conv2d(20, 50, FILTER, padding=2), ReLU(), MaxPool2d(POOL), Flatten(),
    ]  # fmt: skip
    return _with_head(trunk, (500, classes), shape)


def _with_head(trunk: list[Layer], sizes: Sequence[int], input_shape: Shape) -> Sequential:
    """Return the trunk with fully connected layers of these sizes, ReLU between them."""
    whole(sizes[-1], 1, "classes")
    features = input_shape
    for layer in trunk:
        features = layer.output_shape(features)
    layers, size = list(trunk), features[0]
    for following in sizes:
        layers += [Linear(size, following), ReLU()]
        size = following
    return Sequential(*layers[:-1], input_shape=input_shape)
