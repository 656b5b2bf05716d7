"""Dropout layers: in training a part of the elements, or of the channels, is zero and the others are scaled up.

    y = x * m / (1 - p),   m = 0 with probability p, else 1

Source: Srivastava et al. 2014; whole channels: Tompson et al. 2015.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Adjustable, Bound, Call, Layer
from fastcnn.shapes import is_number

__all__ = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"]

# Seeds and steps are kept as floats of the layer: float32 holds whole numbers up to here.
SEEDS = 1 << 24


def _probability(value: Any) -> float:
    """Return a probability, or refuse what is none."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ArgumentError(f"p={value!r} was given: a probability is a number from 0 to 1.")
    return float(value)


class Dropout(Layer):
    """Drop each element with probability `p` in training and scale the others by 1 / (1 - p); y = x in prediction.

    Notes
    -----
    What is dropped is a function of `state`: a seed, drawn with the weights from the run's seed, and a step that every
    forward pass in training counts. So a run that is repeated drops the same elements, on any number of threads, and no
    mask is kept.

    Parameters
    ----------
    p
        The probability, from 0 to 1; at 1 all is zero.
    inplace
        Taken as PyTorch has it, and ignored.

    Shapes
    ------
    x, y
        (N, ...) both, any number of axes.

    >>> layer = Dropout(0.25, device="reference")
    >>> y = layer.forward(np.ones((1, 1000)))
    >>> sorted(set(y.ravel().round(3).tolist()))
    [0.0, 1.333]
    >>> bool((layer.eval().forward(np.ones((1, 1000))) == 1).all())
    True
    """

    kind = "dropout"
    reads_back = ""
    adjustable: ClassVar[Adjustable] = {"p": _probability}

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.p: float = p

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"p": self.p}

    def state_shapes(self) -> dict[str, Shape]:
        """Return the shapes of seed and step."""
        return {"seed": (1,), "step": (1,)}

    def first_values(self, name: str, generator: np.random.Generator) -> Array:
        """Return a seed drawn at random, and step 0."""
        return np.array([generator.integers(SEEDS) if name == "seed" else 0], np.float64)

    def is_view_when(self, training: bool) -> bool:
        """Say that nothing is dropped in prediction."""
        return not training or self.p == 0

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        return inputs[0]

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls: each forward pass draws a key, from which both passes compute what is dropped."""
        if self.is_view_when(training):
            return Bound(lambda dy, dxs, grads: [])
        dropout, key = backend.dropout, backend.zeros((1,), np.dtype(np.int64))

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [] if dxs[0] is None else [(dropout.dropout_forward, (dy, self.p, key, dxs[0]))]

        draw: Call = (dropout.draw_key, (self.own_state["seed"], self.own_state["step"], key))
        return Bound(backward, [draw, (dropout.dropout_forward, (xs[0], self.p, key, y))])


class ChannelDropout(Dropout):
    """Drop whole channels of an image in training, and scale the others.

    Shapes
    ------
    x, y
        (N, *image, C) both.
    """

    rank: ClassVar[int]

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        if len(inputs[0]) != self.rank + 1:
            raise self.refuse_axes(inputs[0], f"({', '.join('DHW'[3 - self.rank :])}, C)")
        return inputs[0]

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls: one factor an image and channel is drawn, and gates the image in both passes."""
        if self.is_view_when(training):
            return Bound(lambda dy, dxs, grads: [])
        join, (N, C) = backend.join, (y.shape[0], y.shape[-1])
        ones, gate = backend.from_host(np.ones((N, C), y.dtype)), backend.empty((N, C), y.dtype)

        def rows(array: Array) -> Array:
            return array.reshape(N, prod(array.shape[1:-1]), C)

        inner = super().bind(backend, [ones], gate, training)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [] if dxs[0] is None else [(join.multiply_forward, (rows(dy), gate, rows(dxs[0])))]

        return Bound(backward, [*inner.forward, (join.multiply_forward, (rows(xs[0]), gate, rows(y)))])


class Dropout1d(ChannelDropout):
    """Drop whole channels of signals (N, W, C) with probability `p`, as `Dropout` does elements.

    >>> Dropout1d(0.1).output_shape((100, 8))
    (100, 8)
    """

    rank = 1


class Dropout2d(ChannelDropout):
    """Drop whole channels of images (N, H, W, C) with probability `p`, as `Dropout` does elements.

    >>> y = Dropout2d(0.5, device="reference").forward(np.ones((8, 5, 5, 4)))
    >>> bool((y == y[:, :1, :1]).all())
    True
    """

    rank = 2


class Dropout3d(ChannelDropout):
    """Drop whole channels of volumes (N, D, H, W, C) with probability `p`, as `Dropout` does elements.

    >>> Dropout3d(0.1).output_shape((4, 9, 9, 8))
    (4, 9, 9, 8)
    """

    rank = 3
