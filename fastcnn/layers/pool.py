"""Pooling layers: maximum and mean of windows, on rank 1, 2 or 3, channel by channel.

    x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)      y has the same channels and one pixel a window

The stride defaults to the window. The maximum's gradient goes to the first maximum of a window.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend, get
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.layers.base import Bound, Call, Layer, Window
from fastcnn.layers.conv import five_axes
from fastcnn.layers.node import Node
from fastcnn.shapes import IntOrAxes, compact, extent, output_size, per_axis, whole

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxPoolIndices1d",
    "MaxPoolIndices2d",
    "MaxPoolIndices3d",
]

# Up to so many taps a window's winner fits one byte.
TAPS_IN_A_BYTE = 256


class Pool(Layer):
    """What the two kinds of pooling share: the window and where it goes.

    Parameters
    ----------
    kernel_size
        Pixels of a window along the spatial axes: a number >= 1 for all, or one for each in their order.
    stride
        Pixels from one window to the next: a number >= 1 for all axes, or one for each; None takes kernel_size.
    padding
        Pixels around the image, on both sides of an axis, at most half of what the window spans: a number for all axes,
        or one for each.
    dilation
        From one pixel of a window to the next: a number >= 1 for all axes, or one for each.
    ceil_mode
        Whether a last window may hang over the edge, if it starts in the image or in the padding before it; the pixels
        that it would take are left out otherwise.

    Shapes
    ------
    x, y
        (N, *image, C) and (N, *output, C).
    """

    kind = "pool"
    reads_back = ""
    rank: ClassVar[int]
    kernel_size: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    ceil_mode: bool

    def _set_window(
        self,
        kernel_size: IntOrAxes,
        stride: IntOrAxes | None,
        padding: IntOrAxes,
        dilation: IntOrAxes,
        ceil_mode: bool,
    ) -> None:
        self.kernel_size = per_axis(kernel_size, self.rank, 1, "kernel_size")
        self.stride = per_axis(kernel_size if stride is None else stride, self.rank, 1, "stride")
        self.padding = per_axis(padding, self.rank, 0, "padding")
        self.dilation = per_axis(dilation, self.rank, 1, "dilation")
        self.ceil_mode = bool(ceil_mode)
        spans = tuple(map(extent, self.kernel_size, self.dilation))
        if any(2 * pad > span for pad, span in zip(self.padding, spans, strict=True)):
            raise ArgumentError(
                f"padding={compact(self.padding)} was given for a window that spans "
                f"{compact(spans)} pixels: it must be at most half of that."
            )

    def tiles_image(self) -> bool:
        """Say whether windows stand side by side: none overlaps another, the padding or the edge."""
        plain = self.stride == self.kernel_size and not any(self.padding) and not self.ceil_mode
        return plain and all(step == 1 for step in self.dilation)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        same = self.stride == self.kernel_size
        return {
            "kernel_size": compact(self.kernel_size),
            "stride": None if same else compact(self.stride),
            "padding": compact(self.padding),
            "ceil_mode": self.ceil_mode,
        }

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, C)."""
        (shape,) = inputs
        if len(shape) != self.rank + 1:
            raise self.refuse_axes(shape, f"({', '.join('DHW'[3 - self.rank :])}, C)")
        sizes = []
        for size, window, stride, pad, dilation in zip(
            shape, self.kernel_size, self.stride, self.padding, self.dilation, strict=False
        ):
            count = output_size(size, window, stride, (pad, pad), dilation, self.ceil_mode)
            if count < 1 or _some_window_is_empty(size, window, stride, pad, dilation, count):
                spans = tuple(map(extent, self.kernel_size, self.dilation))
                raise self.refuse(shape, f"an image that windows of {spans} pixels meet")
            sizes.append(count)
        return (*sizes, shape[-1])

    def window(self) -> Window:
        """Return the window's extent and the stride."""
        return tuple(map(extent, self.kernel_size, self.dilation)), self.stride

    def lead(self) -> Shape:
        """Return the ones that stand for the kernels' unused leading axes."""
        return (1,) * (3 - self.rank)

    def geometry(self) -> tuple[Any, ...]:
        """Return the kernels' window, stride, padding and dilation."""
        lead = self.lead()
        return lead + self.kernel_size, lead + self.stride, self.padding5(), lead + self.dilation

    def winner_dtype(self) -> np.dtype[Any]:
        """Return the number type of winning taps."""
        return np.dtype(np.uint8 if prod(self.kernel_size) <= TAPS_IN_A_BYTE else np.int32)

    def padding5(self) -> tuple[tuple[int, int], ...]:
        """Return the kernels' (before, after) pairs."""
        return ((0, 0),) * len(self.lead()) + tuple((pad, pad) for pad in self.padding)


def _some_window_is_empty(size: int, window: int, stride: int, pad: int, dilation: int, count: int) -> bool:
    """Say whether a dilated window that starts in the padding steps over the whole image."""
    if size >= dilation:
        return False
    # The first tap at or after pixel 0 repeats with the dilation, so a few windows stand for all.
    starting_before = min(count, -(-pad // stride), dilation)
    return any((p * stride - pad) % dilation >= size for p in range(starting_before))


class MaxPool(Pool):
    """Maximum of every window, with PyTorch's arguments.

    Notes
    -----
    Padding never wins, NaN always does; the gradient goes to the first of equal maxima, and to the last NaN. With
    `return_indices`, `forward` returns (y, indices): in int64 and of y's shape, the flat position of each maximum among
    its image's pixels, (d * H + h) * W + w. On a node of a graph, the layer then makes two nodes, the second for
    `MaxUnpool`; its indices are numbers of the network's dtype.

    Parameters
    ----------
    return_indices
        Whether the positions of the maxima are returned, too.
    """

    of_indices: ClassVar[type["MaxPoolIndices"]]

    def __init__(
        self,
        kernel_size: IntOrAxes,
        stride: IntOrAxes | None = None,
        padding: IntOrAxes = 0,
        dilation: IntOrAxes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.return_indices = bool(return_indices)
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().config() | {"dilation": compact(self.dilation), "return_indices": self.return_indices}

    def __call__(self, *nodes: Node) -> Any:
        """Apply the layer to a node of a graph: one node, or the pair of maxima and indices."""
        if not self.return_indices:
            return super().__call__(*nodes)
        arguments = self.config() | {"dtype": self.dtype, "device": self.device}
        del arguments["return_indices"]
        return type(self)(**arguments, name=self.name)(*nodes), self.of_indices(**arguments)(*nodes)

    def forward(self, *xs: ArrayLike) -> Any:
        """Return the maxima, or (maxima, indices)."""
        y = super().forward(*xs)
        if not self.return_indices:
            return y
        backend, image = get(self.device), (*self.lead(), *np.shape(xs[0])[1:-1])
        indices = backend.empty(y.shape, np.dtype(np.int64))
        backend.pool.max_pool_positions(self._thread.winner, *self.geometry(), image, five_axes(indices))
        return y, backend.download(indices)

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the array of winning taps lives between them."""
        pool, geometry = backend.pool, self.geometry()
        winner = backend.empty(five_axes(y).shape, self.winner_dtype())
        if self.return_indices:
            self._thread.winner = winner

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            arguments = (five_axes(dy), winner, *geometry, five_axes(dxs[0]))
            return [(pool.max_pool_backward_input, arguments)]

        arguments = (five_axes(xs[0]), *geometry, five_axes(y), winner)
        return Bound(backward, [(pool.max_pool_forward, arguments)])


class MaxPoolIndices(Pool):
    """Flat positions of the maxima of windows, for `MaxUnpool` in a graph, in the network's dtype; no gradient.

    Notes
    -----
    `MaxPool` with `return_indices` makes the layer when it is called on a node. It looks for the maxima itself. In
    float32, whole numbers are exact up to 2^24, so an image may have so many pixels.
    """

    kind = "indices"

    def __init__(
        self,
        kernel_size: IntOrAxes,
        stride: IntOrAxes | None = None,
        padding: IntOrAxes = 0,
        dilation: IntOrAxes = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().config() | {"dilation": compact(self.dilation)}

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, C)."""
        output = super().infer(*inputs)
        check_exact(self, prod(inputs[0][:-1]), self.dtype)
        return output

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; they keep maxima, winners and positions of their own."""
        x, shape = five_axes(xs[0]), five_axes(y).shape
        maxima, winner = backend.empty(shape, y.dtype), backend.empty(shape, self.winner_dtype())
        positions = backend.empty(shape, np.dtype(np.int64))
        geometry, pool = self.geometry(), backend.pool
        calls: list[Call] = [
            (pool.max_pool_forward, (x, *geometry, maxima, winner)),
            (pool.max_pool_positions, (winner, *geometry, x.shape[1:4], positions)),
            (backend.memory.copy, (positions, five_axes(y))),
        ]
        fill = backend.memory.fill
        return Bound(lambda dy, dxs, grads: [(fill, (dx, 0)) for dx in dxs if dx is not None], calls)


def check_exact(layer: Layer, pixels: int, dtype: np.dtype[Any]) -> None:
    """Refuse an image of more pixels than a number of this dtype counts exactly."""
    most = 2 ** (np.finfo(dtype).nmant + 1)
    if pixels > most:
        raise ShapeError(
            f"{layer.label} got an image of {pixels:,} pixels, and {dtype} counts {most:,}: use dtype='float64'."
        )


class AvgPool(Pool):
    """Mean of every window, with PyTorch's arguments.

    Parameters
    ----------
    count_include_pad
        Whether a sum is divided by the number of pixels in its window with those of the padding, or without.
    divisor_override
        A whole number >= 1 to divide every sum by in place of a count, or None.
    """

    def __init__(
        self,
        kernel_size: IntOrAxes,
        stride: IntOrAxes | None = None,
        padding: IntOrAxes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self._set_window(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        self.divisor_override = None if divisor_override is None else whole(divisor_override, 1, "divisor_override")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().config() | {
            "count_include_pad": self.count_include_pad,
            "divisor_override": self.divisor_override,
        }

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        pool, lead = backend.pool, self.lead()
        rule = (
            lead + self.kernel_size, lead + self.stride, self.padding5(),
            self.count_include_pad, self.divisor_override or 0,
        )  # fmt: skip

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(pool.avg_pool_backward_input, (five_axes(dy), *rule, five_axes(dxs[0])))]

        return Bound(backward, [(pool.avg_pool_forward, (five_axes(xs[0]), *rule, five_axes(y)))])


class MaxPoolIndices1d(MaxPoolIndices):
    """Positions of the maxima over windows of signals (N, W, C)."""

    rank = 1


class MaxPool1d(MaxPool):
    """Maximum over windows of signals (N, W, C).

    >>> MaxPool1d(3, stride=2).output_shape((11, 4))
    (5, 4)
    """

    rank = 1
    of_indices = MaxPoolIndices1d


class MaxPoolIndices2d(MaxPoolIndices):
    """Positions of the maxima over windows of images (N, H, W, C)."""

    rank = 2


class MaxPool2d(MaxPool):
    """Maximum over windows of images (N, H, W, C).

    >>> MaxPool2d(2).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    rank = 2
    of_indices = MaxPoolIndices2d


class MaxPoolIndices3d(MaxPoolIndices):
    """Positions of the maxima over windows of volumes (N, D, H, W, C)."""

    rank = 3


class MaxPool3d(MaxPool):
    """Maximum over windows of volumes (N, D, H, W, C).

    >>> MaxPool3d((1, 2, 2)).output_shape((8, 28, 28, 6))
    (8, 14, 14, 6)
    """

    rank = 3
    of_indices = MaxPoolIndices3d


class AvgPool1d(AvgPool):
    """Mean over windows of signals (N, W, C).

    >>> AvgPool1d(2, ceil_mode=True).output_shape((11, 4))
    (6, 4)
    """

    rank = 1


class AvgPool2d(AvgPool):
    """Mean over windows of images (N, H, W, C).

    >>> AvgPool2d(3, stride=2, padding=1).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    rank = 2


class AvgPool3d(AvgPool):
    """Mean over windows of volumes (N, D, H, W, C).

    >>> AvgPool3d(2).output_shape((8, 28, 28, 6))
    (4, 14, 14, 6)
    """

    rank = 3
