"""Networks whose answers are images or boxes.

box_detector   a class and a bounding box from one trunk      after Sermanet et al. 2014
autoencoder    an image, from few numbers of it               Zeiler et al. 2010; Hinton and Salakhutdinov 2006
unet           scores of classes at every pixel               Ronneberger, Fischer, Brox 2015, with few channels
"""

from collections.abc import Sequence

from fastcnn.arguments import checks_arguments
from fastcnn.graph.graph import Graph
from fastcnn.layers import (
    AdaptiveAvgPool2d,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Reshape,
)
from fastcnn.layers.node import Input, Node
from fastcnn.models.common import conv_norm, image_input, image_shape
from fastcnn.shapes import whole

CORNERS = 4  # numbers of a box
HALVINGS = 3


@checks_arguments
def box_detector(classes: int = 10, input_shape: Sequence[int] = (64, 64, 1), width: int = 32) -> Graph:
    """Return a network of two outputs: "class", logits (classes,), and "box", four numbers, such as corners.

    Train it with `MultiTask({"class": (CrossEntropy(), 1.0), "box": (SmoothL1(), weight)})`. The heads read 4x4 means
    of the trunk's last channels, for a mean over the whole image does not tell places.

    Parameters
    ----------
    width
        Channels of the first convolutions, at least 1.

    >>> box_detector(classes=3).output_names, box_detector(classes=3).output_shapes
    (['class', 'box'], [(3,), (4,)])
    """
    image, width = image_input(input_shape, classes, "box_detector"), whole(width, 1, "width")
    x: Node = image
    for i in range(HALVINGS):
        x = ReLU()(conv_norm(x, width * 2**i, 3, (f"trunk.{i}.conv1", f"trunk.{i}.bn1")))
        x = ReLU()(conv_norm(x, width * 2**i, 3, (f"trunk.{i}.conv2", f"trunk.{i}.bn2"), 2))
    x = Flatten()(AdaptiveAvgPool2d(4, name="avgpool")(x))
    x = ReLU()(Linear(x.shape[0], 8 * width, name="hidden")(x))
    return Graph(image, [Linear(8 * width, n, name=head)(x) for head, n in (("class", classes), ("box", CORNERS))])


@checks_arguments
def autoencoder(input_shape: Sequence[int] = (32, 32, 3), code: int = 64, width: int = 16) -> Graph:
    """Return a network that narrows an image to `code` numbers and enlarges them to an image of the same shape.

    Train it with `MeanSquaredError()` on (images, images). The output of layer "code" is the code.

    Parameters
    ----------
    code
        Numbers that an image is narrowed to, at least 1.
    width
        Channels of the first convolution, at least 1.

    >>> autoencoder(input_shape=(28, 27, 1)).output_shapes
    [(28, 27, 1)]
    """
    image = Input(*image_shape(input_shape, "autoencoder"))
    code, width = whole(code, 1, "code"), whole(width, 1, "width")
    x: Node = image
    sizes = [image.shape]
    for i in range(HALVINGS):
        x = ReLU()(Conv2d(x.shape[-1], width * 2**i, 3, 2, 1, name=f"encoder.{i}")(x))
        sizes.append(x.shape)
    features = Flatten()(x)
    x = Linear(features.shape[0], code, name="code")(features)
    x = Reshape(*sizes.pop())(ReLU()(Linear(code, features.shape[0], name="decode")(x)))
    for i, wanted in reversed(list(enumerate(sizes))):
        # A stride of 2 made 2n - 1 and 2n pixels to n: one more tells them apart.
        extra = [size - (2 * had - 1) for size, had in zip(wanted[:2], x.shape[:2], strict=True)]
        x = ConvTranspose2d(x.shape[-1], wanted[-1], 3, 2, 1, extra, name=f"decoder.{i}")(x)
        x = ReLU()(x) if i else x
    return Graph(image, x)


@checks_arguments
def unet(classes: int = 2, input_shape: Sequence[int] = (64, 64, 1), width: int = 16) -> Graph:
    """Return a network of logits (H, W, classes), for images of 8x8 pixels or more.

    Train it with `CrossEntropy()` on labels (N, H, W).

    Parameters
    ----------
    classes
        The number of classes of a pixel, at least 1.
    width
        Channels at full size, at least 1.

    >>> unet(input_shape=(50, 47, 3)).output_shapes
    [(50, 47, 2)]
    """
    image, width = image_input(input_shape, classes, "unet", 2**HALVINGS), whole(width, 1, "width")
    x, kept = _double(image, width, "down.0"), []
    for i in range(1, HALVINGS + 1):
        kept.append(x)
        x = _double(MaxPool2d(2)(x), width * 2**i, f"down.{i}")
    for i, beside in reversed(list(enumerate(kept))):
        odd = [size % 2 for size in beside.shape[:2]]
        x = ConvTranspose2d(x.shape[-1], width * 2**i, 2, 2, output_padding=odd, name=f"up.{i}.enlarge")(x)
        x = _double(Concat()(beside, x), width * 2**i, f"up.{i}")
    return Graph(image, Conv2d(width, classes, 1, name="classes")(x))


def _double(x: Node, width: int, name: str) -> Node:
    """Return two convolutions with batch normalization and ReLU."""
    for i in (1, 2):
        x = ReLU()(conv_norm(x, width, 3, (f"{name}.conv{i}", f"{name}.bn{i}")))
    return x
