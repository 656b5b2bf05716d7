"""Operations that regroup, join, pad or drop elements, in the keys of `convolution.py`: `gate:mb16ic64ih56`.

The tensors of the named sets are outputs of convolutions in ResNet-50, one of each stage, and the images of a batch.
"""

from collections.abc import Callable

from fastcnn.bench.shapes.activation import Elementwise, read_tensor

KINDS = {
    "add": "x + z",
    "concat": "x beside z, in channels",
    "multiply": "x * z",
    "gate": "x * g, one factor an image and channel",
    "permute": "(N, D, H, W, C) to (N, C, D, H, W)",
    "constant": "one pixel of zeros around each image",
    "reflect": "one mirrored pixel around each image",
    "replicate": "one repeated pixel around each image",
    "circular": "one pixel from the other side around each image",
    "dropout": "half of the elements dropped",
    "dropout2d": "half of the channels dropped",
}
MODES = ("constant", "reflect", "replicate", "circular")
BATCH = 32


def parse(text: str) -> Elementwise:
    """Read one descriptor; no kind means add.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no tensor.

    >>> parse("gate:ic64ih56").descriptor()
    'gate:mb2ic64ih56'
    """
    return read_tensor(text, KINDS, "add", "operation")


def _every(kind: str) -> Callable[[], list[Elementwise]]:
    tensors = ("ic3ih224", "ic256ih56", "ic512ih28", "ic1024ih14", "ic2048ih7")
    return lambda: [parse(f"{kind}:mb{BATCH}{tensor}") for tensor in tensors]


SETS: dict[str, Callable[[], list[Elementwise]]] = {kind: _every(kind) for kind in KINDS}
"""By kind: the operation on tensors of every stage of a network."""
