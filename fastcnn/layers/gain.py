"""A gain learned for each channel: x, y (N, ..., C), weight (C,)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.shapes import whole

__all__ = ["Gain"]


class Gain(Layer):
    """y = weight[c] * x: a gain learned for each channel, 1 at first.

    Parameters
    ----------
    channels
        C, the length of the last axis.

    Shapes
    ------
    x, y
        (N, ..., C), any number of axes.

    Attributes
    ----------
    params["weight"]
        (C,).

    >>> import numpy as np
    >>> gain = Gain(2, device="reference")
    >>> gain.params["weight"] = [1.0, -3.0]
    >>> gain.forward(np.array([[2.0, 2.0]]))
    array([[ 2., -6.]])
    """

    kind = "gain"
    reads_back = "x"

    def __init__(
        self,
        channels: int,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.channels = whole(channels, 1, "channels")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"channels": self.channels}

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape, whose last axis holds the channels."""
        (shape,) = inputs
        if shape[-1:] != (self.channels,):
            raise self.refuse(shape, f"{self.channels} channels last", (*shape[1:], self.channels))
        return shape

    def multiply_adds(self, output: Shape) -> int:
        """Return one for every element."""
        return math.prod(output)

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return {"weight": (C,)}."""
        return {"weight": (self.channels,)}

    def first_values(self, name: str, generator: np.random.Generator) -> Array:
        """Return ones."""
        return np.ones(self.channels)

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the weight's gradient needs the input."""
        room, x, weight = backend.activation, xs[0], self.own_params["weight"]

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            calls: list[Call] = []
            if "weight" in grads:
                calls.append((room.gain_backward_weight, (x, dy, grads["weight"])))
            if dxs[0] is not None:
                calls.append((room.gain_backward_input, (weight, dy, dxs[0])))
            return calls

        return Bound(backward, [(room.gain_forward, (x, weight, y))])
