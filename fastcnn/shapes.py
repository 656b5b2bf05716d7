"""Shape arithmetic of windows: strides, paddings, dilations and output sizes, axis by axis.

size of an axis, window on it, (before, after) padding, stride, dilation

output = floor((size + before + after - dilation * (window - 1) - 1) / stride) + 1
transposed = (size - 1) * stride + dilation * (window - 1) + 1 - before - after + output padding
"""

from collections.abc import Sequence
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from fastcnn.arrays import Shape
from fastcnn.errors import ArgumentError

IntOrAxes: TypeAlias = int | Sequence[int]
Pairs: TypeAlias = tuple[tuple[int, int], ...]
Padding: TypeAlias = int | str | Sequence[int] | Sequence[Sequence[int]]


def is_int(value: object) -> bool:
    """Say whether a value is a whole number (a bool is not)."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Say whether a value is a finite number that a float holds (a bool is none).

    >>> is_number(0.5), is_number(True), is_number(float("nan")), is_number(10**400)
    (True, False, False, False)
    """
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def whole(value: object, minimum: int, name: str) -> int:
    """Return `value` as an int, or refuse what is no whole number from `minimum` up."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
        raise ArgumentError(f"{name}={value!r} was given: it must be a whole number >= {minimum}.")
    return int(value)


def number(value: Any, name: str, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a finite float between low and high, or refuse it; words and truth values are no numbers."""
    try:
        found = float("nan") if isinstance(value, str | bytes | bool | np.bool_) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not isfinite(found) or (low is not None and found < low) or (high is not None and found > high):
        limits = "" if low is None else f" >= {low:g}" if high is None else f" from {low:g} to {high:g}"
        raise ArgumentError(f"{name}={value!r} was given: it must be a finite number{limits}.")
    return found


def below_one(value: Any, name: str) -> float:
    """Return `value` as a float from 0 to below 1, or refuse it."""
    found = number(value, name, 0)
    if found >= 1:
        raise ArgumentError(f"{name}={value!r} was given: it must lie below 1.")
    return found


def per_axis(value: IntOrAxes, rank: int, minimum: int, name: str) -> Shape:
    """Return one whole number for every axis.

    >>> per_axis(3, 2, 1, "stride"), per_axis((2, 1), 2, 1, "stride")
    ((3, 3), (2, 1))
    """
    axes = [value] * rank if is_int(value) else value
    if not isinstance(axes, Sequence) or isinstance(axes, str) or len(axes) != rank:
        raise ArgumentError(f"{name}={value!r} was given: it must be a number or {rank} numbers.")
    return tuple(whole(axis, minimum, name) for axis in axes)


def compact(axes: Sequence[int]) -> int | Shape:
    """Return one number where all axes agree: the way users write it."""
    return axes[0] if len(set(axes)) == 1 else tuple(axes)


def padding_pairs(padding: Padding, rank: int, window: Shape, stride: Shape, dilation: Shape) -> Pairs:
    """Return (before, after) for every axis from any spelling of `padding`.

    >>> padding_pairs("same", 2, (3, 4), (1, 1), (1, 1))
    ((1, 1), (1, 2))
    >>> padding_pairs(((0, 1), (2, 3)), 2, (3, 3), (1, 1), (1, 1))
    ((0, 1), (2, 3))
    """
    if isinstance(padding, str):
        return _named_padding(padding, rank, window, stride, dilation)
    if isinstance(padding, Sequence) and any(isinstance(pair, list | tuple) for pair in padding):
        pairs = [pair for pair in padding if isinstance(pair, list | tuple) and len(pair) == 2]
        if len(padding) != rank or len(pairs) != rank:
            raise ArgumentError(f"padding={padding!r} was given: give {rank} (before, after) pairs.")
        return tuple((whole(a, 0, "padding"), whole(b, 0, "padding")) for a, b in pairs)
    return tuple((p, p) for p in per_axis(padding, rank, 0, "padding"))  # type: ignore[arg-type]


def _named_padding(name: str, rank: int, window: Shape, stride: Shape, dilation: Shape) -> Pairs:
    if name == "valid":
        return ((0, 0),) * rank
    if name != "same":
        raise ArgumentError(f"padding={name!r} was given: the names are 'same' and 'valid'.")
    if any(s != 1 for s in stride):
        raise ArgumentError(
            f"padding='same' was given with stride {compact(stride)}: it needs stride 1, "
            "so give the padding as numbers."
        )
    totals = [d * (k - 1) for k, d in zip(window, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def extent(window: int, dilation: int) -> int:
    """Return how many pixels a dilated window spans."""
    return dilation * (window - 1) + 1


def output_size(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int, ceil_mode: bool) -> int:
    """Return how many windows fit on an axis; 0 or less if not even one does.

    With `ceil_mode` the last window may hang over, if it starts inside the image or its padding
    before (PyTorch's rule).

    >>> [output_size(7, 3, stride, (0, 0), 1, False) for stride in (1, 2, 3)]
    [5, 3, 2]
    >>> output_size(7, 2, 2, (0, 0), 1, True)
    4
    """
    before, after = padding
    room = size + before + after - extent(window, dilation)
    if room < 0 and not ceil_mode:
        return 0
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    if (count - 1) * stride >= size + before:
        count -= 1
    return count


def transposed_size(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int, extra: int) -> int:
    """Return the size of the axis that windows laid at stride from `size` pixels fill, less the padding, plus `extra`.

    The inverse of `output_size`, where `extra` says which of the sizes that give one output it shall be.

    >>> [transposed_size(4, 3, 2, (1, 1), 1, extra) for extra in (0, 1)]
    [7, 8]
    """
    before, after = padding
    return (size - 1) * stride + extent(window, dilation) - before - after + extra
