"""Convolution layers: one class on rank 1, 2 or 3, over the kernels' five axes.

    x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)     weight (*filter, C / groups, K)     bias (K,)

Every output is the sum of a window of x times the filter (cross-correlation), plus the bias.
Source: LeCun 1989.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.algorithms import check_algorithm, resolve_algorithm
from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.initializers import Fans, Initializer
from fastcnn.kernels.problem import ConvProblem
from fastcnn.layers.base import UNBOUNDED, Adjustable, Bound, Call, GradientSums, Statistics, Window
from fastcnn.layers.padding import PaddedInput, check_mode, check_padded
from fastcnn.layers.weighted import WeightedLayer, Weights, bias_config
from fastcnn.shapes import (
    IntOrAxes,
    Padding,
    compact,
    extent,
    output_size,
    padding_pairs,
    per_axis,
    whole,
)

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

T = TypeVar("T")


class FilterLayer(WeightedLayer):
    """What convolution and transposed convolution share: arguments, the check of inputs, the kernels' three axes.

    Parameters
    ----------
    in_channels
        C, the channels of the input.
    out_channels
        K, the channels of the output.
    kernel_size
        Pixels of the filter along the spatial axes: a number >= 1 for all, or one for each in their order.
    dilation
        From one tap of the filter to the next, in pixels: a number >= 1 for all axes, or one for each.
    groups
        Runs of neighbouring channels that do not meet each other; it divides C and K. With C groups each channel has
        filters of its own.
    algorithm
        "auto", the fastest for each shape, or "direct", the sums of the definition. The switch
        `fastcnn.set_convolution_algorithm` decides for layers with "auto".
    """

    rank: ClassVar[int]
    padding_modes: ClassVar[tuple[str, ...]] = ("zeros",)
    adjustable: ClassVar[Adjustable] = {"algorithm": check_algorithm}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrAxes,
        stride: IntOrAxes,
        padding: Padding,
        dilation: IntOrAxes,
        groups: int,
        bias: bool,
        padding_mode: str,
        algorithm: str,
        weight_init: Initializer | None,
        name: str | None,
        dtype: DTypeLike,
        device: str,
    ) -> None:
        super().__init__(weight_init, name, dtype, device)
        self.algorithm: str = algorithm
        self.in_channels = whole(in_channels, 1, "in_channels")
        self.out_channels = whole(out_channels, 1, "out_channels")
        self.kernel_size = per_axis(kernel_size, self.rank, 1, "kernel_size")
        self.stride = per_axis(stride, self.rank, 1, "stride")
        self.dilation = per_axis(dilation, self.rank, 1, "dilation")
        self.groups = whole(groups, 1, "groups")
        self.padding = padding
        self.pairs = padding_pairs(padding, self.rank, self.kernel_size, self.stride, self.dilation)
        for label, channels in (("in", self.in_channels), ("out", self.out_channels)):
            if channels % self.groups:
                raise ArgumentError(
                    f"{type(self).__name__} got {label}_channels={channels}, which "
                    f"groups={self.groups} does not divide: choose a number of groups that divides it."
                )
        check_mode(padding_mode, self.padding_modes, "padding_mode")
        self.padding_mode = padding_mode
        self.has_bias = bool(bias)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        symmetric = all(before == after for before, after in self.pairs)
        pads = compact([before for before, _ in self.pairs]) if symmetric else self.pairs
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": compact(self.kernel_size),
            "stride": compact(self.stride),
            "padding": self.padding if isinstance(self.padding, str) else pads,
            "dilation": compact(self.dilation),
            "groups": self.groups,
            "padding_mode": self.padding_mode,
            "algorithm": self.algorithm,
            **bias_config(self.has_bias, self.weight_init),
        }

    def check_input(self, shape: Shape) -> None:
        """Refuse an input of another rank or number of channels."""
        needed = f"({', '.join('DHW'[3 - self.rank :])}, C) with C = {self.in_channels}"
        if len(shape) != self.rank + 1:
            raise self.refuse_axes(shape, needed)
        if shape[-1] != self.in_channels:
            raise self.refuse(shape, needed, (*shape[1:], self.in_channels))

    @property
    def fans(self) -> Fans:
        """(fan-in, fan-out) of one group, whichever way the filter is used."""
        taps = prod(self.kernel_size)
        return taps * self.in_channels // self.groups, taps * self.out_channels // self.groups

    def padded(self, backend: Backend, x: Array) -> PaddedInput:
        """Return the input on five axes, padded by the layer's mode."""
        return PaddedInput(backend, five_axes(x), three_axes(self.pairs, (0, 0)), self.padding_mode)

    def problem(self, padded: PaddedInput, y: Shape) -> ConvProblem:
        """Return what the kernels compute: the convolution from the input to an output of shape y, on five axes."""
        window, stride, dilation = (three_axes(a, 1) for a in (self.kernel_size, self.stride, self.dilation))
        return ConvProblem(padded.x.shape, y, window, stride, padded.pairs, dilation, self.groups)

    def bind(
        self,
        backend: Backend,
        xs: Sequence[Array],
        y: Array,
        training: bool = True,
        epilogue: Any = 0,
        weights: Weights | None = None,
    ) -> Bound:
        """Return the calls of the kernels named after the layer's kind, on five-axis views of the arrays."""
        kernels = getattr(backend, self.kind)
        forward, by_input, by_weight, by_bias = (
            getattr(kernels, f"{self.kind}_{name}")
            for name in ("forward", "backward_input", "backward_weight", "backward_bias")
        )
        algorithm = resolve_algorithm(self.algorithm)
        padded, y5 = self.padded(backend, xs[0]), five_axes(y)
        weight, bias = weights or (self.own_params["weight"], self.own_params.get("bias"))
        w5, problem = filter_axes(weight), self.problem(padded, y5.shape)

        def backward(
            dy: Array,
            dxs: Sequence[Array | None],
            grads: Mapping[str, Array],
            total: Array | None = None,
            sums: GradientSums | None = None,
        ) -> list[Call]:
            dy5 = five_axes(dy)
            calls: list[Call] = []
            if "weight" in grads:
                calls.append((by_weight, (padded.x, dy5, problem, filter_axes(grads["weight"]), algorithm)))
            if "bias" in grads:
                calls.append((by_bias, (dy5, grads["bias"])))
            if dxs[0] is not None:
                dx5, fold = padded.gradient(five_axes(dxs[0]))
                after = () if total is None else (backend.activation.add_epilogue(total, dx5, UNBOUNDED),)
                filled: Call = (by_input, (dy5, w5, problem, dx5, algorithm, *after))
                if sums is not None:
                    (norm, taken), added = sums, None if total is None else five_axes(total)
                    measured = (dy5, w5, problem, norm, dx5, taken, algorithm, added)
                    filled = (kernels.conv_measured_backward_input, measured)
                calls += [filled, *fold]
            return calls

        arguments = (padded.x, w5, bias, problem, epilogue, y5, algorithm)
        return Bound(backward, [*padded.forward, (forward, arguments)])


class SlidingLayer(FilterLayer):
    """What convolution and separable convolution share: how a window slides over the padded image.

    Parameters
    ----------
    stride
        Pixels from one window to the next: a number >= 1 for all axes, or one for each.
    padding
        Pixels around the image: a number for all sides, one for each axis, or a (before, after) pair for each axis;
        or "same", as many as keep the size (at stride 1), or "valid", none.
    padding_mode
        What they are: "zeros", or the image's own by "reflect" (fewer than the axis has), "replicate", or "circular"
        (at most as many as the axis has).
    """

    padding_modes = ("zeros", "reflect", "replicate", "circular")

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, K)."""
        (shape,) = inputs
        self.check_input(shape)
        check_padded(self, shape, self.pairs, self.padding_mode)
        geometry = zip(shape, self.kernel_size, self.stride, self.pairs, self.dilation, strict=False)
        sizes = tuple(output_size(*axis, ceil_mode=False) for axis in geometry)
        if min(sizes) < 1:
            spans = tuple(map(extent, self.kernel_size, self.dilation))
            raise self.refuse(shape, f"a padded image of at least {spans} pixels for one output")
        return (*sizes, self.out_channels)

    def window(self) -> Window:
        """Return the dilated filter's extent and the stride."""
        return tuple(map(extent, self.kernel_size, self.dilation)), self.stride


class Conv(SlidingLayer):
    """Convolution with PyTorch's arguments.

    Shapes
    ------
    x, y
        (N, *image, C) and (N, *output, K).

    Attributes
    ----------
    params["weight"]
        (*filter, C / groups, K). PyTorch's has the axes (K, C / groups, *filter).
    params["bias"]
        (K,), unless `bias` is False.

    Notes
    -----
    Every output is the sum of a window of x times the filter (cross-correlation), plus the bias. An axis of `size`
    pixels becomes floor((size + before + after - dilation * (kernel_size - 1) - 1) / stride) + 1. Source: LeCun 1989.

    >>> Conv2d(3, 10, 5, padding=2).output_shape((32, 32, 3))
    (32, 32, 10)
    >>> Conv2d(3, 10, 5, padding=2).parameter_count
    760
    """

    kind = "conv"
    reads_back = "x"
    scaled = "weight"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrAxes,
        stride: IntOrAxes = 1,
        padding: Padding = 0,
        dilation: IntOrAxes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        algorithm: str = "auto",
        weight_init: Initializer | None = None,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, algorithm,
            weight_init, name, dtype, device,
        )  # fmt: skip
        self.weight_shape = (*self.kernel_size, self.in_channels // self.groups, self.out_channels)

    @property
    def finishes_gradient(self) -> bool:
        """Whether the kernel's gradient is the input's: not that of an image padded from itself."""
        return self.padding_mode == "zeros"

    def multiply_adds(self, output: Shape) -> int:
        """Return the filter's size times the pixels of the output."""
        return prod(self.weight_shape) * prod(output[:-1])

    def bind_measured(
        self, backend: Backend, x: Array, y: Array, training: bool, shift: Array, eps: float, statistics: Statistics
    ) -> Bound:
        """Return the calls of `bind`, of which the forward one fills the statistics of y, too.

        `shift` and `eps` are a running mean and what a normalization adds to the variance.
        """
        bound = self.bind(backend, [x], y, training)
        *before, (_, (*source, _, y5, algorithm)) = bound.forward
        arguments = (*source, shift, eps, y5, *statistics, algorithm)
        return Bound(bound.backward, [*before, (backend.conv.conv_measured_forward, arguments)])

    def bind_pooled(self, backend: Backend, x: Array, y: Array, window: Shape) -> Bound:
        """Return the calls of convolution, ReLU and max-pooling by windows side by side, in one kernel."""
        kernels, y5, padded = backend.conv_pool, five_axes(y), self.padded(backend, x)
        w5, bias = filter_axes(self.own_params["weight"]), self.own_params.get("bias")
        winner = backend.empty(y5.shape, np.dtype(np.uint8))
        sizes = three_axes(self.infer(x.shape[1:])[:-1], 1)
        stage = self.problem(padded, (len(x), *sizes, self.out_channels)), window

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            dx5, fold = (None, []) if dxs[0] is None else padded.gradient(five_axes(dxs[0]))
            dw5 = filter_axes(grads["weight"])
            arguments = (padded.x, w5, five_axes(dy), winner, *stage, dx5, dw5, grads.get("bias"))
            return [(kernels.conv_pool_backward, arguments), *fold]

        algorithm = resolve_algorithm(self.algorithm)
        forward = (kernels.conv_pool_forward, (padded.x, w5, bias, *stage, y5, winner, algorithm))
        return Bound(backward, [*padded.forward, forward])


class Conv1d(Conv):
    """Convolution of signals (N, W, C).

    >>> Conv1d(2, 4, 3, padding=((2, 0),)).output_shape((100, 2))
    (100, 4)
    """

    rank = 1


class Conv2d(Conv):
    """Convolution of images (N, H, W, C).

    >>> Conv2d(6, 16, 5).output_shape((14, 14, 6))
    (10, 10, 16)
    """

    rank = 2


class Conv3d(Conv):
    """Convolution of volumes (N, D, H, W, C).

    >>> Conv3d(1, 8, 3, stride=(1, 2, 2), padding="valid").output_shape((8, 33, 33, 1))
    (6, 16, 16, 8)
    """

    rank = 3


def five_axes(array: Array) -> Array:
    """Return a view (N, D, H, W, C) with the missing leading spatial axes of length 1.

    >>> import numpy as np
    >>> five_axes(np.zeros((8, 28, 3))).shape
    (8, 1, 1, 28, 3)
    """
    n, *rest = array.shape
    return array.reshape((n, *(1,) * (5 - array.ndim), *rest))


def three_axes(values: tuple[T, ...], lead: T) -> tuple[T, T, T]:
    """Return what holds along the spatial axes for all three: `lead` along those that are missing.

    >>> three_axes((2, 2), 1)
    (1, 2, 2)
    """
    depth, height, width = (lead,) * (3 - len(values)) + values
    return depth, height, width


def filter_axes(weight: Array) -> Array:
    """Return a view (T, R, S, C / groups, K) of a filter, with leading axes of length 1."""
    return weight.reshape((*(1,) * (5 - weight.ndim), *weight.shape))
