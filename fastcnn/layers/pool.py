"""Pooling layers: maximum and mean of windows, on rank 1, 2 or 3, channel by channel.

    x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)      y has the same channels and one pixel a window

The stride defaults to the window. The maximum's gradient goes to the first maximum of a window.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Bound, Call, Layer, Window
from fastcnn.layers.conv import five_axes
from fastcnn.shapes import IntOrAxes, compact, extent, output_size, per_axis, whole

# Up to so many taps a window's winner fits one byte.
TAPS_IN_A_BYTE = 256


class Pool(Layer):
    """What the two kinds of pooling share: the window and where it goes."""

    kind = "pool"
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
    """Maximum of every window, with PyTorch's arguments; padding never wins, NaN always does."""

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
        if return_indices:
            raise ArgumentError("return_indices=True was given, and no layer uses them: leave it out.")
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().config() | {"dilation": compact(self.dilation)}

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the array of winning taps lives between them."""
        pool, lead = backend.pool, self.lead()
        winner_dtype = np.uint8 if prod(self.kernel_size) <= TAPS_IN_A_BYTE else np.int32
        winner = backend.empty(five_axes(y).shape, np.dtype(winner_dtype))
        geometry = (
            lead + self.kernel_size, lead + self.stride, self.padding5(), lead + self.dilation,
        )  # fmt: skip

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            arguments = (five_axes(dy), winner, *geometry, five_axes(dxs[0]))
            return [(pool.max_pool_backward_input, arguments)]

        arguments = (five_axes(xs[0]), *geometry, five_axes(y), winner)
        return Bound(backward, [(pool.max_pool_forward, arguments)])


class AvgPool(Pool):
    """Mean of every window, with PyTorch's arguments; a `divisor_override` replaces the count."""

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


class MaxPool1d(MaxPool):
    """Maximum over windows of signals (N, W, C).

    >>> MaxPool1d(3, stride=2).output_shape((11, 4))
    (5, 4)
    """

    rank = 1


class MaxPool2d(MaxPool):
    """Maximum over windows of images (N, H, W, C).

    >>> MaxPool2d(2).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    rank = 2


class MaxPool3d(MaxPool):
    """Maximum over windows of volumes (N, D, H, W, C).

    >>> MaxPool3d((1, 2, 2)).output_shape((8, 28, 28, 6))
    (8, 14, 14, 6)
    """

    rank = 3


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
