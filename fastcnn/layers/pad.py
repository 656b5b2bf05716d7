"""Padding layers: pixels around an image, of one value or from the image itself, and channels of zeros beside its own.

    x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)     y the same with `before` and `after` more pixels on every axis

A row a b c, padded by two before and one after: constant 0 0 a b c 0, replicate a a a b c c, reflect c b a b c b,
circular b c a b c a.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.layers.conv import five_axes
from fastcnn.layers.padding import check_mode, check_padded
from fastcnn.shapes import Padding, Pairs, is_int, is_number, padding_pairs, whole

__all__ = ["Pad", "PadChannels"]

MODES = ("constant", "reflect", "replicate", "circular")


class Pad(Layer):
    """Pixels around an image.

    Parameters
    ----------
    padding
        Pixels before and after every spatial axis: one number for all, one for each axis in the order of the axes, or
        a (before, after) pair for each.
    mode
        "constant", "reflect" (smaller than the axis), "replicate", or "circular" (at most the axis).
    value
        Of the constant.

    Shapes
    ------
    x, y
        (N, W, C), (N, H, W, C) or (N, D, H, W, C), and the same with more pixels; ShapeError where an image is too
        small for its mode.

    >>> Pad(((0, 1), (2, 2)), "reflect").output_shape((5, 6, 3))
    (6, 10, 3)
    >>> Pad(2, mode="circular", device="reference").forward([[[1.0], [2.0], [3.0]]]).ravel()
    array([2., 3., 1., 2., 3., 1., 2.])
    """

    kind = "pad"
    reads_back = ""

    def __init__(
        self,
        padding: Padding,
        mode: str = "constant",
        value: float = 0.0,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        check_mode(mode, MODES, "mode")
        if not is_number(value) and not isinstance(value, float | np.floating):  # those may be infinite or NaN
            raise ArgumentError(f"value={value!r} was given: give a number.")
        if mode != "constant" and value != 0:
            raise ArgumentError(f"value={value!r} was given with mode={mode!r}, which has none: leave it out.")
        self.mode, self.value = mode, float(value)
        self.padding: int | tuple[Any, ...]
        if is_int(padding):
            self.padding = int(padding)  # type: ignore[arg-type]
            self._pairs(1)
        elif isinstance(padding, list | tuple) and 1 <= len(padding) <= 3:
            self.padding = tuple(tuple(axis) if isinstance(axis, list) else axis for axis in padding)
            self._pairs(len(padding))
        else:
            raise ArgumentError(
                f"padding={padding!r} was given: give a number, or for each of one to three axes a number "
                "or a (before, after) pair."
            )

    def _pairs(self, rank: int) -> Pairs:
        return padding_pairs(self.padding, rank, (), (), ())

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"padding": self.padding, "mode": self.mode, "value": self.value}

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*padded sizes, C)."""
        (shape,) = inputs
        rank = len(shape) - 1
        if not 1 <= rank <= 3 or (isinstance(self.padding, tuple) and len(self.padding) != rank):
            axes = "one to three" if isinstance(self.padding, int) else str(len(self.padding))
            raise self.refuse_axes(shape, f"{axes} spatial axes and one of channels")
        pairs = self._pairs(rank)
        check_padded(self, shape, pairs, self.mode)
        return (*(size + sum(pair) for size, pair in zip(shape, pairs, strict=False)), shape[-1])

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls, on five axes."""
        pairs = ((0, 0),) * (5 - y.ndim) + self._pairs(y.ndim - 2)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(backend.pad.pad_backward_input, (five_axes(dy), pairs, self.mode, five_axes(dxs[0])))]

        arguments = (five_axes(xs[0]), pairs, self.mode, self.value, five_axes(y))
        return Bound(backward, [(backend.pad.pad_forward, arguments)])


class PadChannels(Layer):
    """Channels of zeros before and after those of an array (N, ..., C), as shortcuts without parameters need them.

    Parameters
    ----------
    before, after
        How many, from 0 up.

    Shapes
    ------
    x, y
        (N, ..., C) and (N, ..., before + C + after).

    >>> PadChannels(1, 2).output_shape((8, 8, 16))
    (8, 8, 19)
    >>> PadChannels(1, 2, device="reference").forward([[5.0, 7.0]])
    array([[0., 5., 7., 0., 0.]])
    """

    kind = "pad"
    reads_back = ""

    def __init__(
        self, before: int, after: int, *, name: str | None = None, dtype: DTypeLike = "float32", device: str = "cpu"
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.before, self.after = whole(before, 0, "before"), whole(after, 0, "after")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"before": self.before, "after": self.after}

    def infer(self, *inputs: Shape) -> Shape:
        """Return (..., before + C + after)."""
        (shape,) = inputs
        return (*shape[:-1], self.before + shape[-1] + self.after)

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls: a pixel's channels are padded as a row of pixels of one channel is."""
        pairs = ((0, 0), (0, 0), (self.before, self.after))

        def rows(array: Array) -> Array:
            return array.reshape(array.shape[0], 1, prod(array.shape[1:-1]), array.shape[-1], 1)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(backend.pad.pad_backward_input, (rows(dy), pairs, "constant", rows(dxs[0])))]

        return Bound(backward, [(backend.pad.pad_forward, (rows(xs[0]), pairs, "constant", 0.0, rows(y)))])
