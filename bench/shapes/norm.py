"""Tensors that a normalization passes over, by the keys of `convolution.py`: `batch:mb16ic64ih56`, `group:g32ic64ih56`.

The named sets are the outputs of the convolutions in the sets of `named_sets.py`, where networks normalize by batch;
the set "norms" holds every kind, on shapes that their papers' networks have.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from fastcnn.bench.shapes import named_sets
from fastcnn.bench.shapes.activation import Elementwise
from fastcnn.bench.shapes.convolution import AXES, DEFAULT_BATCH, Convolution, rank_of, read, refusal

KINDS = ("batch", "layer", "group", "instance", "response", "contrast")
WINDOW = 5  # channels of local response, pixels of local contrast
_KIND = re.compile(r"([a-z_]+):")


@dataclass(frozen=True)
class Normalizing(Elementwise):
    """One normalization: its kind and tensor, and its groups."""

    groups: int = 1

    def descriptor(self) -> str:
        """Return the shortest descriptor, without name and count."""
        text = super().descriptor()
        return text.replace(":", f":g{self.groups}", 1) if self.groups > 1 else text


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
    return Normalizing(kind, numbers.get("mb", DEFAULT_BATCH), numbers["ic"], (d, h, w), rank, name, count, groups)


def _outputs(convolutions: Callable[[], list[Convolution]]) -> Callable[[], list[Normalizing]]:
    def found() -> list[Normalizing]:
        made = (Normalizing("batch", c.batch, c.filters, c.output, c.rank, c.name, c.count) for c in convolutions())
        return named_sets.merged(made)

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
    **{name: _outputs(found) for name, found in named_sets.SETS.items()},
}
