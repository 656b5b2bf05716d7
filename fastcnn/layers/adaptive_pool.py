"""Pooling to a given size: adaptive windows, and one window over the whole image.

    x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)      y has the same channels and the pixels asked for

Along an axis of W pixels, window q of Q goes from floor(q * W / Q) to ceil((q + 1) * W / Q), as PyTorch's does.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend, get
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.layers.conv import five_axes
from fastcnn.layers.node import Node
from fastcnn.shapes import is_int, whole

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "GlobalAvgPool",
    "GlobalMaxPool",
]

SizeOrAxes = int | None | Sequence[int | None]


class AdaptivePool(Layer):
    """What the two kinds share: an output size for each axis, where None keeps the input's.

    Parameters
    ----------
    output_size
        Pixels of the output along the spatial axes: a number >= 1 for all, or one for each; None keeps the input's.

    Shapes
    ------
    x, y
        (N, *image, C) and (N, *output, C).

    Notes
    -----
    Along an axis of W pixels, window q of Q goes from floor(q * W / Q) to ceil((q + 1) * W / Q), as PyTorch's does.
    """

    kind = "pool"
    reads_back = ""
    rank: ClassVar[int]

    def __init__(
        self,
        output_size: SizeOrAxes,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        sizes = [output_size] * self.rank if output_size is None or is_int(output_size) else output_size
        if not isinstance(sizes, list | tuple) or len(sizes) != self.rank:
            raise ArgumentError(
                f"output_size={output_size!r} was given: it must be a number, None, or {self.rank} of them."
            )
        self.output_size = tuple(None if size is None else whole(size, 1, "output_size") for size in sizes)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        same = len(set(self.output_size)) == 1
        return {"output_size": self.output_size[0] if same else self.output_size}

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, C)."""
        (shape,) = inputs
        if len(shape) != self.rank + 1:
            raise self.refuse_axes(shape, f"({', '.join('DHW'[3 - self.rank :])}, C)")
        return (*(own if size is None else size for own, size in zip(shape, self.output_size, strict=False)), shape[-1])


class AdaptiveAvgPool(AdaptivePool):
    """Mean of adaptive windows."""

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        return _bind_mean(backend, five_axes(xs[0]), five_axes(y))


class AdaptiveMaxPool(AdaptivePool):
    """Maximum of adaptive windows; the gradient goes to the first, or to the last NaN, which wins.

    Notes
    -----
    Along an axis of W pixels, window q of Q goes from floor(q * W / Q) to ceil((q + 1) * W / Q), as PyTorch's does.
    The gradient goes to the first maximum of a window, and NaN wins. With `return_indices`, `forward` returns
    (y, indices), the flat positions of the maxima in the image, in int64.

    Parameters
    ----------
    return_indices
        Whether the positions of the maxima are returned, too; a layer in a graph has none.
    """

    def __init__(
        self,
        output_size: SizeOrAxes,
        return_indices: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(output_size, name=name, dtype=dtype, device=device)
        self.return_indices = bool(return_indices)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().config() | {"return_indices": self.return_indices}

    def __call__(self, *nodes: Node) -> Node:
        """Apply the layer to a node of a graph."""
        if self.return_indices:
            raise ArgumentError(
                f"{self.label} was called on a node: a graph has no indices of adaptive maxima, so leave "
                "return_indices out, or use MaxPool."
            )
        return super().__call__(*nodes)

    def forward(self, *xs: Any) -> Any:
        """Return the maxima, or (maxima, indices)."""
        y = super().forward(*xs)
        if not self.return_indices:
            return y
        backend = get(self.device)
        indices = backend.empty(y.shape, np.dtype(np.int64))
        backend.pool.adaptive_max_pool_positions(self._thread.winner, self._thread.image, five_axes(indices))
        return y, backend.download(indices)

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the array of winning taps lives between them."""
        bound, self._thread.winner = _bind_maximum(backend, five_axes(xs[0]), five_axes(y))
        self._thread.image = five_axes(xs[0]).shape[1:4]
        return bound


def _bind_mean(backend: Backend, x: Array, y: Array) -> Bound:
    """Return the calls of means from x (N, D, H, W, C) to y (N, O, P, Q, C)."""
    pool = backend.pool

    def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
        if dxs[0] is None:
            return []
        return [(pool.adaptive_avg_pool_backward_input, (dy.reshape(y.shape), dxs[0].reshape(x.shape)))]

    return Bound(backward, [(pool.adaptive_avg_pool_forward, (x, y))])


def _bind_maximum(backend: Backend, x: Array, y: Array) -> tuple[Bound, Array]:
    """Return the calls of maxima from x (N, D, H, W, C) to y (N, O, P, Q, C), and the array of winners."""
    pool = backend.pool
    winner = backend.empty(y.shape, np.dtype(np.int32))

    def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
        if dxs[0] is None:
            return []
        return [(pool.adaptive_max_pool_backward_input, (dy.reshape(y.shape), winner, dxs[0].reshape(x.shape)))]

    return Bound(backward, [(pool.adaptive_max_pool_forward, (x, y, winner))]), winner


class GlobalPool(Layer):
    """What the two kinds share: all pixels are one window.

    Shapes
    ------
    x, y
        (N, ..., C), with one axis of pixels or more, and (N, C).
    """

    kind = "pool"
    reads_back = ""

    def infer(self, *inputs: Shape) -> Shape:
        """Return (C,)."""
        (shape,) = inputs
        if len(shape) < 2:
            raise self.refuse_axes(shape, "at least one axis of pixels before the channels")
        return shape[-1:]


def _image_and_pixel(x: Array, y: Array) -> tuple[Array, Array]:
    """Return x (N, ..., C) and y (N, C) on five axes; more than three axes of pixels become three."""
    N, *pixels, C = x.shape
    axes = [1, 1, *pixels]
    return x.reshape(N, prod(axes[:-2]), *axes[-2:], C), y.reshape(N, 1, 1, 1, C)


class GlobalAvgPool(GlobalPool):
    """Mean over all pixels, whatever the rank: (N, ..., C) becomes (N, C).

    >>> GlobalAvgPool().output_shape((7, 7, 1024))
    (1024,)
    """

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        return _bind_mean(backend, *_image_and_pixel(xs[0], y))


class GlobalMaxPool(GlobalPool):
    """Maximum over all pixels, whatever the rank: (N, ..., C) becomes (N, C); the gradient goes to the first.

    >>> GlobalMaxPool().output_shape((100, 16))
    (16,)
    """

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        return _bind_maximum(backend, *_image_and_pixel(xs[0], y))[0]


class AdaptiveAvgPool1d(AdaptiveAvgPool):
    """Mean over adaptive windows of signals (N, W, C).

    >>> AdaptiveAvgPool1d(5).output_shape((11, 4))
    (5, 4)
    """

    rank = 1


class AdaptiveAvgPool2d(AdaptiveAvgPool):
    """Mean over adaptive windows of images (N, H, W, C).

    >>> AdaptiveAvgPool2d((None, 7)).output_shape((28, 30, 4))
    (28, 7, 4)
    """

    rank = 2


class AdaptiveAvgPool3d(AdaptiveAvgPool):
    """Mean over adaptive windows of volumes (N, D, H, W, C).

    >>> AdaptiveAvgPool3d(2).output_shape((8, 9, 10, 4))
    (2, 2, 2, 4)
    """

    rank = 3


class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """Maximum over adaptive windows of signals (N, W, C).

    >>> AdaptiveMaxPool1d(5).output_shape((11, 4))
    (5, 4)
    """

    rank = 1


class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """Maximum over adaptive windows of images (N, H, W, C).

    >>> AdaptiveMaxPool2d(7).output_shape((30, 28, 4))
    (7, 7, 4)
    """

    rank = 2


class AdaptiveMaxPool3d(AdaptiveMaxPool):
    """Maximum over adaptive windows of volumes (N, D, H, W, C).

    >>> AdaptiveMaxPool3d((2, None, 3)).output_shape((8, 9, 10, 4))
    (2, 9, 3, 4)
    """

    rank = 3
