"""Convolutions as oneDNN's benchdnn writes them: `mb16ic64ih56oc64oh56kh3ph1n"name"*4`.

A descriptor is a run of keys, each followed by a whole number, in any order; `_` may stand between
them.

    mb batch   g groups   ic oc channels in and out, over all groups
    i o k image, output and filter size   s stride   p padding in front   d dilation, 0 for none,
    each followed by its axis: d depth, h height, w width
    n"name"*4 ends it: a name, and how often a network holds this convolution

What is left out follows benchdnn: no depth makes it 2-D, width alone 1-D; an axis with no key of
its own copies the one before it (`ih56kh3` is square); batch 2, stride 1, dilation 0; an absent
output size follows from the padding, an absent padding from the output size, and is 0 if both are
absent. The padding behind follows from the output size.

Source: oneDNN, tests/benchdnn/doc/driver_conv.md.
"""

import re
from dataclasses import dataclass, replace
from math import prod

from fastcnn.errors import ShapeError
from fastcnn.kernels.problem import ConvProblem, Padding, Triple

AXES = "dhw"
DEFAULT_BATCH = 2  # benchdnn's
DEFAULTS = {"s": 1, "d": 0}  # of keys that a descriptor leaves out

_KEY = re.compile(r"(mb|ic|oc|g|[iokspd][dhw])(\d+)_?")
_NAME = re.compile(r'(?:n(?:"([^"]*)"|([^"*]*)))?(?:\*(\d+))?$')
_INNER_COUNT = re.compile(r"(.*?)\*(\d+)$")  # older lists of oneDNN write the count inside the quotes: n"name*4"

_MAY_BE_ZERO = {letter + axis for letter in "pd" for axis in AXES}


@dataclass(frozen=True)
class Convolution:
    """One convolution: sizes as (depth, height, width), axes that it does not have being 1.

    `padding` is in front of each axis; `dilation` is 1 where taps are neighbours. `count` is how
    often a network holds the convolution, `rank` the number of its spatial axes.
    """

    batch: int
    channels: int
    filters: int
    image: Triple
    output: Triple
    window: Triple
    stride: Triple
    padding: Triple
    dilation: Triple
    groups: int = 1
    rank: int = 2
    name: str = ""
    count: int = 1

    @property
    def pads(self) -> Padding:
        """Padding as (before, after) of each axis, none behind pixels that no window reaches."""
        before_after = [
            (before, max(0, _behind(i, o, k, s, before, d)))
            for i, o, k, s, before, d in zip(*self._axes(), strict=True)
        ]
        return before_after[0], before_after[1], before_after[2]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the input: (N, D, H, W, C)."""
        return (self.batch, *self.image, self.channels)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """Shape of the filters: (T, R, S, C / groups, K)."""
        return (*self.window, self.channels // self.groups, self.filters)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the output: (N, O, P, Q, K)."""
        return (self.batch, *self.output, self.filters)

    @property
    def problem(self) -> ConvProblem:
        """The convolution as the kernels take it."""
        return ConvProblem(self.x_shape, self.y_shape, self.window, self.stride, self.pads, self.dilation, self.groups)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of any pass, N O P Q K T R S C / groups: taps on padding count."""
        return prod(self.y_shape) * prod(self.w_shape[:-1])

    @property
    def needed_multiply_adds(self) -> int:
        """Multiply-adds that direct sums cannot do without: taps on padding are left out."""
        pairs = [_pairs_inside(*axis) for axis in zip(*self._axes(), strict=True)]
        return prod(pairs) * self.batch * self.filters * self.channels // self.groups

    @property
    def elements(self) -> int:
        """Elements of input, filters and output together, each once."""
        return prod(self.x_shape) + prod(self.w_shape) + prod(self.y_shape)

    def with_batch(self, batch: int) -> "Convolution":
        """Return the same convolution for another number of images."""
        return replace(self, batch=batch)

    def counted(self, name: str, count: int) -> "Convolution":
        """Return the same convolution under a name and count."""
        return replace(self, name=name, count=count)

    def axis_keys(self) -> dict[str, str]:
        """Return the shortest keys of image, output, filter, stride, padding and dilation by their letters."""
        first = 3 - self.rank
        rows: dict[str, tuple[int, ...]] = dict(zip("iokspd", self._axes(), strict=True))
        rows["d"] = tuple(d - 1 for d in rows["d"])
        same = all(len(set(row[first:])) == 1 for row in rows.values())
        shown = range(first, first + 1) if same else range(first, 3)
        return {
            letter: ""
            if all(row[a] == DEFAULTS.get(letter) for a in shown)
            else "".join(f"{letter}{AXES[a]}{row[a]}" for a in shown)
            for letter, row in rows.items()
        }

    def descriptor(self) -> str:
        """Return the shortest descriptor of the convolution, without name and count."""
        groups, keys = f"g{self.groups}" if self.groups != 1 else "", self.axis_keys()
        ends = f"mb{self.batch}ic{self.channels}{keys['i']}oc{self.filters}{keys['o']}"
        return groups + ends + "".join(keys[letter] for letter in "kspd")

    def __str__(self) -> str:
        """Return the descriptor with its name and count."""
        return self.descriptor() + name_and_count(self.name, self.count)

    def _axes(self) -> tuple[Triple, ...]:
        return self.image, self.output, self.window, self.stride, self.padding, self.dilation


def parse(text: str) -> Convolution:
    """Read one descriptor.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no convolution.

    >>> c = parse('ic3ih32oc10kh5ph2n"first"')
    >>> c.output, c.batch, c.multiply_adds // c.batch
    ((1, 32, 32), 2, 768000)
    """
    text = text.strip()
    return build(text, *read(text))


def build(text: str, numbers: dict[str, int], name: str, count: int) -> Convolution:
    """Return the convolution of these keys, which `read` found in the text.

    Raises
    ------
    ShapeError
        If they describe no convolution; the sentence quotes the text.
    """
    for key in ("ic", "oc"):
        if key not in numbers:
            raise refusal(text, f"it lacks {key}; write a descriptor such as ic3ih32oc10kh5ph2")
    groups = numbers.get("g", 1)
    for key in ("ic", "oc"):
        if numbers[key] % groups:
            raise refusal(text, f"{key} (={numbers[key]}) must be divisible by g (={groups})")
    rows = _spatial(text, numbers)
    i, o, k, s, p, d = (_triple(column) for column in zip(*rows, strict=True))
    batch, rank = numbers.get("mb", DEFAULT_BATCH), rank_of(numbers)
    return Convolution(batch, numbers["ic"], numbers["oc"], i, o, k, s, p, d, groups, rank, name, count)


def rank_of(numbers: dict[str, int]) -> int:
    """Return the number of spatial axes: 3 with a depth, 1 with a width alone."""
    return 3 - next((a for a in range(3) if f"i{AXES[a]}" in numbers), 0)


def name_and_count(name: str, count: int) -> str:
    """Return the end of a descriptor.

    >>> name_and_count("conv1", 2), name_and_count("", 1)
    ('n"conv1"*2', '')
    """
    shown = f'n"{name}"' if name or count != 1 else ""
    return shown + (f"*{count}" if count != 1 else "")


def refusal(text: str, reason: str) -> ShapeError:
    """Return the error of a descriptor that cannot be used, for this reason."""
    return ShapeError(f"The descriptor '{text}' cannot be used: {reason}.")


def _triple(column: tuple[int, ...]) -> Triple:
    return column[0], column[1], column[2]


def read(text: str) -> tuple[dict[str, int], str, int]:
    """Split a descriptor into its numbers, its name and its count.

    Raises
    ------
    ShapeError
        If the text is no run of keys with numbers, or a size or the count is 0.
    """
    numbers: dict[str, int] = {}
    at = 0
    while at < len(text) and text[at] not in "n*":
        match = _KEY.match(text, at)
        if match is None:
            raise refusal(text, f"'{text[at:]}' does not begin with a known key and a whole number")
        key, value = match.groups()
        if key in numbers:
            raise refusal(text, f"{key} is given twice")
        if not int(value) and key not in _MAY_BE_ZERO:
            raise refusal(text, f"{key} is 0; give a number from 1 up")
        numbers[key] = int(value)
        at = match.end()
    match = _NAME.match(text, at)
    if match is None:
        raise refusal(text, f"'{text[at:]}' is not a name and a count such as n\"conv1\"*4")
    name, count = match[1] or match[2] or "", match[3]
    inner = _INNER_COUNT.match(name)
    if inner and count is None:
        name, count = inner.groups()
    if count is not None and int(count) == 0:
        raise refusal(text, "its count is 0; give a number from 1 up")
    return numbers, name, int(count or 1)


def _spatial(text: str, numbers: dict[str, int]) -> list[tuple[int, ...]]:
    """Return (image, output, window, stride, padding, dilation) for each of the three axes."""
    rows: list[tuple[int, ...]] = []
    present = False
    for axis in AXES:
        own = {letter: numbers[letter + axis] for letter in "iokspd" if letter + axis in numbers}
        if own:
            rows.append(_axis(text, axis, own))
            present = True
        else:
            rows.append(rows[-1] if present else (1, 1, 1, 1, 0, 1))
    if not present:
        raise refusal(text, "it lacks the image and filter size; write a descriptor such as ic3ih32oc10kh5ph2")
    return rows


def _axis(text: str, axis: str, own: dict[str, int]) -> tuple[int, ...]:
    """Complete and check one axis: the keys given for it, by their first letter."""
    for letter in "ik":
        if letter not in own:
            raise refusal(text, f"it lacks {letter}{axis}, which {next(iter(own))}{axis} needs beside it")
    i, k, s, d = own["i"], own["k"], own.get("s", 1), own.get("d", 0) + 1
    extent = (k - 1) * d + 1
    if "o" not in own:
        p = own.get("p", 0)
        o = (i + 2 * p - extent) // s + 1
        if i + 2 * p < extent:
            raise refusal(
                text,
                f"its filter spans {extent} along {axis}, more than the padded image ({i + 2 * p})",
            )
        return i, o, k, s, p, d
    o = own["o"]
    p = own.get("p", max(0, ((o - 1) * s + extent - i) // 2))
    behind = _behind(i, o, k, s, p, d)
    if behind <= -s or behind > max(p, extent - 1):
        least, most = (i + p - extent) // s + 1, (i + p + max(p, extent - 1) - extent) // s + 1
        raise refusal(
            text,
            f"o{axis} (={o}) must lie between {max(1, least)} and {most} for its image, filter and padding",
        )
    return i, o, k, s, p, d


def _pairs_inside(i: int, o: int, k: int, s: int, before: int, d: int) -> int:
    """Return how many pairs of a window and a tap of it meet a pixel of the image, along one axis."""
    return sum(
        len(range(max(0, -((tap * d - before) // s)), min(o, (i - 1 - tap * d + before) // s + 1))) for tap in range(k)
    )


def _behind(i: int, o: int, k: int, s: int, before: int, d: int) -> int:
    """Return the padding that the last window needs behind the image, below 0 if it ends before."""
    return (o - 1) * s + (k - 1) * d + 1 - i - before
