"""Layers of several inputs: Add, Multiply, Concat.

Axes are counted without the batch axis.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.layers.node import OPERATORS
from fastcnn.shapes import is_int

__all__ = ["Add", "Concat", "Multiply"]


class Add(Layer):
    """The sum of two inputs or more, all of one shape; `a + b` on nodes.

    Shapes
    ------
    xs, y
        (N, ...), all the same.

    >>> Add().output_shape((7, 7, 50), (7, 7, 50), (7, 7, 50))
    (7, 7, 50)
    """

    kind = "add"
    reads_back = ""
    arity: ClassVar[int] = 2
    is_variadic: ClassVar[bool] = True
    passes_gradient: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def infer(self, *inputs: Shape) -> Shape:
        """Return the inputs' one shape."""
        if len(set(inputs)) > 1:
            raise ShapeError(
                f"{self.label} got inputs of shapes {' and '.join(map(str, inputs))}, and needs "
                f"{'two' if len(inputs) == 2 else 'all'} of one shape: change what stands before it."
            )
        return inputs[0]

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; each input gets a copy of the gradient, which may change later."""
        join = backend.join

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [(join.add_backward_input, (dy, dxs))] if any(dx is not None for dx in dxs) else []

        return Bound(backward, [(join.add_forward, (tuple(xs), y))])


class Multiply(Layer):
    """The product of two inputs, element by element; `a * b` on nodes.

    One input may be smaller and is then repeated, as in NumPy (missing leading axes count 1), along one run of
    neighbouring axes: a gate (C,) or (1, 1, C) for an image (H, W, C), one factor a channel as in squeeze and
    excitation (Hu et al. 2018); a map (H, W, 1), one factor a pixel; or a number (1,).

    Shapes
    ------
    xs, y
        (N, ...), two that fit so, and the larger one's.

    >>> Multiply().output_shape((7, 7, 64), (64,))
    (7, 7, 64)
    """

    kind = "multiply"
    reads_back = "x"
    arity: ClassVar[int] = 2

    def infer(self, *inputs: Shape) -> Shape:
        """Return the larger input's shape."""
        image, gate = self._sorted(inputs)
        if _split(image, gate) is None:
            raise ShapeError(
                f"{self.label} got inputs of shapes {inputs[0]} and {inputs[1]}, and needs two of one shape, or one "
                "that is repeated along neighbouring axes, such as (C,) or (H, W, 1) with (H, W, C): "
                "change what stands before it."
            )
        return image

    def _sorted(self, inputs: Sequence[Shape]) -> Sequence[Shape]:
        """Return the inputs' shapes, the one of more elements, or of more axes, first."""
        return sorted(inputs, key=lambda shape: (prod(shape), len(shape)), reverse=True)

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls, on views (A, B, C) of the image and (A, C) of the gate."""
        join, shapes = backend.join, [x.shape[1:] for x in xs]
        image, gate = self._sorted(shapes)
        large = shapes.index(image)
        outer, repeated, inner = _split(image, gate) or (1, 1, 1)
        A, B, C = y.shape[0] * outer, repeated, inner

        def views(arrays: Sequence[Array | None]) -> list[Array | None]:
            pair = arrays[large], arrays[1 - large]
            return [a if a is None else a.reshape(s) for a, s in zip(pair, ((A, B, C), (A, C)), strict=True)]

        x, g = views(xs)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            (dx, dg), dy3 = views(dxs), dy.reshape(A, B, C)
            calls: list[Call] = [] if dx is None else [(join.multiply_forward, (dy3, g, dx))]
            return calls if dg is None else [*calls, (join.multiply_backward_gate, (x, dy3, dg))]

        return Bound(backward, [(join.multiply_forward, (x, g, y.reshape(A, B, C)))])


def _split(image: Shape, gate: Shape) -> tuple[int, int, int] | None:
    """Return (A, B, C): elements of the axes before, in and after the one run along which the gate is repeated.

    >>> _split((7, 6, 5), (5,)), _split((7, 6, 5), (7, 6, 1)), _split((7, 6, 5), (7, 1, 5))
    ((1, 42, 5), (42, 5, 1), (7, 6, 5))
    >>> _split((7, 6, 5), (7, 6, 5)), _split((7, 6, 5), (1, 6, 1)), _split((7, 6, 5), (4,))
    ((210, 1, 1), None, None)
    """
    full = (1,) * (len(image) - len(gate)) + gate
    if len(full) != len(image) or any(g not in (1, size) for size, g in zip(image, full, strict=True)):
        return None
    repeated = [axis for axis, (size, g) in enumerate(zip(image, full, strict=True)) if g != size]
    if not repeated:
        return prod(image), 1, 1
    first, last = repeated[0], repeated[-1] + 1
    if any(image[axis] != 1 for axis in range(first, last) if axis not in repeated):
        return None
    return prod(image[:first]), prod(image[first:last]), prod(image[last:])


class Concat(Layer):
    """The inputs side by side along one axis: by default their channels, one after the other.

    Parameters
    ----------
    axis
        Counted from 0 without the batch axis, or from the end as a negative number.

    Shapes
    ------
    xs, y
        (N, ...), one input or more, equal in all other axes, and the same with the axis' lengths added up.

    >>> Concat().output_shape((28, 28, 64), (28, 28, 32), (28, 28, 3))
    (28, 28, 99)
    """

    kind = "concat"
    reads_back = ""
    is_variadic: ClassVar[bool] = True

    def __init__(
        self, axis: int = -1, *, name: str | None = None, dtype: DTypeLike = "float32", device: str = "cpu"
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        if not is_int(axis):
            raise ArgumentError(f"axis={axis!r} was given: give a whole number, -1 for the channels.")
        self.axis = int(axis)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"axis": self.axis}

    def infer(self, *inputs: Shape) -> Shape:
        """Return the inputs' shape with the lengths of the axis added up."""
        first, axis = inputs[0], self.axis
        if not -len(first) <= axis < len(first):
            raise ShapeError(
                f"{self.label} got an input of shape {first}, which has no axis {axis}: "
                "count the axes without the batch."
            )
        axis %= len(first)
        if len({(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in inputs}) > 1:
            raise ShapeError(
                f"{self.label} got inputs of shapes {' and '.join(map(str, inputs))}, and needs them equal "
                f"in all axes but {axis}: change what stands before it."
            )
        return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls, on views whose rows are all that stands side by side."""
        join, axis = backend.join, self.axis % (y.ndim - 1) + 1
        widths = tuple(prod(x.shape[axis:]) for x in xs)
        rows = prod(y.shape[:axis])

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if all(dx is None for dx in dxs):
                return []
            parts = tuple(dx if dx is None else dx.reshape(rows, w) for dx, w in zip(dxs, widths, strict=True))
            return [(join.concat_backward_input, (dy.reshape(rows, sum(widths)), widths, parts))]

        parts = tuple(x.reshape(rows, width) for x, width in zip(xs, widths, strict=True))
        return Bound(backward, [(join.concat_forward, (parts, y.reshape(rows, sum(widths))))])


OPERATORS["+"] = lambda a, b: Add()(a, b)
OPERATORS["*"] = lambda a, b: Multiply()(a, b)
