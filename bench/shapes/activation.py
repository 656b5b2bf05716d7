"""Tensors that an activation passes over: its name and the keys of `convolution.py`, as in `silu:mb16ic64ih56`.

The named sets are the outputs of the convolutions in the sets of `named_sets.py`, where networks have their
activations: `resnet50` under ReLU, `gelu:resnet50` under another.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Self

from fastcnn.bench.shapes import named_sets
from fastcnn.bench.shapes.convolution import (
    AXES,
    DEFAULT_BATCH,
    Convolution,
    Triple,
    name_and_count,
    rank_of,
    read,
    refusal,
)

KINDS = (
    "relu", "leaky_relu", "elu", "silu", "gelu", "gelu_tanh", "hardswish", "sigmoid", "tanh", "softplus", "abs",
    "soft_abs", "softmax", "log_softmax", "gain", "elementwise",
)  # fmt: skip
FUNCTIONS = "functions"  # the set that holds all of them
_KIND = re.compile(r"([a-z_0-9]+):")


@dataclass(frozen=True)
class Elementwise:
    """One operation on a tensor: its kind, and a tensor of `batch` images of size (depth, height, width)."""

    kind: str
    batch: int
    channels: int
    image: Triple
    rank: int = 2
    name: str = ""
    count: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of input and output: (N, D, H, W, C)."""
        return (self.batch, *self.image, self.channels)

    @property
    def elements(self) -> int:
        """Number of elements of the tensor."""
        return prod(self.shape)

    def with_batch(self, batch: int) -> Self:
        """Return the same for another number of images."""
        return replace(self, batch=batch)

    def counted(self, name: str, count: int) -> Self:
        """Return the same under a name and count."""
        return replace(self, name=name, count=count)

    def descriptor(self) -> str:
        """Return the shortest descriptor, without name and count."""
        first = 3 - self.rank
        shown = range(first, first + 1) if len(set(self.image[first:])) == 1 else range(first, 3)
        sizes = "".join(f"i{AXES[a]}{self.image[a]}" for a in shown)
        return f"{self.kind}:mb{self.batch}ic{self.channels}{sizes}"

    def __str__(self) -> str:
        """Return the descriptor with its name and count."""
        return self.descriptor() + name_and_count(self.name, self.count)


def parse(text: str) -> Elementwise:
    """Read one descriptor; no kind means relu, and no image size one pixel.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no tensor.

    >>> parse("ic64ih56").descriptor()
    'relu:mb2ic64ih56'
    """
    return read_tensor(text, KINDS, "relu", "activation")


def read_tensor(text: str, kinds: Collection[str], default: str, what: str) -> Elementwise:
    """Read the descriptor of a tensor, and of which kind the operation on it is; `what` names those in an error.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no tensor.
    """
    text = text.strip()
    match = _KIND.match(text)
    kind = match[1] if match else default
    article = "an" if what[0] in "aeiou" else "a"
    if kind not in kinds:
        raise refusal(text, f"{kind!r} is no {what}: choose of {', '.join(kinds)}")
    numbers, name, count = read(text[match.end() :] if match else text)
    if "ic" not in numbers:
        raise refusal(text, f"it lacks ic; write a descriptor such as {default}:mb16ic64ih56")
    for key in numbers:
        if key not in ("mb", "ic", "id", "ih", "iw"):
            raise refusal(text, f"{article} {what} has no {key}; leave it out")
    image = [numbers.get(f"i{axis}", 0) for axis in AXES]
    for a in (1, 2):  # an axis with no key of its own copies the one before it
        image[a] = image[a] or image[a - 1]
    d, h, w = (size or 1 for size in image)
    rank = rank_of(numbers) if any(image) else 1
    return Elementwise(kind, numbers.get("mb", DEFAULT_BATCH), numbers["ic"], (d, h, w), rank, name, count)


def _outputs(kind: str, convolutions: Callable[[], list[Convolution]]) -> Callable[[], list[Elementwise]]:
    return lambda: [Elementwise(kind, c.batch, c.filters, c.output, c.rank, c.name, c.count) for c in convolutions()]


def _all_kinds() -> list[Elementwise]:
    """Return one tensor larger than caches and one that lies in them, for each activation."""
    sizes = ((16, 64, 112), (16, 64, 28))
    return [
        Elementwise(kind, batch, channels, (1, size, size), name=f"{kind} {size}")
        for kind in KINDS
        for batch, channels, size in sizes
    ]


class SetsByKind(Mapping[str, Callable[[], list[Elementwise]]]):
    """The sets by name, those of another function than ReLU by its name and theirs: `gelu:resnet50`."""

    def __getitem__(self, name: str) -> Callable[[], list[Elementwise]]:
        if name == FUNCTIONS:
            return _all_kinds
        kind, colon, found = name.rpartition(":")
        if (colon and kind not in KINDS) or found not in named_sets.SETS:
            raise KeyError(name)
        return _outputs(kind or "relu", named_sets.SETS[found])

    def __iter__(self) -> Iterator[str]:
        return iter([FUNCTIONS, *named_sets.SETS])

    def __len__(self) -> int:
        return 1 + len(named_sets.SETS)


SETS = SetsByKind()
