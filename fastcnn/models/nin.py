"""Network in network: every convolution is followed by two 1x1 ones, and a mean over the image gives the scores.

Source: Lin, Chen, Yan 2014, the network for CIFAR-10; the layers' names are those of its Caffe model.
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.layers import AvgPool2d, Conv2d, Dropout, MaxPool2d, ReLU
from fastcnn.layers.node import Node
from fastcnn.models.common import image_input, pooled

DROPPED = 0.5
LEAST = 4  # pixels of an image that leave two for the second pool


@checks_arguments
def nin(classes: int = 10, input_shape: Sequence[int] = (32, 32, 3)) -> Graph:
    """Return Network in Network, for images of 4x4 pixels or more.

    >>> nin().parameter_count
    966986
    """
    image = image_input(input_shape, classes, "nin", LEAST)
    x = _block(image, 5, (192, 160, 96), ("conv1", "cccp1", "cccp2"))
    x = Dropout(DROPPED, name="drop1")(MaxPool2d(3, 2, ceil_mode=True, name="pool1")(x))
    x = _block(x, 5, (192, 192, 192), ("conv2", "cccp3", "cccp4"))
    x = Dropout(DROPPED, name="drop2")(AvgPool2d(3, 2, ceil_mode=True, name="pool2")(x))
    x = _block(x, 3, (192, 192, classes), ("conv3", "cccp5", "cccp6"))
    return Graph(image, pooled(x))


def _block(x: Node, size: int, widths: Sequence[int], names: Sequence[str]) -> Node:
    """Return a convolution and two 1x1 ones, each with ReLU."""
    for i, (width, name) in enumerate(zip(widths, names, strict=True)):
        window = 1 if i else size
        x = ReLU()(Conv2d(x.shape[-1], width, window, padding=window // 2, name=name)(x))
    return x
