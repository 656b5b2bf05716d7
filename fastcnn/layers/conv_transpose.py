"""Transposed convolution layers: the adjoint of convolution by its input, which enlarges by its stride.

    x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)     weight (*filter, K / groups, C)     bias (K,)

Every pixel of x lays the filter, times its channels, on the output; overlaps add up. The weight is
that of the convolution from K to C channels which this one transposes.
Source: Zeiler et al. 2010; Dumoulin and Visin 2016.
"""

from fractions import Fraction
from math import prod
from typing import Any

from numpy.typing import DTypeLike

from fastcnn.arrays import Shape
from fastcnn.errors import ArgumentError
from fastcnn.initializers import Initializer
from fastcnn.kernels.problem import ConvProblem
from fastcnn.layers.base import Window
from fastcnn.layers.conv import FilterLayer
from fastcnn.layers.padding import PaddedInput
from fastcnn.shapes import IntOrAxes, Padding, compact, extent, per_axis, transposed_size

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class ConvTranspose(FilterLayer):
    """Transposed convolution with PyTorch's arguments, in PyTorch's order.

    Parameters
    ----------
    stride
        Pixels of the output from one pixel of the input to the next: a number >= 1 for all axes, or one for each.
    padding
        Pixels that are cut off the output: a number for all sides, one for each axis, or a (before, after) pair for
        each axis; or "same", as many as keep the size (at stride 1), or "valid", none.
    output_padding
        Pixels more at the end of each axis, fewer than the stride or the dilation: a number, or one for each axis.
    padding_mode
        "zeros" alone exists.

    Shapes
    ------
    x, y
        (N, *image, C) and (N, *output, K).

    Attributes
    ----------
    params["weight"]
        (*filter, K / groups, C). PyTorch's has the axes (C, K / groups, *filter).
    params["bias"]
        (K,), unless `bias` is False.

    Notes
    -----
    Every pixel of x lays the filter, times its channels, on the output; overlaps add up. An axis of `size` pixels
    becomes (size - 1) * stride + dilation * (kernel_size - 1) + 1 - before - after + output_padding.
    Source: Zeiler et al. 2010; Dumoulin and Visin 2016.

    >>> ConvTranspose2d(16, 8, 4, stride=2, padding=1).output_shape((7, 7, 16))
    (14, 14, 8)
    >>> ConvTranspose2d(16, 8, 4, stride=2, padding=1).params["weight"].shape
    (4, 4, 8, 16)
    """

    kind = "conv_transpose"
    reads_back = "x"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrAxes,
        stride: IntOrAxes = 1,
        padding: Padding = 0,
        output_padding: IntOrAxes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrAxes = 1,
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
        self.output_padding = per_axis(output_padding, self.rank, 0, "output_padding")
        if any(o >= max(s, d) for o, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)):
            raise ArgumentError(
                f"output_padding={output_padding!r} was given with stride {compact(self.stride)} and dilation "
                f"{compact(self.dilation)}: it must be smaller than one of them on every axis."
            )
        self.weight_shape = (*self.kernel_size, self.out_channels // self.groups, self.in_channels)

    @property
    def bias_shape(self) -> Shape:
        """The shape of a bias, (K,)."""
        return (self.out_channels,)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().config() | {"output_padding": compact(self.output_padding)}

    def problem(self, padded: PaddedInput, y: Shape) -> ConvProblem:
        """Return the convolution that this one transposes: from y to the input."""
        problem = super().problem(padded, y)
        return problem._replace(x=problem.y, y=problem.x)

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, K)."""
        (shape,) = inputs
        self.check_input(shape)
        axes = list(zip(self.kernel_size, self.stride, self.pairs, self.dilation, self.output_padding, strict=True))
        sizes = tuple(transposed_size(size, *axis) for size, axis in zip(shape, axes, strict=False))
        if min(sizes) < 1:
            least = tuple(1 + max(0, -((transposed_size(1, *axis) - 1) // axis[1])) for axis in axes)
            raise self.refuse(shape, f"an image of at least {least} pixels, as the padding cuts off the others")
        return (*sizes, self.out_channels)

    def multiply_adds(self, output: Shape) -> int:
        """Return the filter's size times the pixels of the input, each of which meets it whole."""
        axes = zip(output, self.kernel_size, self.stride, self.pairs, self.dilation, self.output_padding, strict=False)
        pixels = ((size - transposed_size(1, k, s, p, d, o)) // s + 1 for size, k, s, p, d, o in axes)
        return prod(self.weight_shape) * prod(pixels)

    def window(self) -> Window:
        """Return the dilated filter's extent on the output, and 1 / stride."""
        return tuple(map(extent, self.kernel_size, self.dilation)), [Fraction(1, s) for s in self.stride]


class ConvTranspose1d(ConvTranspose):
    """Transposed convolution of signals (N, W, C).

    >>> ConvTranspose1d(4, 2, 3, stride=2, padding=1, output_padding=1).output_shape((50, 4))
    (100, 2)
    """

    rank = 1


class ConvTranspose2d(ConvTranspose):
    """Transposed convolution of images (N, H, W, C).

    >>> ConvTranspose2d(16, 6, 5).output_shape((10, 10, 16))
    (14, 14, 6)
    """

    rank = 2


class ConvTranspose3d(ConvTranspose):
    """Transposed convolution of volumes (N, D, H, W, C).

    >>> ConvTranspose3d(8, 1, 3, stride=(1, 2, 2)).output_shape((6, 16, 16, 8))
    (8, 33, 33, 1)
    """

    rank = 3
