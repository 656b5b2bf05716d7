"""Padding from the image itself, as layers do it before they work: its checks, and the padded array they keep."""

from collections.abc import Sequence
from typing import TypeAlias

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.kernels.problem import Padding
from fastcnn.layers.base import Call, Layer
from fastcnn.shapes import Pairs

FivePairs: TypeAlias = Padding

NONE: FivePairs = ((0, 0), (0, 0), (0, 0))

# By how many pixels the padding of a mode may exceed an axis (PyTorch's limits); the others take any.
LARGEST = {"reflect": -1, "circular": 0}


def check_mode(mode: object, known: Sequence[str], name: str) -> None:
    """Refuse a mode that is not among the known ones."""
    if mode not in known:
        choice = f"choose one of {', '.join(map(repr, known))}" if len(known) > 1 else f"only {known[0]!r} exists"
        raise ArgumentError(f"{name}={mode!r} was given: {choice}.")


def check_padded(layer: Layer, shape: Shape, pairs: Pairs, mode: str) -> None:
    """Refuse an image (*axes, C) that is too small for this padding, or has no pixel to pad with."""
    for size, pair in zip(shape, pairs, strict=False):
        over = LARGEST.get(mode)
        if over is not None and max(pair) > size + over:
            least = max(pair) - over
            raise layer.refuse(shape, f"axes of at least {least} pixels to pad one by {max(pair)} in mode {mode!r}")


class PaddedInput:
    """The input of a convolution: as it is where the padding is zeros, which the kernels see to, else padded by a call.

    Parameters
    ----------
    x5, pairs
        The image (N, D, H, W, C), and its padding on three axes.
    mode
        "zeros", or one of the kernels' modes.

    `x` and `pairs` are what the convolution works on; `forward` holds the call that fills `x`, if there is one.
    """

    def __init__(self, backend: Backend, x5: Array, pairs: FivePairs, mode: str) -> None:
        self.x, self.pairs = x5, pairs
        self.forward: list[Call] = []
        self._backend, self._how = backend, (pairs, mode)
        if mode == "zeros" or pairs == NONE:
            return
        N, *sizes, C = x5.shape
        padded = (size + sum(pair) for size, pair in zip(sizes, pairs, strict=True))
        self.x, self.pairs = backend.empty((N, *padded, C), x5.dtype), NONE
        self.forward = [(backend.pad.pad_forward, (x5, *self._how, 0.0, self.x))]

    def gradient(self, dx5: Array) -> tuple[Array, list[Call]]:
        """Return the array that takes the gradient by `x`, and the calls that then make it the one by the image."""
        if not self.forward:
            return dx5, []
        padded = self._backend.empty(self.x.shape, self.x.dtype)
        return padded, [(self._backend.pad.pad_backward_input, (padded, *self._how, dx5))]
