"""SqueezeNet: few channels by 1x1 ("squeeze"), then many by 1x1 and 3x3 side by side ("expand").

    version "1.0"   7x7 first, 96 channels; pools after modules 1, 4 and 8       the paper's
    version "1.1"   3x3 first, 64 channels; pools after modules 1, 3 and 5       2.4 times fewer multiply-adds

Source: Iandola et al. 2016, and their second release; the layers' names are torchvision's. The scores are means of the
last convolution over the image.
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.errors import ArgumentError
from fastcnn.graph.graph import Graph
from fastcnn.initializers import Normal
from fastcnn.layers import Concat, Conv2d, Dropout, MaxPool2d, ReLU
from fastcnn.layers.node import Node
from fastcnn.models.common import image_input, pooled

POOL = 0  # in a list of modules

# (channels and size of the first filters, squeeze channels of the modules and pools between them)
VERSIONS = {
    "1.0": ((96, 7), (POOL, 16, 16, 32, POOL, 32, 48, 48, 64, POOL, 64)),
    "1.1": ((64, 3), (POOL, 16, 16, POOL, 32, 32, POOL, 48, 48, 64, 64)),
}
LEAST = {"1.0": 21, "1.1": 17}
FIRST_MODULE = 2  # among torchvision's features
EXPANSION = 4  # of the squeezed channels, on either side
DROPPED = 0.5


@checks_arguments
def squeezenet(classes: int = 1000, input_shape: Sequence[int] = (224, 224, 3), version: str = "1.0") -> Graph:
    """Return SqueezeNet, for images of 21x21 pixels (version "1.1": 17x17) or more.

    Parameters
    ----------
    version
        "1.0", the paper's, or "1.1", of 2.4 times fewer multiply-adds.

    >>> squeezenet().parameter_count, squeezenet(version="1.1").parameter_count
    (1248424, 1235496)
    """
    if version not in tuple(VERSIONS):  # of any type
        raise ArgumentError(f"version={version!r} was given: choose one of {', '.join(map(repr, VERSIONS))}.")
    (width, size), modules = VERSIONS[version]
    image = image_input(input_shape, classes, "squeezenet", LEAST[version])
    x = ReLU()(Conv2d(image.shape[-1], width, size, 2, name="features.0")(image))
    for i, squeezed in enumerate(modules, FIRST_MODULE):
        name = f"features.{i}"
        x = MaxPool2d(3, 2, ceil_mode=True, name=name)(x) if squeezed == POOL else _fire(x, squeezed, name)
    x = Dropout(DROPPED, name="classifier.0")(x)
    scores = Conv2d(x.shape[-1], classes, 1, weight_init=Normal(0.0, 0.01), name="classifier.1")
    return Graph(image, pooled(ReLU()(scores(x))))


def _fire(x: Node, squeezed: int, name: str) -> Node:
    x = ReLU()(Conv2d(x.shape[-1], squeezed, 1, name=f"{name}.squeeze")(x))
    sides = (
        ReLU()(Conv2d(squeezed, squeezed * EXPANSION, size, padding=size // 2, name=f"{name}.expand{size}x{size}")(x))
        for size in (1, 3)
    )
    return Concat()(*sides)
