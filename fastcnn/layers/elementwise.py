"""Layers that add or merely regroup their elements: Add, Flatten, Identity."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ShapeError
from fastcnn.layers.base import Bound, Call, Layer


class Add(Layer):
    """The sum of two inputs of one shape; `a + b` on nodes.

    >>> Add().output_shape((7, 7, 50), (7, 7, 50))
    (7, 7, 50)
    """

    kind = "add"
    arity: ClassVar[int] = 2

    def infer(self, *inputs: Shape) -> Shape:
        """Return the inputs' one shape."""
        a, b = inputs
        if a != b:
            raise ShapeError(
                f"{self.label} got inputs of shapes {a} and {b}, and needs two of one shape: "
                "change what stands before it."
            )
        return a

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; each input gets a copy of the gradient, which may change later."""

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [(backend.copy, (dy, dx)) for dx in dxs if dx is not None]

        return Bound(backward, [(backend.add, (xs[0], xs[1], y))])


class View(Layer):
    """A layer whose output is its input, seen under another shape."""

    is_view: ClassVar[bool] = True

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return no calls: `y` is `x`."""
        return Bound(lambda dy, dxs, grads: [])


class Identity(View):
    """y = x.

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
