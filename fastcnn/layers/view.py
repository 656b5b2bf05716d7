"""Layers that give the axes of their input other lengths or another order: Identity, Flatten, Reshape, Permute.

Axes are counted without the batch axis, which stays the first.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.shapes import is_int

__all__ = ["Flatten", "Identity", "Permute", "Reshape"]


class View(Layer):
    """A layer whose output is its input, seen under another shape."""

    is_view: ClassVar[bool] = True

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return no calls: `y` is `x`."""
        return Bound(lambda dy, dxs, grads: [])


class Identity(View):
    """y = x.

    Shapes
    ------
    x, y
        (N, ...) both.

    >>> Identity().output_shape((28, 28, 1))
    (28, 28, 1)
    """

    kind = "identity"

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        return inputs[0]


class Flatten(View):
    """All axes but the batch in one, in the order of memory: (H, W, C) becomes (H * W * C,).

    >>> Flatten().output_shape((5, 5, 16))
    (400,)
    """

    kind = "flatten"

    def infer(self, *inputs: Shape) -> Shape:
        """Return the product of the input's axes."""
        return (prod(inputs[0]),)


class Reshape(View):
    """The elements of an image under another shape, in the order of memory; no number moves.

    Parameters
    ----------
    *shape
        The new axes without the batch axis, as numbers or as one tuple; one of them may be -1, "what is left".

    Shapes
    ------
    x, y
        (N, ...) of as many elements, and (N, *shape).

    >>> Reshape(7, 7, -1).output_shape((2450,))
    (7, 7, 50)
    """

    kind = "reshape"
    keeps_positions: ClassVar[bool] = False

    def __init__(
        self,
        *shape: int | Sequence[int],
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.shape = _numbers(shape)
        if not self.shape or any(size < -1 or size == 0 for size in self.shape) or self.shape.count(-1) > 1:
            raise ArgumentError(
                f"Reshape{self.shape} was given: give its axes as whole numbers >= 1, at most one of them -1, "
                "as in Reshape(7, 7, -1)."
            )

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"shape": self.shape}

    def infer(self, *inputs: Shape) -> Shape:
        """Return the shape with its -1 filled in."""
        (given,) = inputs
        known = prod(size for size in self.shape if size > 0)
        left, rest = divmod(prod(given), known)
        if rest or (left != 1 and -1 not in self.shape):
            what = f"a multiple of {known}" if -1 in self.shape else str(known)
            raise self.refuse(given, f"{what} elements, where these axes hold {prod(given)}")
        return tuple(left if size == -1 else size for size in self.shape)


class Permute(Layer):
    """The axes of an image in another order.

    Parameters
    ----------
    *axes
        The input's axis that each axis of the output is, as numbers or as one tuple, counted from 0 without the batch
        axis, or from the end as negative numbers. All axes occur once.

    Shapes
    ------
    x, y
        (N, ...) of as many axes, and the same in order.

    >>> Permute(2, 0, 1).output_shape((28, 30, 3))
    (3, 28, 30)
    """

    kind = "permute"
    reads_back = ""
    keeps_positions: ClassVar[bool] = False

    def __init__(
        self,
        *axes: int | Sequence[int],
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        given = _numbers(axes)
        self.axes = tuple(axis + len(given) if axis < 0 else axis for axis in given)
        if not given or sorted(self.axes) != list(range(len(given))):
            raise ArgumentError(
                f"Permute{given} was given: name every axis once, from 0 and without the batch, as in Permute(2, 0, 1)."
            )

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"axes": self.axes}

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's axes in order."""
        (given,) = inputs
        if len(given) != len(self.axes):
            raise self.refuse_axes(given, f"{len(self.axes)} axes")
        return tuple(given[axis] for axis in self.axes)

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the gradient goes back by the inverse order."""
        permute, axes = backend.permute.permute, (0, *(axis + 1 for axis in self.axes))
        inverse = tuple(int(axis) for axis in np.argsort(axes))

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [] if dxs[0] is None else [(permute, (dy, inverse, dxs[0]))]

        return Bound(backward, [(permute, (xs[0], axes, y))])


def _numbers(given: Sequence[int | Sequence[int]]) -> Shape:
    """Return whole numbers that were given one by one or as one sequence."""
    values: Any = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    if not all(is_int(value) for value in values):
        raise ArgumentError(f"{tuple(values)!r} was given as axes: give whole numbers.")
    return tuple(int(value) for value in values)
