"""Layers that change the grid of pixels: unpooling, interpolation, skipping.

x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)      y has the same channels and other sizes
"""

from collections.abc import Mapping, Sequence
from math import floor, prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError, DataError, ShapeError
from fastcnn.layers.base import Bound, Call, Layer, Window
from fastcnn.layers.conv import five_axes
from fastcnn.layers.pool import check_exact
from fastcnn.shapes import IntOrAxes, compact, is_number, per_axis, whole

__all__ = ["MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "Subsample", "Upsample"]

RANKS = {"nearest": (1, 2, 3), "linear": (1,), "bilinear": (2,), "trilinear": (3,)}
UNPADDED = ((0, 0),) * 3
SMALL_OUTPUT = 128  # rows and columns of an image, together, up to which PyTorch takes the nearest pixels another way


class MaxUnpool(Layer):
    """The way back of MaxPool: pixels go to the positions that their maxima had, and the others are 0.

    Notes
    -----
    `forward(x, indices)` takes the indices of `MaxPool(..., return_indices=True).forward`; in a graph the layer is
    called on (node, node of indices). The output has the size that a pooling with these arguments makes x's from,
    (size - 1) * stride - 2 * padding + kernel_size, or `output_size`. Of several pixels for one position the last
    stays, and all of them get its gradient, as in PyTorch; the gradient by the indices is 0.

    Parameters
    ----------
    kernel_size
        The pooling's window: a number of pixels >= 1 for all spatial axes, or one for each.
    stride
        The pooling's stride: a number >= 1 for all axes, or one for each; None takes kernel_size.
    padding
        The pooling's padding: a number for all axes, or one for each.
    output_size
        The pixels of the image that was pooled, along each axis, less than a stride from the size above; None takes
        that.

    Shapes
    ------
    x, indices, y
        (N, *output, C), the same, and (N, *image, C).
    """

    kind = "unpool"
    reads_back = "x"
    arity = 2
    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: IntOrAxes,
        stride: IntOrAxes | None = None,
        padding: IntOrAxes = 0,
        output_size: Sequence[int] | None = None,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.kernel_size = per_axis(kernel_size, self.rank, 1, "kernel_size")
        self.stride = per_axis(kernel_size if stride is None else stride, self.rank, 1, "stride")
        self.padding = per_axis(padding, self.rank, 0, "padding")
        self.output_size = None if output_size is None else per_axis(output_size, self.rank, 1, "output_size")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "kernel_size": compact(self.kernel_size),
            "stride": None if self.stride == self.kernel_size else compact(self.stride),
            "padding": compact(self.padding),
            "output_size": self.output_size,
        }

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, C)."""
        shape, indices = inputs
        if len(shape) != self.rank + 1:
            raise self.refuse_axes(shape, f"({', '.join('DHW'[3 - self.rank :])}, C)")
        if indices != shape:
            raise ShapeError(
                f"{self.label} got an input of shape {shape} and indices of shape {indices}: give the indices that "
                "the pooling returned beside its maxima."
            )
        whole_size = tuple(
            (size - 1) * stride - 2 * pad + window
            for size, stride, pad, window in zip(shape, self.stride, self.padding, self.kernel_size, strict=False)
        )
        sizes = self._thread.output_size or self.output_size or whole_size
        if any(abs(size - usual) >= step for size, usual, step in zip(sizes, whole_size, self.stride, strict=True)):
            raise ShapeError(
                f"{self.label} was asked for size {sizes}, and makes {whole_size} of an input of shape {shape}: give "
                "sizes less than a stride from it."
            )
        if min(sizes) < 1:
            raise self.refuse(shape, "one that unpools to at least a pixel")
        check_exact(self, prod(sizes), self.dtype)
        return (*sizes, shape[-1])

    def forward(self, *xs: ArrayLike, output_size: Sequence[int] | None = None) -> Array:
        """Return the unpooled array for (x, indices); `output_size` replaces the layer's in this call."""
        if len(xs) != self.arity:
            raise ShapeError(f"{self.label} got {len(xs)} inputs, and needs x and its indices: give both.")
        x, indices = np.asarray(xs[0]), np.asarray(xs[1])
        if indices.dtype.kind not in "iu":
            raise DataError(
                f"{self.label} got indices of dtype {indices.dtype}, and needs whole numbers: give those of a pooling "
                "with return_indices=True."
            )
        held = self._thread
        held.output_size = None if output_size is None else per_axis(output_size, self.rank, 1, "output_size")
        try:
            if x.ndim == self.rank + 2 and x.shape == indices.shape:
                shape = self.output_shape(x.shape[1:], indices.shape[1:])
                self._check_indices(indices, prod(shape[:-1]))
                if held.alone is not None and held.alone.y.shape[1:] != shape:
                    held.alone = None
            return super().forward(xs[0], indices.astype(np.float64 if x.dtype == np.float64 else np.float32))
        finally:
            held.output_size = None

    def _check_indices(self, indices: Array, pixels: int) -> None:
        if indices.size and not 0 <= indices.min() <= indices.max() < pixels:
            raise DataError(
                f"{self.label} got indices from {indices.min()} to {indices.max()}, and its output has {pixels} "
                "pixels: give output_size, the size of the image that was pooled."
            )

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        resample, positions = backend.resample, five_axes(xs[1])

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            calls: list[Call] = []
            if dxs[0] is not None:
                calls.append((resample.max_unpool_backward_input, (five_axes(dy), positions, five_axes(dxs[0]))))
            if dxs[1] is not None:
                calls.append((backend.memory.fill, (dxs[1], 0)))
            return calls

        return Bound(backward, [(resample.max_unpool_forward, (five_axes(xs[0]), positions, five_axes(y)))])


class MaxUnpool1d(MaxUnpool):
    """The way back of MaxPool1d.

    >>> MaxUnpool1d(2).output_shape((5, 4), (5, 4))
    (10, 4)
    """

    rank = 1


class MaxUnpool2d(MaxUnpool):
    """The way back of MaxPool2d.

    >>> from fastcnn.layers import MaxPool2d
    >>> x = np.array([[1.0, 2.0], [4.0, 3.0]]).reshape(1, 2, 2, 1)
    >>> y, indices = MaxPool2d(2, return_indices=True, device="reference").forward(x)
    >>> MaxUnpool2d(2, device="reference").forward(y, indices).ravel()
    array([0., 0., 4., 0.])
    """

    rank = 2


class MaxUnpool3d(MaxUnpool):
    """The way back of MaxPool3d.

    >>> MaxUnpool3d(2).output_shape((4, 5, 6, 3), (4, 5, 6, 3))
    (8, 10, 12, 3)
    """

    rank = 3


class Upsample(Layer):
    """An image enlarged (or reduced) by interpolation, with PyTorch's arguments and positions.

    Parameters
    ----------
    size
        Output size, one number or one for each axis of pixels.
    scale_factor
        Or how many times larger; the size is rounded down.
    mode
        "nearest" for any rank, "linear", "bilinear" or "trilinear" for rank 1, 2 or 3. Output o is nearest to pixel
        floor(o / scale_factor), in arithmetic of the array's dtype; in images whose rows and columns are 128 or fewer
        together, in float32, and those of the same or twice the size go by the sizes. The gradient is the transpose of
        that, while PyTorch's goes by the sizes everywhere.
    align_corners
        In the linear modes: the corners' pixels keep their values, and positions stand between them.

    Shapes
    ------
    x, y
        (N, W, C), (N, H, W, C) or (N, D, H, W, C), and the same with other numbers of pixels.

    >>> Upsample(scale_factor=2).output_shape((7, 6, 3))
    (14, 12, 3)
    """

    kind = "upsample"
    reads_back = ""

    def __init__(
        self,
        size: IntOrAxes | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        if (size is None) == (scale_factor is None):
            given = "both size and scale_factor were" if size is not None else "neither size nor scale_factor was"
            raise ArgumentError(f"{given} given: give one of them.")
        if mode not in RANKS:
            raise ArgumentError(f"mode={mode!r} was given: choose one of {', '.join(RANKS)}.")
        if mode == "nearest" and align_corners is not None:
            raise ArgumentError(f"align_corners={align_corners!r} was given with mode='nearest': leave it out.")
        self.size: int | Shape | None = None
        if isinstance(size, list | tuple):
            self.size = tuple(whole(one, 1, "size") for one in size)
        elif size is not None:
            self.size = whole(size, 1, "size")
        scales = scale_factor if isinstance(scale_factor, list | tuple) else [scale_factor]
        if scale_factor is not None and not all(_is_scale(scale) for scale in scales):
            raise ArgumentError(f"scale_factor={scale_factor!r} was given: it must be a finite number > 0, or some.")
        self.scale_factor = tuple(scales) if isinstance(scale_factor, list | tuple) else scale_factor
        self.mode = mode
        self.align_corners = align_corners

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "size": self.size,
            "scale_factor": self.scale_factor,
            "mode": self.mode,
            "align_corners": self.align_corners,
        }

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, C)."""
        (shape,) = inputs
        rank = len(shape) - 1
        if rank not in RANKS[self.mode]:
            needed = " or ".join(str(r + 1) for r in RANKS[self.mode])
            raise self.refuse_axes(shape, f"{needed} axes, of which the last is channels, for mode={self.mode!r}")
        if self.size is not None:
            return (*per_axis(self.size, rank, 1, "size"), shape[-1])
        sizes = tuple(floor(own * scale) for own, scale in zip(shape, self._scales(rank), strict=False))
        if min(sizes) < 1:
            raise self.refuse(shape, "an image that is not reduced to nothing")
        return (*sizes, shape[-1])

    def _scales(self, rank: int) -> tuple[float, ...]:
        """Return the enlargement along each axis, 0 where the size is given."""
        if self.scale_factor is None:
            return (0.0,) * rank
        scales = self.scale_factor if isinstance(self.scale_factor, tuple) else (self.scale_factor,) * rank
        if len(scales) != rank:
            raise ShapeError(f"{self.label} got an image of {rank} axes of pixels: give as many scale factors.")
        return tuple(map(float, scales))

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        resample, rank = backend.resample, xs[0].ndim - 2
        how = (("nearest", False, 0.0),) * (3 - rank) + self._samplings(xs[0].shape[1:-1], y.shape[1:-1], y.dtype)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(resample.upsample_backward_input, (five_axes(dy), how, five_axes(dxs[0])))]

        return Bound(backward, [(resample.upsample_forward, (five_axes(xs[0]), how, five_axes(y)))])

    def _samplings(self, image: Shape, output: Shape, dtype: np.dtype[Any]) -> tuple[tuple[str, bool, float], ...]:
        """Return how each axis is sampled.

        PyTorch takes the nearest pixels of small images by a loop of its own, in float32 whatever the dtype, which goes
        by the sizes alone where they agree or are doubled, whatever the scale factor was.
        """
        scales = self._scales(len(image))
        if self.mode != "nearest":
            return tuple(("linear", bool(self.align_corners), scale) for scale in scales)
        is_small = len(image) == 2 and sum(output) <= SMALL_OUTPUT
        mode = "nearest64" if dtype == np.float64 and not is_small else "nearest"
        return tuple(
            (mode, False, 0.0 if is_small and outputs in (size, 2 * size) else scale)
            for size, outputs, scale in zip(image, output, scales, strict=True)
        )


def _is_scale(value: object) -> bool:
    return is_number(value) and value > 0


class Subsample(Layer):
    """Every (skip + 1)-th pixel along each axis, from the first on: the skipping factor, equal to a stride of skip + 1.

    Parameters
    ----------
    skip
        Pixels left out between two that stay, from 0 up.

    Shapes
    ------
    x, y
        (N, W, C), (N, H, W, C) or (N, D, H, W, C), and the same with fewer pixels.

    >>> Subsample(1).output_shape((7, 6, 3))
    (4, 3, 3)
    """

    kind = "subsample"
    reads_back = ""

    def __init__(
        self, skip: int, *, name: str | None = None, dtype: DTypeLike = "float32", device: str = "cpu"
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.skip = whole(skip, 0, "skip")
        self._rank = 0

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"skip": self.skip}

    def infer(self, *inputs: Shape) -> Shape:
        """Return (*output sizes, C)."""
        (shape,) = inputs
        if not 2 <= len(shape) <= 4:
            raise self.refuse_axes(shape, "(W, C), (H, W, C) or (D, H, W, C)")
        self._rank = len(shape) - 1
        return (*((size - 1) // (self.skip + 1) + 1 for size in shape[:-1]), shape[-1])

    def window(self) -> Window:
        """Return the window's extent and the stride, for the rank of the last input."""
        return (1,) * self._rank, (self.skip + 1,) * self._rank

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls: a mean of one pixel, at a stride."""
        pool, rank = backend.pool, xs[0].ndim - 2
        stride = (1,) * (3 - rank) + (self.skip + 1,) * rank
        rule = ((1, 1, 1), stride, UNPADDED, True, 1)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(pool.avg_pool_backward_input, (five_axes(dy), *rule, five_axes(dxs[0])))]

        return Bound(backward, [(pool.avg_pool_forward, (five_axes(xs[0]), *rule, five_axes(y)))])
