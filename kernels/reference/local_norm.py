"""Normalization by what stands near: neighbouring channels (local response) or pixels (local contrast).

Local response, x and y (M, C), a window of channels from c - before to c + after, cut at the ends:

    y[c] = x[c] / s[c]^mu     s[c] = kappa + lam * sum_j x[j]^2
    dx[i] = dy[i] / s[i]^mu - 2 * lam * mu * x[i] * sum of dy[c] * x[c] / s[c]^(mu + 1) over the windows that hold i

Local contrast, x and y (N, H, W, C), with G the mean by Gaussian weights over a window of pixels and over all channels:

    v = x - G x                     (subtract)
    y = v / max(D, mean of D, eps)  (divide)     D = sqrt(G v^2), deviation (N, H, W)

The weights come as tables (H, T) and (W, T), T odd: row h holds the weights of pixels h - T // 2 to h + T // 2, which
sum to 1 over those inside the image. Means are taken around a number that the image has in common, its mean nearest to
0 (0 where they have both signs): of a flat image nothing is left, however bright it is. Sources: Krizhevsky 2012;
Jarrett, Kavukcuoglu, Ranzato, LeCun 2009.
"""

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array

SMALL_FACTOR = 2.0**-600  # the squares of all float64 times it are finite


def _window_sums(a: Array, before: int, after: int) -> Array:
    """Return the sums of a (M, C) over channels c - before to c + after."""
    C, total = a.shape[1], np.zeros_like(a)
    for offset in range(-min(before, C - 1), min(after, C - 1) + 1):
        first, stop = max(0, -offset), min(C, C - offset)
        total[:, first:stop] += a[:, first + offset : stop + offset]
    return total


def local_response_forward(x: Array, before: int, after: int, kappa: float, lam: float, mu: float, y: Array) -> None:
    """Fill y (M, C)."""
    wide = x.astype(np.float64)
    y[...] = wide * (kappa + lam * _window_sums(wide**2, before, after)) ** -mu


def local_response_backward_input(
    x: Array, dy: Array, before: int, after: int, kappa: float, lam: float, mu: float, dx: Array
) -> None:
    """Fill dx (M, C)."""
    wide, given = x.astype(np.float64), dy.astype(np.float64)
    s = kappa + lam * _window_sums(wide**2, before, after)
    shared = _window_sums(given * wide * s ** (-mu - 1), after, before)
    dx[...] = given * s**-mu - 2 * lam * mu * wide * shared


def _matrix(weights: Array) -> Array:
    """Return a table of weights (H, T) as the matrix (H, H) of the mean along an axis."""
    size, taps = weights.shape
    full = np.zeros((size, size + taps - 1))
    for h in range(size):
        full[h, h : h + taps] = weights[h]
    return full[:, taps // 2 : taps // 2 + size]


def _blur(planes: Array, down: Array, across: Array) -> Array:
    """Return the weighted means of planes (N, H, W) by matrices (H, H) and (W, W)."""
    blurred: Array = down @ planes @ across.T
    return blurred


def _deviation(v: Array, down: Array, across: Array) -> Array:
    """Return sqrt(G v^2), of smaller numbers where squares overflow."""
    squares = _blur(np.square(v).mean(3), down, across)
    small = _blur(np.square(v * SMALL_FACTOR).mean(3), down, across)
    deviation: Array = np.where(squares < np.inf, np.sqrt(squares), np.sqrt(small) / SMALL_FACTOR)
    return deviation


def local_contrast_forward(
    x: Array,
    weights_h: Array,
    weights_w: Array,
    subtract: bool,
    divide: bool,
    eps: float,
    y: Array,
    deviation: Array,
) -> None:
    """Fill y (N, H, W, C), and deviation with D where it divides, else with 0."""
    down, across, v = _matrix(weights_h), _matrix(weights_w), x.astype(np.float64)
    deviation[...] = 0
    if subtract and v.size:
        means = v[..., 0] + (v - v[..., :1]).mean(3)
        low, high = (end((1, 2), keepdims=True) for end in (means.min, means.max))
        shift = np.where(low > 0, low, np.where(high < 0, high, 0))
        v = (v - shift[..., None]) - _blur(means - shift, down, across)[..., None]
    if divide:
        spread = _deviation(v, down, across)
        deviation[...] = spread
        v = v / np.maximum(np.maximum(spread, spread.mean((1, 2), keepdims=True)), eps)[..., None]
    y[...] = v


def local_contrast_backward_input(
    y: Array,
    deviation: Array,
    dy: Array,
    weights_h: Array,
    weights_w: Array,
    subtract: bool,
    divide: bool,
    eps: float,
    dx: Array,
) -> None:
    """Fill dx; where D is 0, so is its gradient."""
    up, back, dv = _matrix(weights_h).T, _matrix(weights_w).T, dy.astype(np.float64)
    C = y.shape[3]
    if divide:
        spread = deviation.astype(np.float64)
        average = spread.mean((1, 2), keepdims=True)
        divisor = np.maximum(np.maximum(spread, average), eps)
        by_divisor = -(dy.astype(np.float64) * y).sum(3) / divisor
        own = (spread > average) & (spread > eps)
        by_average = np.where(~own & (average > eps), by_divisor, 0).mean((1, 2), keepdims=True)
        by_spread = np.where(own, by_divisor, 0) + by_average
        by_square = np.where(spread > 0, by_spread / (2 * np.where(spread > 0, spread, 1)), 0)
        v = y * divisor[..., None]
        dv = dv / divisor[..., None] + 2 / C * v * _blur(by_square, up, back)[..., None]
    if subtract:
        dv = dv - _blur(dv.sum(3), up, back)[..., None] / C
    dx[...] = dv
