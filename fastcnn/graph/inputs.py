"""What a network is given: one array for each input, in their order or under their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from numpy.typing import ArrayLike

from fastcnn.arrays import Array, Shape, as_float, channels_first_hint
from fastcnn.errors import ArgumentError, DataError, ShapeError
from fastcnn.layers.node import Node

Inputs: TypeAlias = "ArrayLike | Mapping[str, ArrayLike]"
"""The array of one input, or {name: array} for all of them."""


def input_names(inputs: Sequence[Node]) -> list[str]:
    """Return the names of inputs: their own, else "input", or "input1", "input2", ... by their places."""
    names = [
        getattr(node, "name", None) or ("input" if len(inputs) == 1 else f"input{place}")
        for place, node in enumerate(inputs, 1)
    ]
    for name, uses in Counter(names).items():
        if uses > 1:
            raise ArgumentError(f"{uses} inputs are named {name!r}: give each a name of its own.")
    return names


def listed(x: Any, inputs: int) -> tuple[Any, ...]:
    """Return a network's inputs that are given as one thing: an array, {name: array}, or a tuple of arrays.

    A tuple for one input may also be its rows.

    >>> listed((1, 2), 2), listed({"left": 1, "right": 2}, 2), listed((1, 2), 1), listed(1, 1)
    ((1, 2), ({'left': 1, 'right': 2},), ((1, 2),), (1,))
    """
    return x if isinstance(x, tuple) and (inputs > 1 or len(x) == 1) else (x,)


def check_inputs(xs: Sequence[Any], names: Sequence[str], shapes: Sequence[Shape]) -> list[Array]:
    """Return inputs as float arrays in the order of `names`, or refuse those that do not fit `shapes`."""
    if len(xs) == 1 and isinstance(xs[0], Mapping):
        xs = _by_name(xs[0], names)
    if len(xs) != len(names):
        raise ShapeError(f"the network got {len(xs)} inputs and has {len(names)}: give one for each.")
    arrays = [as_float(x, "the network's input") for x in xs]
    for array, shape in zip(arrays, shapes, strict=True):
        if array.shape[1:] != shape or array.ndim == 0:
            raise _wrong_input(array.shape, shape)
    if len({array.shape[0] for array in arrays}) > 1:
        counts = ", ".join(str(array.shape[0]) for array in arrays)
        raise ShapeError(f"the inputs hold {counts} images: give as many in each.")
    return arrays


def _by_name(given: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    if set(given) != set(names):
        raise DataError(
            f"inputs for {', '.join(map(str, given)) or 'no name'} were given, and the network has "
            f"{', '.join(names)}: give one for each."
        )
    return [given[name] for name in names]


def _wrong_input(got: Shape, needed: Shape) -> ShapeError:
    axes = ", ".join(map(str, needed))
    hint = channels_first_hint(got[1:], needed)
    if not hint and got == needed:
        hint = "a batch axis is missing: add one with x[None]."
    if not hint and (*got[1:], 1) == needed:
        hint = "the channel axis is missing: add one with x[..., None]."
    return ShapeError(
        f"the network got an array of shape {got}, and needs (N, {axes}): "
        + (hint or "resize the images or build the network for their shape.")
    )
