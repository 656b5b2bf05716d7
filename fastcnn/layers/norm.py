"""Normalization layers: minus the mean, by the standard deviation, of groups of channels or of rows.

    x (N, C)  (N, W, C)  (N, H, W, C)  (N, D, H, W, C)     y of the same shape     weight, bias (C,)

    y = weight * (x - mean) / sqrt(variance + eps) + bias

    GroupNorm       of a group of channels of one image                      Wu and He 2018
    LayerNorm       of the last axes, whatever stands before them            Ba, Kiros, Hinton 2016

The variance is the biased one, over m, not m - 1. Statistics are taken in float64 around the mean: nothing cancels
where the mean is large. Gradients go through mean and variance. Those of a batch and of an image: `batch_norm.py`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import UNBOUNDED, Adjustable, Bound, Bounds, Call, GradientSums, Layer, Statistics
from fastcnn.shapes import is_number, whole

__all__ = ["GroupNorm", "LayerNorm"]

FLOAT64 = np.dtype(np.float64)


def positive(value: object, name: str) -> float:
    """Return `value` as a float, or refuse what is no finite number above 0."""
    if not is_number(value) or not value > 0:
        raise ArgumentError(f"{name}={value!r} was given: it must be a number above 0.")
    return float(value)


def _smoothing(value: object) -> float:
    """Return an eps, or refuse what is no finite number from 0 up."""
    if not is_number(value) or value < 0:
        raise ArgumentError(f"eps={value!r} was given: it must be a number >= 0.")
    return float(value)


class NormLayer(Layer):
    """What all these layers share: eps, and a weight, at first 1, and a bias, at first 0, or neither.

    Parameters
    ----------
    eps
        Added to the variance, a number >= 0.

    Shapes
    ------
    x, y
        (N, ..., C) both, any number of axes.
    """

    reads_back = "x"
    adjustable: ClassVar[Adjustable] = {"eps": _smoothing}

    def __init__(
        self, eps: float, weight_shape: Shape, names: Sequence[str], name: str | None, dtype: DTypeLike, device: str
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.eps: float = eps
        self.weight_shape, self.parameter_names = weight_shape, tuple(names)

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shapes of weight and bias."""
        return dict.fromkeys(self.parameter_names, self.weight_shape)

    def first_values(self, name: str, generator: np.random.Generator) -> Array:
        """Return ones for the weight, zeros for the bias."""
        return np.ones(self.weight_shape) if name == "weight" else np.zeros(self.weight_shape)

    def affine(self, backend: Backend) -> tuple[Array, Array]:
        """Return weight and bias, each in one axis; ones and zeros in place of those that the layer lacks."""
        plain = backend.zeros((2, prod(self.weight_shape)), self.dtype)
        backend.fill(plain[0], 1)
        held = (self.own_params.get("weight"), self.own_params.get("bias"))
        gamma, beta = (plain[i] if mine is None else mine.reshape(-1) for i, mine in enumerate(held))
        return gamma, beta

    def affine_gradients(self, backend: Backend, grads: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return where the kernels put the gradients of weight and bias: memory of no use for those that lack."""
        held = (grads.get("weight"), grads.get("bias"))
        size = prod(self.weight_shape)
        dgamma, dbeta = (backend.empty((size,), self.dtype) if g is None else g.reshape(-1) for g in held)
        return dgamma, dbeta

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        (shape,) = inputs
        self.check_input(shape)
        return shape

    @abstractmethod
    def check_input(self, shape: Shape) -> None:
        """Refuse a shape that does not fit the layer."""


def new_statistics(backend: Backend, images: int, groups: int) -> Statistics:
    """Return where the mean and the variance of some groups of each image will stand."""
    mean, variance = (backend.zeros((images, groups), FLOAT64) for _ in range(2))
    return mean, variance


class GroupedNorm(NormLayer):
    """What the norms of channels and of groups of channels share: their kernels can add and clip what they make."""

    def grouped(
        self,
        backend: Backend,
        xs: Sequence[Array],
        y: Array,
        groups: int,
        shape: Shape,
        bounds: Bounds,
        fixed: bool,
        measured: Statistics | None = None,
        sums: GradientSums | None = None,
    ) -> tuple[Bound, Array, Array]:
        """Return the calls on views of this shape (N, L, C), and the mean and variance (N, groups) that they use.

        y = clip(normalized xs[0] + xs[1], *bounds), where there is an xs[1]. Statistics are those of x, measured here
        or before; or they are `fixed`, and somebody fills them. `sums` come with the gradient by y.
        """
        kernels, (gamma, beta) = backend.norm, self.affine(backend)
        x3, y3, residual = xs[0].reshape(shape), y.reshape(shape), xs[1] if len(xs) > 1 else None
        mean, variance = measured or new_statistics(backend, shape[0], groups)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            dx = None if dxs[0] is None else dxs[0].reshape(shape)
            rule = (gamma, mean, variance, groups, self.eps, fixed, dx, *self.affine_gradients(backend, grads))
            after: tuple[Any, ...] = ()
            if bounds != UNBOUNDED or sums is not None:
                told = None if bounds == UNBOUNDED else beta
                after = ((told, None if residual is None else y3, bounds, None if sums is None else sums[1]),)
            return [(kernels.group_norm_backward, (x3, dy.reshape(shape), *rule, *after))]

        if fixed or measured:
            arguments = (x3[0], gamma, beta, mean[0], variance[0], self.eps, y3[0], residual, bounds)
            return Bound(backward, [(kernels.fixed_norm_forward, arguments)]), mean, variance
        rule = (gamma, beta, groups, self.eps, y3, mean, variance, residual, bounds)
        return Bound(backward, [(kernels.group_norm_forward, (x3, *rule))]), mean, variance

    @abstractmethod
    def bind(
        self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True, bounds: Bounds = UNBOUNDED
    ) -> Bound:
        """Return the calls; a second x is added to what is normalized, and the sum brought between bounds."""


class GroupNorm(GroupedNorm):
    """Group normalization (Wu and He 2018) of arrays (N, ..., C), with PyTorch's arguments and defaults.

    The channels of an image are normalized in groups of neighbours, each over its channels and pixels.

    Parameters
    ----------
    num_groups
        How many groups; it divides num_channels.
    num_channels
        C, the channels.
    affine
        Whether a `weight` and a `bias` are learned.

    Attributes
    ----------
    params["weight"], params["bias"]
        (C,) each, at first 1 and 0, if `affine`.

    >>> GroupNorm(8, 32).output_shape((14, 14, 32))
    (14, 14, 32)
    """

    kind = "group_norm"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        self.num_groups = whole(num_groups, 1, "num_groups")
        self.num_channels = whole(num_channels, 1, "num_channels")
        if self.num_channels % self.num_groups:
            raise ArgumentError(
                f"GroupNorm got num_channels={num_channels}, which num_groups={num_groups} does not divide: "
                "choose a number of groups that divides it."
            )
        names = ("weight", "bias") if affine else ()
        super().__init__(eps, (self.num_channels,), names, name, dtype, device)
        self.has_affine = bool(affine)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "num_groups": self.num_groups,
            "num_channels": self.num_channels,
            "eps": self.eps,
            "affine": self.has_affine,
        }

    def check_input(self, shape: Shape) -> None:
        """Refuse another number of channels."""
        if not shape or shape[-1] != self.num_channels:
            fitting = (*shape[1:], self.num_channels)
            raise self.refuse(shape, f"(..., C) with C = {self.num_channels}", fitting)

    def bind(
        self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True, bounds: Bounds = UNBOUNDED
    ) -> Bound:
        """Return the calls; training and prediction are the same."""
        shape = (y.shape[0], prod(y.shape[1:-1]), self.num_channels)
        return self.grouped(backend, xs, y, self.num_groups, shape, bounds, fixed=False)[0]


class LayerNorm(NormLayer):
    """Layer normalization (Ba, Kiros, Hinton 2016) over the last axes, with PyTorch's arguments and defaults.

    Parameters
    ----------
    normalized_shape
        The last axis' size, or the sizes of several last axes; channels last, LayerNorm(C) normalizes every pixel over
        its channels.
    elementwise_affine
        Whether a `weight` is learned, and perhaps a `bias`.
    bias
        Whether a bias is learned beside the weight.

    Attributes
    ----------
    params["weight"], params["bias"]
        Of the normalized shape, at first 1 and 0.

    >>> LayerNorm((7, 7, 64)).parameter_count
    6272
    >>> LayerNorm(2, device="reference").forward(np.array([[0.0, 4.0]])).round(3)
    array([[-1.,  1.]])
    """

    kind = "layer_norm"

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        axes = list(normalized_shape) if isinstance(normalized_shape, list | tuple) else [normalized_shape]
        if not axes:
            raise ArgumentError("normalized_shape=() was given: give the sizes of the last axes, at least of one.")
        self.normalized_shape = tuple(whole(axis, 1, "normalized_shape") for axis in axes)
        names = ("weight", "bias")[: 2 if bias else 1] if elementwise_affine else ()
        super().__init__(eps, self.normalized_shape, names, name, dtype, device)
        self.has_affine, self.has_bias = bool(elementwise_affine), bool(bias)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "normalized_shape": self.normalized_shape,
            "eps": self.eps,
            "elementwise_affine": self.has_affine,
            "bias": self.has_bias,
        }

    def check_input(self, shape: Shape) -> None:
        """Refuse other last axes."""
        axes = self.normalized_shape
        if shape[-len(axes) :] != axes:
            raise self.refuse(shape, f"{axes} as its last axes", axes)

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; training and prediction are the same."""
        F = prod(self.normalized_shape)
        shape = (y.shape[0] * prod(y.shape[1:]) // F, F)
        kernels, (gamma, beta) = backend.norm, self.affine(backend)
        mean, variance = (backend.zeros(shape[:1], FLOAT64) for _ in range(2))
        x2 = xs[0].reshape(shape)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            dx = backend.empty(shape, self.dtype) if dxs[0] is None else dxs[0].reshape(shape)
            how = (gamma, mean, variance, self.eps, dx, *self.affine_gradients(backend, grads))
            return [(kernels.layer_norm_backward, (x2, dy.reshape(shape), *how))]

        arguments = (x2, gamma, beta, self.eps, y.reshape(shape), mean, variance)
        return Bound(backward, [(kernels.layer_norm_forward, arguments)])
