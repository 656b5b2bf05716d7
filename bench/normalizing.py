"""Tensors that a normalization passes over, in the keys of `descriptor.py`: `batch:mb16ic64ih56`, `group:g32ic64ih56`.

The named sets are the outputs of the convolutions in the sets of `shapes.py`, where networks normalize by batch; the
set "norms" holds every kind, on shapes that their papers' networks have.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from fastcnn.bench import shapes
from fastcnn.bench.descriptor import AXES, DEFAULT_BATCH, Convolution, Triple, name_and_count, rank_of, read, refusal

KINDS = ("batch", "layer", "group", "instance", "response", "contrast")
WINDOW = 5  # channels of local response, pixels of local contrast
_KIND = re.compile(r"([a-z_]+):")


@dataclass(frozen=True)
class Normalizing:
    """One normalization: its kind, its groups, and a tensor of `batch` images of size (depth, height, width)."""

    kind: str
    batch: int
    channels: int
    image: Triple
    groups: int = 1
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

    def with_batch(self, batch: int) -> "Normalizing":
        """Return the same for another number of images."""
        return replace(self, batch=batch)

    def counted(self, name: str, count: int) -> "Normalizing":
        """Return the same under a name and count."""
        return replace(self, name=name, count=count)

    def descriptor(self) -> str:
        """Return the shortest descriptor, without name and count."""
        first = 3 - self.rank
        shown = range(first, first + 1) if len(set(self.image[first:])) == 1 else range(first, 3)
        sizes = "".join(f"i{AXES[a]}{self.image[a]}" for a in shown)
        groups = f"g{self.groups}" if self.groups > 1 else ""
        return f"{self.kind}:{groups}mb{self.batch}ic{self.channels}{sizes}"

    def __str__(self) -> str:
        """Return the descriptor with its name and count."""
        return self.descriptor() + name_and_count(self.name, self.count)


def parse(text: str) -> Normalizing:
    """Read one descriptor; no kind means batch, and no image size one pixel.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no tensor.

    >>> parse("ic64ih56").descriptor()
    'batch:mb2ic64ih56'
    """
    text = text.strip()
    match = _KIND.match(text)
    kind = match[1] if match else "batch"
    if kind not in KINDS:
        raise refusal(text, f"{kind!r} is no normalization: choose of {', '.join(KINDS)}")
    numbers, name, count = read(text[match.end() :] if match else text)
    if "ic" not in numbers:
        raise refusal(text, "it lacks ic; write a descriptor such as batch:mb16ic64ih56")
    for key in numbers:
        if key not in ("mb", "g", "ic", "id", "ih", "iw"):
            raise refusal(text, f"a normalization has no {key}; leave it out")
    groups = numbers.get("g", 1)
    if (kind != "group" and groups > 1) or numbers["ic"] % groups:
        raise refusal(text, "groups are for the kind 'group', and must divide ic; change g")
    image = [numbers.get(f"i{axis}", 0) for axis in AXES]
    for a in (1, 2):  # an axis with no key of its own copies the one before it
        image[a] = image[a] or image[a - 1]
    d, h, w = (size or 1 for size in image)
    rank = rank_of(numbers) if any(image) else 1
    return Normalizing(kind, numbers.get("mb", DEFAULT_BATCH), numbers["ic"], (d, h, w), groups, rank, name, count)


def _outputs(convolutions: Callable[[], list[Convolution]]) -> Callable[[], list[Normalizing]]:
    def found() -> list[Normalizing]:
        made = (Normalizing("batch", c.batch, c.filters, c.output, 1, c.rank, c.name, c.count) for c in convolutions())
        return shapes.merged(made)

    return found


NORMS = (
    'batch:mb16ic64ih112n"resnet50:conv1"', 'batch:mb16ic256ih56n"resnet50:res2"',
    'batch:mb16ic512ih28n"resnet50:res3"', 'batch:mb16ic2048ih7n"resnet50:res5"',
    'batch:mb128ic16ih32n"resnet20"', 'batch:mb128ic6ih28n"lenet5:conv1"', 'batch:mb128ic120n"lenet5:fc1"',
    'batch:mb16ic3ih224n"images"', 'batch:mb1ic64ih112n"one_image"', 'layer:mb16ic96ih56n"convnext:1"',
    'layer:mb16ic384ih14n"convnext:3"', 'layer:mb16ic768ih7n"convnext:4"', 'layer:mb16ic64ih112n"narrow"',
    'layer:mb128ic1024n"rows"', 'layer:mb128ic10n"logits"', 'group:g32mb16ic64ih112n"resnet50:conv1"',
    'group:g32mb16ic256ih56n"resnet50:res2"', 'group:g32mb16ic2048ih7n"resnet50:res5"',
    'group:g32mb2ic256ih56n"small_batch"', 'instance:mb16ic64ih112n"style:1"',
    'instance:mb1ic128ih128n"style:2"', 'instance:mb16ic3ih224n"images"', 'response:mb16ic96ih55n"alexnet:1"',
    'response:mb16ic256ih27n"alexnet:2"', 'contrast:mb16ic3ih224n"images"',
)  # fmt: skip

SETS: dict[str, Callable[[], list[Normalizing]]] = {
    "norms": lambda: [parse(text) for text in NORMS],
    **{name: _outputs(found) for name, found in shapes.SETS.items()},
}
