"""Normalization of channels: by mean and variance of each over a batch, or over the pixels of one image.

    x (N, C)  (N, W, C)  (N, H, W, C)  (N, D, H, W, C)     y of the same shape     weight, bias (C,)

    y = weight * (x - mean) / sqrt(variance + eps) + bias

    BatchNorm       mean and variance of a channel over batch and pixels     Ioffe and Szegedy 2015
    InstanceNorm    of a channel of one image over its pixels                Ulyanov, Vedaldi, Lempitsky 2016

The variance is the biased one, over m, not m - 1; the running one is over m - 1. Gradients go through mean and
variance, except through running ones.
"""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.layers.base import UNBOUNDED, Adjustable, Bound, Bounds, Call, GradientSums, Statistics
from fastcnn.layers.norm import GroupedNorm
from fastcnn.shapes import is_number, whole

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]


def _momentum(value: object) -> float | None:
    """Return a momentum, or refuse what is none."""
    if value is None:
        return None
    if not is_number(value) or not 0 <= value <= 1:
        raise ArgumentError(
            f"momentum={value!r} was given: it must be a number from 0 to 1, or None for the average of all."
        )
    return float(value)


class ChannelNorm(GroupedNorm):
    """What batch and instance normalization share: statistics of each channel, and running ones for prediction.

    Shapes
    ------
    x, y
        (N, *image, C) both.

    Attributes
    ----------
    params["weight"], params["bias"]
        Gamma and beta, (C,) each, at first 1 and 0, if `affine`.
    state["running_mean"], state["running_var"], state["num_batches_tracked"]
        (C,), (C,) and (1,), if `track_running_stats`.
    """

    adjustable: ClassVar[Adjustable] = {**GroupedNorm.adjustable, "momentum": _momentum}
    rank: ClassVar[int]
    per_image: ClassVar[bool]

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        name: str | None,
        dtype: DTypeLike,
        device: str,
    ) -> None:
        self.num_features = whole(num_features, 1, "num_features")
        names = ("weight", "bias") if affine else ()
        super().__init__(eps, (self.num_features,), names, name, dtype, device)
        self.momentum: float | None = momentum
        self.has_affine, self.tracks = bool(affine), bool(track_running_stats)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "num_features": self.num_features,
            "eps": self.eps,
            "momentum": self.momentum,
            "affine": self.has_affine,
            "track_running_stats": self.tracks,
        }

    def state_shapes(self) -> dict[str, Shape]:
        """Return the shapes of the running mean and variance, and of the number of batches that they have seen."""
        running = {"running_mean": self.weight_shape, "running_var": self.weight_shape, "num_batches_tracked": (1,)}
        return running if self.tracks else {}

    def first_values(self, name: str, generator: np.random.Generator) -> Array:
        """Return weight 1, bias 0; running mean 0, running variance 1, no batches tracked."""
        if name == "num_batches_tracked":
            return np.zeros(1)
        return np.ones(self.weight_shape) if name in ("weight", "running_var") else np.zeros(self.weight_shape)

    def check_input(self, shape: Shape) -> None:
        """Refuse another rank or number of channels."""
        needed = f"({', '.join(['DHW'[3 - self.rank :][i] for i in range(self.rank)] + ['C'])})"
        ranks = (0, 1) if self.rank == 1 and not self.per_image else (self.rank,)
        if len(shape) - 1 not in ranks:
            raise self.refuse_axes(shape, needed)
        if shape[-1] != self.num_features:
            fitting = (*shape[1:], self.num_features)
            raise self.refuse(shape, f"{needed} with C = {self.num_features}", fitting)

    def measures(self, training: bool) -> bool:
        """Say whether statistics are those of the batch at hand, all its images together."""
        return not self.per_image and not (self.tracks and not training)

    def near_mean(self, backend: Backend) -> Array:
        """Return numbers (C,) near the channels' means, as far as the layer knows any."""
        return self.own_state["running_mean"] if self.tracks else backend.zeros(self.weight_shape, self.dtype)

    def bind(
        self,
        backend: Backend,
        xs: Sequence[Array],
        y: Array,
        training: bool = True,
        bounds: Bounds = UNBOUNDED,
        measured: Statistics | None = None,
        sums: GradientSums | None = None,
    ) -> Bound:
        """Return the calls: statistics of this batch, or running ones in prediction, where the layer tracks them.

        Those of the batch may be `measured` already, and on the way back the sums of the gradient by y taken.
        """
        fixed = self.tracks and not training
        N, C, L = y.shape[0], self.num_features, prod(y.shape[1:-1])
        shape = (N, L, C) if self.per_image and not fixed else (1, N * L, C)
        if not fixed:
            self._check_count(y.shape, shape[1], training)
        bound, mean, variance = self.grouped(backend, xs, y, C, shape, bounds, fixed, measured, sums)
        if fixed:
            running = (("running_mean", mean), ("running_var", variance))
            fill: list[Call] = [(backend.memory.copy, (self.own_state[name], own[0])) for name, own in running]
            return Bound(bound.backward, [*fill, *bound.forward])
        track = self.track_calls(backend, mean, variance, shape[1], y.size == 0) if self.tracks else []
        return Bound(bound.backward, [*bound.forward, *track])

    @abstractmethod
    def track_calls(self, backend: Backend, mean: Array, variance: Array, count: int, is_empty: bool) -> list[Call]:
        """Return the calls that move the running statistics, by those of a batch of `count` numbers a mean."""

    def fold_call(self, backend: Backend, w: Array, b: Array | None, folded: Array, bias: Array) -> Call:
        """Return the call that fills weights (..., C), which do what w, b and then this layer do in prediction."""
        gamma, beta = self.affine(backend)
        running = self.own_state["running_mean"], self.own_state["running_var"]
        rows = (-1, self.num_features)
        return backend.norm.fold_norm, (w.reshape(rows), b, gamma, beta, *running, self.eps, folded.reshape(rows), bias)

    def _check_count(self, shape: Shape, count: int, training: bool) -> None:
        if count == 1 and shape[0] > 0:
            what = "pixel in each image" if self.per_image else "value in each channel"
            when = "in training" if training else "and keeps no running statistics"
            larger = "larger images" if self.per_image else "a larger batch"
            let = "let" if self.tracks else "build it with track_running_stats=True and let"
            raise ShapeError(
                f"{self.label} got an array of shape {shape} {when}, with one {what}, which has no deviation: "
                f"give {larger}, or {let} it take running statistics by eval()."
            )


class BatchNorm(ChannelNorm):
    """Batch normalization (Ioffe and Szegedy 2015) with PyTorch's arguments and defaults.

    Parameters
    ----------
    num_features
        C, the channels.
    eps
        Added to the variance, a number >= 0.
    momentum
        The weight of a new batch in the running statistics, from 0 to 1; None keeps the plain average of all batches.
        (The running average r = 0.99 r + 0.01 new of other texts is momentum=0.01.)
    affine
        Whether a `weight` (gamma) and a `bias` (beta) are learned.
    track_running_stats
        Whether `state` keeps a "running_mean", a "running_var" (unbiased) and "num_batches_tracked", which stand for
        the batch's in prediction. Without, prediction too takes the batch's own.

    Notes
    -----
    y = weight * (x - mean) / sqrt(variance + eps) + bias, of each channel over batch and pixels (Ioffe and Szegedy
    2015). A batch in training must hold more than one value a channel (else ShapeError, as in PyTorch): `Trainer.fit`
    refuses a batch size that leaves a last batch of one, before its first step. An empty batch is counted, and moves
    nothing.
    """

    kind = "batch_norm"
    per_image = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, name, dtype, device)

    def track_calls(self, backend: Backend, mean: Array, variance: Array, count: int, is_empty: bool) -> list[Call]:
        """Return the call that moves the running statistics and counts the batch; an empty one is counted only."""
        held, momentum = self.own_state, 0.0 if is_empty else self.momentum
        moved = held["num_batches_tracked"], held["running_mean"], held["running_var"]
        return [(backend.norm.update_running, (mean, variance, count, momentum, *moved))]


class BatchNorm1d(BatchNorm):
    """Batch normalization of rows (N, C) or signals (N, W, C).

    Shapes
    ------
    x, y
        (N, C) or (N, W, C), both the same.

    >>> BatchNorm1d(2, affine=False, device="reference").forward(np.array([[0.0, 5.0], [2.0, 7.0]])).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    """

    rank = 1


class BatchNorm2d(BatchNorm):
    """Batch normalization of images (N, H, W, C).

    >>> layer = BatchNorm2d(3)
    >>> layer.output_shape((32, 32, 3)), layer.parameter_count, list(layer.state)
    ((32, 32, 3), 6, ['running_mean', 'running_var', 'num_batches_tracked'])
    """

    rank = 2


class BatchNorm3d(BatchNorm):
    """Batch normalization of volumes (N, D, H, W, C).

    >>> BatchNorm3d(4).output_shape((8, 16, 16, 4))
    (8, 16, 16, 4)
    """

    rank = 3


class InstanceNorm(ChannelNorm):
    """Instance normalization (Ulyanov, Vedaldi, Lempitsky 2016) with PyTorch's arguments and defaults.

    Notes
    -----
    Every channel of every image is normalized over its own pixels, in prediction too unless running statistics are
    tracked (the images' average). As in PyTorch "num_batches_tracked" stays 0, and so there is no average of all
    batches. Images of one pixel are refused in training.

    Parameters
    ----------
    num_features
        C, the channels.
    eps
        Added to the variance, a number >= 0.
    momentum
        The weight of a new batch in the running statistics, from 0 to 1; with None these stay what they are.
    affine
        Whether a `weight` (gamma) and a `bias` (beta) are learned.
    track_running_stats
        Whether `state` keeps running statistics, which stand for an image's own in prediction.
    """

    kind = "instance_norm"
    per_image = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, name, dtype, device)

    def track_calls(self, backend: Backend, mean: Array, variance: Array, count: int, is_empty: bool) -> list[Call]:
        """Return the call that moves the running statistics, where there is a momentum and an image to move them."""
        if self.momentum is None or is_empty:
            return []
        uncounted = backend.zeros((1,), self.dtype)
        running = self.own_state["running_mean"], self.own_state["running_var"]
        return [(backend.norm.update_running, (mean, variance, count, self.momentum, uncounted, *running))]


class InstanceNorm1d(InstanceNorm):
    """Instance normalization of signals (N, W, C).

    >>> InstanceNorm1d(1, device="reference").forward(np.array([[[1.0], [3.0]]])).round(3).tolist()
    [[[-1.0], [1.0]]]
    """

    rank = 1


class InstanceNorm2d(InstanceNorm):
    """Instance normalization of images (N, H, W, C).

    >>> InstanceNorm2d(8, affine=True).parameter_count
    16
    """

    rank = 2


class InstanceNorm3d(InstanceNorm):
    """Instance normalization of volumes (N, D, H, W, C).

    >>> InstanceNorm3d(8).parameter_count
    0
    """

    rank = 3
