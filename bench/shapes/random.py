"""Convolutions drawn at random: the shapes that nobody tuned for.

`random:N` or `random:N:SEED` stands for N of them, the same ones for a seed on every machine. Sizes are drawn
evenly by their logarithm, so that small and large ones are as likely: channels 1 to 600, maps 1 to 230, filters 1 to
11, batches 1 to 32. Most have stride, dilation and groups 1, the others strides up to 4, dilations up to 3, groups that
divide the channels or are as many (depthwise). A shape that takes more than LARGEST_WORK or LARGEST_ARRAY is drawn
again.
"""

import math
import re
from math import prod
from random import Random

from fastcnn.bench.shapes.convolution import Convolution
from fastcnn.errors import ShapeError

CHANNELS, MAP, WINDOW, BATCH, STRIDE, DILATION = 600, 230, 11, 32, 4, 3  # largest of each; the smallest is 1
MULTIPLIER = 4  # largest number of filters that a channel has of its own
LARGEST_WORK = 2_000_000_000  # multiply-adds of one pass
LARGEST_ARRAY = 256_000_000 // 4  # elements: 256 MB in float32
MOST = 100_000  # shapes at once
PATIENCE = 10_000  # draws in a row that are too large before there is none

_TEXT = re.compile(r"random(?::(\d+)(?::(\d+))?)?")


def is_random(text: str) -> bool:
    """Tell whether the text asks for random shapes."""
    return text.startswith("random")


def resolve(text: str, batch: int | None = None, depthwise: bool = False) -> list[Convolution]:
    """Return the convolutions that `random:N[:SEED]` stands for, all of this batch size if one is given.

    Raises
    ------
    ShapeError
        If the text reads otherwise, or no shape is small enough at that batch size.

    >>> [c.descriptor() for c in resolve("random:2:1")] == [c.descriptor() for c in resolve("random:3:1")][:2]
    True
    """
    match = _TEXT.fullmatch(text)
    if match is None or match[1] is None or not 1 <= int(match[1]) <= MOST:
        raise ShapeError(f"The shapes '{text}' cannot be drawn: write random:N or random:N:SEED, N from 1 to {MOST:,}.")
    seed = int(match[2] or 0)
    random = Random(seed)
    return [_small_enough(random, batch, depthwise).counted(f"random:{seed}:{n + 1}", 1) for n in range(int(match[1]))]


def _small_enough(random: Random, batch: int | None, depthwise: bool) -> Convolution:
    for _ in range(PATIENCE):
        c = _draw(random, batch, depthwise)
        sizes = prod(c.x_shape), prod(c.w_shape), prod(c.y_shape)
        if min(c.output) >= 1 and c.multiply_adds <= LARGEST_WORK and max(sizes) <= LARGEST_ARRAY:
            return c
    raise ShapeError(f"No random convolution is small enough at batch {batch}; give a smaller --batch.")


def _spread(random: Random, largest: int) -> int:
    """Draw from 1 to `largest`, evenly by the logarithm."""
    return min(largest, int(math.exp(random.random() * math.log(largest + 1))))


def _below(random: Random, count: int) -> int:
    """Draw from 0 to count - 1; unlike `randrange`, the same in every version of Python."""
    return int(random.random() * count)


def _pair(random: Random, largest: int) -> tuple[int, int]:
    """Draw height and width, three times in four the same."""
    first, second = _spread(random, largest), _spread(random, largest)
    return (first, first) if random.random() < 0.75 else (first, second)


def _draw(random: Random, batch: int | None, depthwise: bool) -> Convolution:
    drawn_batch = _spread(random, BATCH)
    groups, channels, filters = _channels(random, depthwise)
    image, window = _pair(random, MAP), _pair(random, WINDOW)
    stride = 1 if random.random() < 0.6 else 1 + _below(random, STRIDE)
    dilation = 1 if random.random() < 0.75 else 2 + _below(random, DILATION - 1)
    kind = _below(random, 3)  # no padding, that which keeps the size, any other
    extents = [(taps - 1) * dilation + 1 for taps in window]
    paddings = [(0, extent // 2, _below(random, extent))[kind] for extent in extents]
    outputs = [(i + 2 * p - e) // stride + 1 for i, p, e in zip(image, paddings, extents, strict=True)]
    return Convolution(
        batch or drawn_batch,
        channels,
        filters,
        (1, *image),
        (1, outputs[0], outputs[1]),
        (1, *window),
        (1, stride, stride),
        (0, paddings[0], paddings[1]),
        (1, dilation, dilation),
        groups,
    )


def _channels(random: Random, depthwise: bool) -> tuple[int, int, int]:
    """Draw groups, channels and filters: one group, groups that divide them, or depthwise."""
    kind = 1.0 if depthwise else random.random()
    first, second, third = (_spread(random, CHANNELS) for _ in range(3))
    if kind < 0.7:
        return 1, first, second
    if kind < 0.85:
        inputs, outputs = (max(1, size // third) for size in (first, second))
        return third, third * inputs, third * outputs
    multiplier = 1 if random.random() < 0.75 else 1 + _below(random, min(MULTIPLIER, max(1, CHANNELS // first)))
    return first, first, first * multiplier
