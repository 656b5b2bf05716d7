"""Fully connected layers as benchdnn's inner product driver writes them, and those of networks.

    mb16ic2048oc1000        mb16ic512ih7oc4096 is the same as mb16ic25088oc4096

    lenet  2450-500-10    alexnet  9216-4096-4096-1000    vgg19  25088-4096-4096-1000    resnet50  2048-1000

Source: oneDNN, tests/benchdnn/doc/driver_ip.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from fastcnn.bench.shapes.convolution import AXES, DEFAULT_BATCH, Convolution, name_and_count, read, refusal

BATCH = 16  # that of the convolutions in front of them
LENET_BATCH = 128
ONE = (1, 1, 1)


@dataclass(frozen=True)
class FullyConnected:
    """One fully connected layer: x (batch, features) times w (features, outputs)."""

    batch: int
    features: int
    outputs: int
    name: str = ""
    count: int = 1

    def with_batch(self, batch: int) -> "FullyConnected":
        """Return the same layer for another number of rows."""
        return replace(self, batch=batch)

    def counted(self, name: str, count: int) -> "FullyConnected":
        """Return the same under a name and count."""
        return replace(self, name=name, count=count)

    def as_convolution(self) -> Convolution:
        """Return the 1x1 convolution of one pixel that computes the same."""
        return Convolution(self.batch, self.features, self.outputs, ONE, ONE, ONE, ONE, (0, 0, 0), ONE)

    def descriptor(self) -> str:
        """Return the descriptor, without name and count."""
        return f"mb{self.batch}ic{self.features}oc{self.outputs}"

    def __str__(self) -> str:
        """Return the descriptor with its name and count."""
        return self.descriptor() + name_and_count(self.name, self.count)


def parse(text: str) -> FullyConnected:
    """Read one descriptor.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no fully connected layer.

    >>> parse('mb16ic512ih7oc4096n"fc6"')
    FullyConnected(batch=16, features=25088, outputs=4096, name='fc6', count=1)
    """
    text = text.strip()
    numbers, name, count = read(text)
    sizes = [key for key in ("id", "ih", "iw") if key in numbers]
    for key in ("ic", "oc"):
        if key not in numbers:
            raise refusal(text, f"it lacks {key}; write a descriptor such as mb16ic2048oc1000")
    for key in numbers:
        if key not in ("mb", "ic", "oc", *sizes):
            raise refusal(text, f"a fully connected layer has no {key}; leave it out")
    pixels = [numbers.get(f"i{axis}", 0) for axis in AXES]
    for a in (1, 2):  # an axis with no key of its own copies the one before it
        pixels[a] = pixels[a] or pixels[a - 1]
    features = numbers["ic"] * prod(size or 1 for size in pixels)
    return FullyConnected(numbers.get("mb", DEFAULT_BATCH), features, numbers["oc"], name, count)


def _layers(net: str, first: int, *sizes: int, batch: int = BATCH) -> list[FullyConnected]:
    pairs = pairwise(sizes)
    return [FullyConnected(batch, *pair, f"{net}:fc{number}") for number, pair in enumerate(pairs, first)]


SETS: dict[str, Callable[[], list[FullyConnected]]] = {
    "lenet": lambda: _layers("lenet", 1, 2450, 500, 10, batch=LENET_BATCH),
    "alexnet": lambda: _layers("alexnet", 6, 9216, 4096, 4096, 1000),
    "vgg19": lambda: _layers("vgg19", 1, 25088, 4096, 4096, 1000),
    "resnet50": lambda: _layers("resnet50", 1, 2048, 1000),
}
