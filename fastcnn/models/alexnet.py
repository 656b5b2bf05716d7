"""AlexNet: five convolutions, two of them normalized by brightness, overlapping pools, three fully connected layers.

    conv1  11x11, stride 4    96      norm, pool     conv4  3x3   384, two groups
    conv2   5x5, two groups   256     norm, pool     conv5  3x3   256, two groups   pool
    conv3   3x3               384                    fc6, fc7  4096, dropout        fc8  classes

Source: Krizhevsky, Sutskever, Hinton 2012, with Caffe's names of layers. Each of two graphics cards held half of the
channels: hence the groups of conv2, conv4 and conv5. torchvision's model of this name is another, of 61,100,840
parameters (Krizhevsky 2014). First weights are He's, not the paper's normal ones of deviation 0.01.
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.layers import Conv2d, Dropout, LocalResponseNorm, MaxPool2d, ReLU
from fastcnn.layers.node import Node
from fastcnn.models.common import classifier, image_input, pooled
from fastcnn.shapes import whole

LEAST = 67  # pixels of an image that leave one for the last pool
POOLED, HIDDEN, DROPPED = 6, 4096, 0.5


@checks_arguments
def alexnet(classes: int = 1000, input_shape: Sequence[int] = (227, 227, 3), groups: int = 2) -> Graph:
    """Return AlexNet, for images of 67x67 pixels or more.

    Parameters
    ----------
    groups
        Those of conv2, conv4 and conv5; 1 lets all channels meet.

    Where the last pool leaves other than 6x6 pixels, they are averaged to so many.

    >>> alexnet().parameter_count, alexnet(groups=1).parameter_count
    (60965224, 62378344)
    """
    image, groups = image_input(input_shape, classes, "alexnet", LEAST), whole(groups, 1, "groups")
    x = _normalized(ReLU()(Conv2d(image.shape[-1], 96, 11, 4, name="conv1")(image)), 1)
    x = _normalized(ReLU()(Conv2d(96, 256, 5, padding=2, groups=groups, name="conv2")(x)), 2)
    x = ReLU()(Conv2d(256, 384, 3, padding=1, name="conv3")(x))
    x = ReLU()(Conv2d(384, 384, 3, padding=1, groups=groups, name="conv4")(x))
    x = ReLU()(Conv2d(384, 256, 3, padding=1, groups=groups, name="conv5")(x))
    x = pooled(MaxPool2d(3, 2, name="pool5")(x), POOLED)
    for i in (6, 7):
        x = Dropout(DROPPED, name=f"drop{i}")(ReLU()(classifier(x, HIDDEN, f"fc{i}")))
    return Graph(image, classifier(x, classes, "fc8"))


def _normalized(x: Node, i: int) -> Node:
    """Return x with its brightness normalized as the paper has it, and pooled."""
    norm = LocalResponseNorm(5, kappa=2.0, lam=1e-4, mu=0.75, name=f"norm{i}")
    return MaxPool2d(3, 2, name=f"pool{i}")(norm(x))
