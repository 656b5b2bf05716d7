"""Losses as things to measure, with their name in front, in the keys of `convolution.py`: `cross_entropy:mb256ic1000`.

`ic` is the number of classes, or of numbers, of an image or, with `ih` and `iw`, of each of its pixels. Every named set
holds all losses, on the outputs of a digit classifier, of one of ImageNet's classes, and of a segmentation.
"""

from collections.abc import Callable

from fastcnn.bench.shapes.activation import Elementwise, read_tensor

KINDS = {
    "cross_entropy": "of logits and labels",
    "cross_entropy_smoothed": "the same, the labels smoothed by SMOOTHING",
    "cross_entropy_soft": "of logits and probabilities of the classes",
    "nll": "of log-probabilities and labels",
    "hinge": "of scores and labels",
    "binary_cross_entropy": "of logits and shares",
    "squared_error": "of numbers",
    "smooth_l1": "of numbers",
    "l1": "of numbers",
}
FROM_LABELS = ("cross_entropy", "cross_entropy_smoothed", "nll", "hinge")
SMOOTHING = 0.1


def parse(text: str) -> Elementwise:
    """Read one descriptor; no kind means cross_entropy.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no tensor.

    >>> parse("nll:mb128ic10").descriptor()
    'nll:mb128ic10iw1'
    """
    return read_tensor(text, KINDS, "cross_entropy", "loss")


def _every(name: str, tensor: str) -> Callable[[], list[Elementwise]]:
    return lambda: [parse(f"{kind}:{tensor}").counted(f"{name}:{kind}", 1) for kind in KINDS]


TENSORS = {"digits": "mb128ic10", "imagenet": "mb256ic1000", "segmentation": "mb8ic21ih128"}

SETS: dict[str, Callable[[], list[Elementwise]]] = {name: _every(name, tensor) for name, tensor in TENSORS.items()}
