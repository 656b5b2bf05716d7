"""Layers that regroup, cut, join or drop elements, beside PyTorch's or their equations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastcnn import (
    Add,
    Concat,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    Flatten,
    Identity,
    Multiply,
    Pad,
    PadChannels,
    Permute,
    Reshape,
)
from fastcnn.bench.oracles.operation import Operation
from fastcnn.bench.oracles.tensors import channels_first

IMAGE = (3, 6, 7, 5)
SEED, STEP = 12345, 7


def _pad(pads: list[int], mode: str = "constant", value: float = 0.0) -> Any:
    return channels_first(
        lambda torch, x: torch.nn.functional.pad(x, pads, mode, value if mode == "constant" else None)
    )


def _dropping(layer: Callable[..., Any], p: float) -> Callable[..., Any]:
    """Return a maker of a dropout layer at a known seed and step."""

    def make(**how: Any) -> Any:
        made = layer(p, **how)
        made.state.update(seed=[SEED], step=[STEP])
        return made

    return make


def _mixed(word: int) -> int:
    """SplitMix64's finalizer, on Python's integers."""
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def _kept(size: int, p: float) -> Any:
    """Which elements are kept, element by element: the hash of `kernels/reference/dropout.py` on Python's integers."""
    key, kept = _mixed(SEED * 2**24 + STEP) >> 1, []
    for i in range(size):
        word = _mixed(key + i // 2**14)
        h = i % 2**14 ^ word % 2**32
        h = (h ^ h >> 16) * 0x7FEB352D % 2**32
        h = ((h ^ h >> 15) + (word >> 32)) * 0x846CA68B % 2**32
        kept.append((h ^ h >> 16) >= round(p * 2**32))
    return np.array(kept)


def _dropout(p: float, channels: bool = False) -> Any:
    def oracle(numpy: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        (x,) = xs
        shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]) if channels else x.shape
        return x * _kept(int(np.prod(shape)), p).reshape(shape) / (1 - p)

    return oracle


HASH = "Srivastava 2014"
OPERATIONS = [
    Operation("Identity", Identity, (IMAGE,), lambda torch, xs, params: xs[0]),
    Operation("Flatten", Flatten, (IMAGE,), lambda torch, xs, params: xs[0].flatten(1)),
    Operation("Reshape", partial(Reshape, 5, -1, 2), (IMAGE,), lambda torch, xs, params: xs[0].reshape(3, 5, 21, 2)),
    Operation("Permute", partial(Permute, 2, 0, 1), (IMAGE,), lambda torch, xs, params: xs[0].permute(0, 3, 1, 2)),
    Operation("Add", Add, (IMAGE, IMAGE), lambda torch, xs, params: xs[0] + xs[1]),
    Operation("Add, several", Add, (IMAGE,) * 5, lambda torch, xs, params: sum(xs)),
    Operation("Multiply", Multiply, (IMAGE, IMAGE), lambda torch, xs, params: xs[0] * xs[1]),
    Operation(
        "Multiply, gate", Multiply, (IMAGE, (3, 5)), lambda torch, xs, params: xs[0] * xs[1][:, None, None]
    ),
    Operation("Multiply, map", Multiply, ((3, 6, 7, 1), IMAGE), lambda torch, xs, params: xs[0] * xs[1]),
    Operation(
        "Concat", Concat, (IMAGE, (3, 6, 7, 2), (3, 6, 7, 9)), lambda torch, xs, params: torch.cat(xs, -1)
    ),
    Operation(
        "Concat, rows", partial(Concat, 0), (IMAGE, (3, 2, 7, 5)), lambda torch, xs, params: torch.cat(xs, 1)
    ),
    Operation("Pad", partial(Pad, ((1, 2), (0, 3)), value=2.5), (IMAGE,), _pad([0, 3, 1, 2], value=2.5)),
    Operation(
        "Pad, reflect", partial(Pad, ((1, 5), (0, 3)), "reflect"), (IMAGE,), _pad([0, 3, 1, 5], "reflect")
    ),
    Operation("Pad, replicate", partial(Pad, 9, "replicate"), (IMAGE,), _pad([9] * 4, "replicate")),
    Operation(
        "Pad, circular", partial(Pad, (3, 2, 1), "circular"), ((2, 3, 4, 2, 3),), _pad([1, 1, 2, 2, 3, 3], "circular")
    ),
    Operation(
        "PadChannels", partial(PadChannels, 1, 2), (IMAGE,),
        lambda torch, xs, params: torch.nn.functional.pad(xs[0], [1, 2]),
    ),
    Operation("Dropout", _dropping(Dropout, 0.3), ((3, 77, 79),), _dropout(0.3), HASH),
    Operation("Dropout1d", _dropping(Dropout1d, 0.5), ((4, 9, 16),), _dropout(0.5, True), HASH),
    Operation("Dropout2d", _dropping(Dropout2d, 0.5), ((4, 5, 6, 16),), _dropout(0.5, True), HASH),
    Operation("Dropout3d", _dropping(Dropout3d, 0.5), ((4, 2, 3, 4, 8),), _dropout(0.5, True), HASH),
]  # fmt: skip
