"""GoogLeNet: modules of 1x1, 3x3 and larger convolutions and a pool side by side, their channels joined.

Source: Szegedy et al. 2014. This is torchvision's version, with its names: batch normalization after every convolution
instead of brightness normalization, 3x3 filters where the paper has 5x5 ones, no auxiliary classifiers.
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.initializers import TruncatedNormal
from fastcnn.layers import Concat, Dropout, MaxPool2d, ReLU
from fastcnn.layers.node import Node
from fastcnn.models.common import classifier, conv_norm, image_input, pooled

# 1x1; 1x1 and 3x3; 1x1 and the second 3x3; 1x1 after the pool
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
POOLS_AFTER = {"3b": ("maxpool3", 3), "4e": ("maxpool4", 2)}
LEAST = 15
EPSILON = 1e-3
DROPPED = 0.4  # the paper's


@checks_arguments
def googlenet(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3)) -> Graph:
    """Return GoogLeNet, for images of 15x15 pixels or more.

    >>> googlenet().parameter_count
    6624904
    """
    image = image_input(input_shape, classes, "googlenet", LEAST)
    x = _pool(_conv(image, 64, 7, "conv1", 2), "maxpool1")
    x = _pool(_conv(_conv(x, 64, 1, "conv2"), 192, 3, "conv3"), "maxpool2")
    for module, widths in MODULES.items():
        x = _inception(x, widths, f"inception{module}")
        if module in POOLS_AFTER:
            x = _pool(x, *POOLS_AFTER[module])
    x = Dropout(DROPPED, name="dropout")(pooled(x))
    return Graph(image, classifier(x, classes, "fc", TruncatedNormal(0.0, 0.01)))


def _conv(x: Node, width: int, size: int, name: str, stride: int = 1) -> Node:
    return ReLU()(conv_norm(x, width, size, (f"{name}.conv", f"{name}.bn"), stride, eps=EPSILON))


def _pool(x: Node, name: str, size: int = 3) -> Node:
    return MaxPool2d(size, 2, ceil_mode=True, name=name)(x)


def _inception(x: Node, widths: Sequence[int], name: str) -> Node:
    """Return the four branches' channels, one after the other."""
    branches = [_conv(x, widths[0], 1, f"{name}.branch1")]
    for i, (narrow, wide) in enumerate((widths[1:3], widths[3:5]), 2):
        branches.append(_conv(_conv(x, narrow, 1, f"{name}.branch{i}.0"), wide, 3, f"{name}.branch{i}.1"))
    image = MaxPool2d(3, 1, 1, ceil_mode=True, name=f"{name}.branch4.0")(x)
    return Concat()(*branches, _conv(image, widths[5], 1, f"{name}.branch4.1"))
