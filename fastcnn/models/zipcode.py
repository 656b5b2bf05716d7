"""The network that read handwritten zip codes, the first convolutional one trained by gradients.

    H1   12 maps, 5x5 filters at stride 2      H3   30 units
    H2   12 maps, 5x5 at stride 2, each of 8 of the maps of H1      output   one unit a class

All with tanh but the output. Source: LeCun et al. 1989. Each group of 4 maps of H2 reads two of the three groups of 4
maps of H1: the paper says which number, not which maps. A map has one bias, where the paper has one for each of its
pixels (9,760 parameters); images are padded by zeros, where the paper has -1; scores are logits, not tanh.
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.initializers import HeNormal
from fastcnn.layers import Concat, Conv2d, Flatten, Linear, Tanh
from fastcnn.layers.node import Node
from fastcnn.models.common import image_input

GROUPS, MAPS = 3, 4  # of a hidden layer, and of each of its groups
FILTER, STRIDE = 5, 2
HIDDEN = 30
UNIT_GAIN = HeNormal(1.0)  # keeps the variance of a signal through tanh near 0


@checks_arguments
def zipcode1989(classes: int = 10, input_shape: Sequence[int] = (16, 16, 1)) -> Graph:
    """Return the zip code network, for images of any size.

    >>> zipcode1989().parameter_count, 9760 - 12 * (8 * 8 + 4 * 4 - 2)
    (8824, 8824)
    """
    image = image_input(input_shape, classes, "zipcode1989")
    first = [_maps(image, f"h1.{group}") for group in range(GROUPS)]
    pairs = [Concat()(first[group], first[(group + 1) % GROUPS]) for group in range(GROUPS)]
    x = Flatten()(Concat()(*(_maps(pair, f"h2.{group}") for group, pair in enumerate(pairs))))
    x = Tanh()(Linear(x.shape[0], HIDDEN, weight_init=UNIT_GAIN, name="h3")(x))
    return Graph(image, Linear(HIDDEN, classes, weight_init=UNIT_GAIN, name="output")(x))


def _maps(x: Node, name: str) -> Node:
    conv = Conv2d(x.shape[-1], MAPS, FILTER, STRIDE, FILTER // 2, weight_init=UNIT_GAIN, name=name)
    return Tanh()(conv(x))
