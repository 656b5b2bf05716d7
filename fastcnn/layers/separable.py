"""Separable convolution: one filter a channel, then a 1x1 convolution that mixes the channels.

    x (..., M)   depthwise_weight (*filter, 1, M * m)   pointwise_weight (1, ..., M * m, K)   bias (K,)   y (..., K)

m is the depth multiplier. A filter of R x S takes M * R * S + M * K parameters (m = 1), where a full one takes
M * K * R * S. Source: Howard et al. 2017 (M, K as there, N for K); Chollet 2017.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.algorithms import resolve_algorithm
from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.initializers import HeNormal, Initializer
from fastcnn.kernels.problem import ConvProblem
from fastcnn.layers.base import Bound, Call
from fastcnn.layers.conv import SlidingLayer, filter_axes, five_axes
from fastcnn.layers.padding import NONE
from fastcnn.layers.weighted import Weights
from fastcnn.shapes import IntOrAxes, Padding, whole

__all__ = ["SeparableConv1d", "SeparableConv2d", "SeparableConv3d"]

ONE = (1, 1, 1)


class SeparableConv(SlidingLayer):
    """Depthwise convolution, then a 1x1 convolution, as one layer; nothing stands between the two.

    Parameters
    ----------
    depth_multiplier
        m, the filters for every input channel, at least 1.
    bias
        Whether a learned bias (K,), at first 0, is added at the end.

    Shapes
    ------
    x, y
        (N, *image, C) and (N, *output, K).

    Attributes
    ----------
    params["depthwise_weight"]
        (*filter, 1, C * m), which takes kernel_size, stride, padding and dilation.
    params["pointwise_weight"]
        (*ones, C * m, K).
    params["bias"]
        (K,), unless `bias` is False.

    Notes
    -----
    One filter a channel (or m of them), then a 1x1 convolution that mixes the channels; nothing stands between the two.
    Source: Howard et al. 2017; Chollet 2017.

    >>> SeparableConv2d(64, 128, 3, padding=1, bias=False).parameter_count
    8768
    """

    kind = "separable_conv"
    scaled = "pointwise_weight"
    reads_back = "x"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrAxes,
        stride: IntOrAxes = 1,
        padding: Padding = 0,
        dilation: IntOrAxes = 1,
        depth_multiplier: int = 1,
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
            in_channels, out_channels, kernel_size, stride, padding, dilation, 1, bias, padding_mode, algorithm,
            weight_init, name, dtype, device,
        )  # fmt: skip
        self.depth_multiplier = whole(depth_multiplier, 1, "depth_multiplier")
        self.middle = self.in_channels * self.depth_multiplier
        self.depthwise_shape = (*self.kernel_size, 1, self.middle)
        self.weight_shape = (*(1,) * self.rank, self.middle, self.out_channels)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().config()
        del config["groups"]
        return config | {"depth_multiplier": self.depth_multiplier}

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shapes of both weights and the bias."""
        bias = {"bias": self.bias_shape} if self.has_bias else {}
        return {"depthwise_weight": self.depthwise_shape, "pointwise_weight": self.weight_shape} | bias

    def first_values(self, name: str, generator: np.random.Generator) -> Array:
        """Return He-normal weights (or those of `weight_init`), each by its own fan-in, and zero biases."""
        if name == "bias":
            return np.zeros(self.bias_shape)
        return (self.weight_init or HeNormal())(self.parameter_shapes()[name], generator)

    def multiply_adds(self, output: Shape) -> int:
        """Return the sizes of both filters times the pixels of the output."""
        return (prod(self.depthwise_shape) + prod(self.weight_shape)) * prod(output[:-1])

    def bind(
        self,
        backend: Backend,
        xs: Sequence[Array],
        y: Array,
        training: bool = True,
        epilogue: Any = 0,
        weights: Weights | None = None,
    ) -> Bound:
        """Return the calls of the two convolutions, and keep the array between them."""
        conv, algorithm = backend.conv, resolve_algorithm(self.algorithm)
        padded, y5 = self.padded(backend, xs[0]), five_axes(y)
        pointwise, bias = weights or (self.own_params["pointwise_weight"], self.own_params.get("bias"))
        wd, wp = filter_axes(self.own_params["depthwise_weight"]), filter_axes(pointwise)
        middle = backend.empty((*y5.shape[:4], self.middle), y.dtype)
        spatial = self.problem(padded, middle.shape)._replace(groups=self.in_channels)
        mixing = ConvProblem(middle.shape, y5.shape, ONE, ONE, NONE, ONE, 1)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            dy5, dmiddle = five_axes(dy), backend.empty(middle.shape, middle.dtype)
            dw = {name: filter_axes(gradient) for name, gradient in grads.items() if name != "bias"}
            calls: list[Call] = []
            if dw or dxs[0] is not None:
                calls.append((conv.conv_backward_input, (dy5, wp, mixing, dmiddle, algorithm)))
            if "pointwise_weight" in dw:
                by_middle = (middle, dy5, mixing, dw["pointwise_weight"], algorithm)
                calls.append((conv.conv_backward_weight, by_middle))
            if "bias" in grads:
                calls.append((conv.conv_backward_bias, (dy5, grads["bias"])))
            if "depthwise_weight" in dw:
                by_input = (padded.x, dmiddle, spatial, dw["depthwise_weight"], algorithm)
                calls.append((conv.conv_backward_weight, by_input))
            if dxs[0] is not None:
                dx5, fold = padded.gradient(five_axes(dxs[0]))
                calls += [(conv.conv_backward_input, (dmiddle, wd, spatial, dx5, algorithm)), *fold]
            return calls

        forward: list[Call] = [
            *padded.forward,
            (conv.conv_forward, (padded.x, wd, None, spatial, False, middle, algorithm)),
            (conv.conv_forward, (middle, wp, bias, mixing, epilogue, y5, algorithm)),
        ]
        return Bound(backward, forward)


class SeparableConv1d(SeparableConv):
    """Separable convolution of signals (N, W, C).

    >>> SeparableConv1d(8, 16, 5, padding="same").output_shape((100, 8))
    (100, 16)
    """

    rank = 1


class SeparableConv2d(SeparableConv):
    """Separable convolution of images (N, H, W, C).

    >>> SeparableConv2d(3, 10, 3, stride=2, padding=1, depth_multiplier=2).output_shape((32, 32, 3))
    (16, 16, 10)
    """

    rank = 2


class SeparableConv3d(SeparableConv):
    """Separable convolution of volumes (N, D, H, W, C).

    >>> SeparableConv3d(4, 8, (1, 3, 3)).output_shape((5, 9, 9, 4))
    (5, 7, 7, 8)
    """

    rank = 3
