"""Normalization by mean and variance: of a batch's channels, an image's groups of channels, or rows.

    x, y, dy, dx (N, L, C)   groups G of E = C / G channels   mean, variance (N, G)   gamma, beta (C,)

    y = gamma * xhat + beta     xhat = (x - mean) / sqrt(variance + eps)

Mean and biased variance run over the L pixels of image n and the E channels of group g. Batch normalization is N = 1,
the pixels of all images, and G = C; instance normalization is G = C. Layer normalization takes rows x (M, F), with
mean and variance (M,), gamma and beta (F,).

With m = L * E numbers to a mean and dxhat = gamma * dy, the gradients through mean and variance are
    dx = (dxhat - sum(dxhat) / m - xhat * sum(dxhat * xhat) / m) / sqrt(variance + eps)
    dgamma = sum(dy * xhat)     dbeta = sum(dy)

Statistics are in float64 whatever the dtype of x.
Sources: Ioffe and Szegedy 2015; Ba, Kiros, Hinton 2016; Ulyanov, Vedaldi, Lempitsky 2016; Wu and He 2018.
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array

Statistics = npt.NDArray[np.float64]

Norm = tuple[Array, Array, Array, Statistics, Statistics, float, tuple[float, float]]
"""A normalization: its input x, gamma, beta, mean and variance (1, C), eps, and between what it brings its output."""

UNBOUNDED = (-math.inf, math.inf)


def _groups(x: Array, groups: int) -> Array:
    """Return x (N, L, C) in float64 as (N, L, G, E)."""
    N, L, C = x.shape
    return x.astype(np.float64).reshape(N, L, groups, C // groups)


def measure(x: Array, axes: tuple[int, ...], mean: Statistics, variance: Statistics) -> None:
    """Fill mean and biased variance over some axes; both are 0 where there is nothing to measure.

    They are taken around the first number, so that what is constant has no deviation, however large it is.
    """
    if x.size == 0:
        mean[...], variance[...] = 0, 0
        return
    first = x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(x.ndim))]
    off = x - first
    rest = off.mean(axes, keepdims=True)
    mean[...] = (first + rest).reshape(mean.shape)
    variance[...] = np.square(off - rest).mean(axes).reshape(variance.shape)


def group_norm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    groups: int,
    eps: float,
    y: Array,
    mean: Statistics,
    variance: Statistics,
    residual: Array | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> None:
    """Fill y, and the mean and biased variance of every group of every image.

    y is the normalized x, plus `residual` (of any shape of as many elements) if there is one, brought between `bounds`.
    """
    grouped = _groups(x, groups)
    measure(grouped, (1, 3), mean, variance)
    xhat = (grouped - mean[:, None, :, None]) / np.sqrt(variance + eps)[:, None, :, None]
    _finish(xhat.reshape(x.shape) * gamma + beta, residual, bounds, y)


def _finish(normalized: Array, residual: Array | None, bounds: tuple[float, float], y: Array) -> None:
    """Fill y with the normalized x, plus `residual`, brought between `bounds`."""
    y[...] = normalized
    if residual is not None:
        y += residual.reshape(y.shape)
    np.clip(y, *bounds, out=y)


Behind: TypeAlias = tuple[Array | None, Array | None, tuple[float, float], Statistics | None]
NOTHING: Behind = (None, None, UNBOUNDED, None)


def group_norm_backward(
    x: Array,
    dy: Array,
    gamma: Array,
    mean: Statistics,
    variance: Statistics,
    groups: int,
    eps: float,
    constant: bool,
    dx: Array | None,
    dgamma: Array,
    dbeta: Array,
    behind: Behind = NOTHING,
) -> None:
    """Fill dx (unless it is None), dgamma and dbeta; `constant` statistics do not depend on x.

    `behind` = (beta, y, bounds, sums) tells what follows the normalization: behind `bounds` the gradient is dy
    where they let the value pass, as they do NaN: told by y, if it is given, and then left in dy, which is the
    residual's gradient; else by x, with `beta`. `sums` (2, C), of a single image whose channels are groups of their
    own, are those of the gradient behind the bounds and of it times x - shift, where somebody took them already:
    what follows from sums follows from these.
    """
    beta, y, bounds, sums = behind
    deviation = np.sqrt(variance + eps)[:, None, :, None]
    xhat = (_groups(x, groups) - mean[:, None, :, None]) / deviation
    low, high = bounds
    if y is not None:
        own = y.reshape(x.shape)
        dy[(own <= low) | (own >= high)] = 0
    elif beta is not None:
        own = (xhat.reshape(x.shape) * gamma + beta).astype(x.dtype)
        dy = np.where((own <= low) | (own >= high), 0, dy)
    given, along = dy.sum(1, dtype=np.float64), (dy * xhat.reshape(x.shape)).sum(1)
    if sums is not None:
        off = mean - mean.astype(x.dtype)
        given, along = sums[:1], (sums[1:] - off * sums[:1]) / deviation[:, 0, :, 0]
    dgamma[...], dbeta[...] = along.sum(0), given.sum(0)
    if dx is None:
        return
    dxhat = _groups(dy * gamma.astype(np.float64), groups)
    if not constant:
        count = max(1, x.shape[1] * (x.shape[2] // groups))
        shared, tilt = (_groups((total * gamma)[:, None], groups).sum(3, keepdims=True) for total in (given, along))
        dxhat = dxhat - shared / count - xhat * tilt / count
    dx[...] = (dxhat / deviation).reshape(x.shape)


def fixed_norm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    eps: float,
    y: Array,
    residual: Array | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> None:
    """Fill y (M, C) by statistics (C,) that are given: inference from running means; the rest as above."""
    scale = gamma / np.sqrt(variance.astype(np.float64) + eps)
    _finish((x - mean.astype(np.float64)) * scale + beta, residual, bounds, y)


def fold_norm(
    w: Array,
    b: Array | None,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    eps: float,
    folded: Array,
    bias: Array,
) -> None:
    """Fill `folded` (T, K) and `bias` (K,): filters w (T, K) plus b, and the normalization after them, as one map.

    gamma * (w x + b - mean) / sqrt(variance + eps) + beta = folded x + bias
    """
    scale = gamma / np.sqrt(variance.astype(np.float64) + eps)
    folded[...] = w * scale
    bias[...] = ((0 if b is None else b) - mean.astype(np.float64)) * scale + beta


def layer_norm_forward(
    x: Array, gamma: Array, beta: Array, eps: float, y: Array, mean: Statistics, variance: Statistics
) -> None:
    """Fill y (M, F), and the mean and biased variance of every row."""
    rows = x.astype(np.float64)
    measure(rows, (1,), mean, variance)
    y[...] = (rows - mean[:, None]) / np.sqrt(variance + eps)[:, None] * gamma + beta


def layer_norm_backward(
    x: Array,
    dy: Array,
    gamma: Array,
    mean: Statistics,
    variance: Statistics,
    eps: float,
    dx: Array,
    dgamma: Array,
    dbeta: Array,
) -> None:
    """Fill dx (M, F), dgamma and dbeta (F,)."""
    deviation = np.sqrt(variance + eps)[:, None]
    xhat = (x - mean[:, None]) / deviation
    dgamma[...] = (dy * xhat).sum(0)
    dbeta[...] = dy.sum(0, dtype=np.float64)
    dxhat = dy * gamma.astype(np.float64)
    count = max(1, x.shape[1])
    shared = dxhat.sum(1, keepdims=True) / count
    along = (dxhat * xhat).sum(1, keepdims=True) / count
    dx[...] = (dxhat - shared - xhat * along) / deviation


def update_running(
    mean: Statistics, variance: Statistics, count: int, momentum: float | None, batches: Array, running_mean: Array,
    running_var: Array,
) -> None:  # fmt: skip
    """Move running statistics (C,) by `momentum` towards those of a batch (N, C), the images' average; count batches.

    Without a momentum (None) they become the averages of all batches. The variance is taken unbiased, by the factor
    count / (count - 1) for the `count` numbers of each mean.
    """
    batches += 1
    momentum = 1 / float(batches[0]) if momentum is None else momentum
    unbiased = variance.mean(0) * (count / max(count - 1, 1))
    running_mean[...] = (1 - momentum) * running_mean + momentum * mean.mean(0)
    running_var[...] = (1 - momentum) * running_var + momentum * unbiased
