"""Softmax over channels, and its logarithm: layers (N, ..., C) whose pixels are normalized one by one."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastcnn.arrays import Shape
from fastcnn.errors import ArgumentError
from fastcnn.layers.activation import Activation

__all__ = ["LogSoftmax", "Softmax"]


class Softmax(Activation):
    """y = exp(x) over the sum of exp(x) over the channels, pixel by pixel.

    Parameters
    ----------
    dim
        -1 alone: the channels are the last axis.

    >>> import numpy as np
    >>> Softmax(device="reference").forward(np.array([[1e4, 1e4], [0.0, -1e4]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """

    kind = kernel = "softmax"
    reads_back = "y"
    in_place = False
    pointwise = False

    def __init__(
        self,
        dim: int = -1,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        if dim != -1:
            raise ArgumentError(f"dim={dim!r} was given, and channels are the last axis here: give dim=-1, or none.")

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape, which has channels."""
        if inputs[0] and inputs[0][-1] == 0:
            raise self.refuse(inputs[0], "at least one channel")
        return inputs[0]


class LogSoftmax(Softmax):
    """y = x - log(the sum of exp(x) over the channels), pixel by pixel.

    >>> import numpy as np
    >>> LogSoftmax(device="reference").forward(np.array([[1e4, 1e4], [0.0, -1e4]])).round(4)
    array([[-6.931e-01, -6.931e-01],
           [ 0.000e+00, -1.000e+04]])
    """

    kind = kernel = "log_softmax"
