"""Normalization of numbers whose squares, or the factors of them, leave float32's range: the same sums in float64.

The fast loops compute in the dtype of x. Where their sums are not finite, or the variance is so large that the factors
made of it vanish, what is here does a channel, a row or a chunk once more, a number at a time. What it is asked for is
rare, and what asks looks at sums and statistics only.

Sums of float64 have no wider type to go to: a variance beyond 1e308 is infinite, and what it scales 0, as in PyTorch.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit

# Variances from which float32 loses something: x - mean near its end or 1 / deviation near its start; and, on the way
# back, the factor 1 / variance over the count.
LARGE, LARGE_BACK = 1e60, 1e24
LARGE_SUM = 1e30  # of a gradient, or of its products


@jit(inner=True)
def is_finite(a):
    """Say whether a number is finite."""
    return abs(a) < math.inf


@jit(inner=True)
def any_above(values, limit):
    """Say whether one of some numbers is larger; NaN is not."""
    found = False
    for i in range(values.size):
        found |= values[np.uintp(i)] > limit
    return found


@jit(inner=True)
def any_wide_sum(sums):
    """Say whether one of some sums of gradients is so large that its products may not be finite."""
    found = False
    for i in range(sums.size):
        found |= not abs(sums[np.uintp(i)]) < LARGE_SUM
    return found


@jit(inner=True)
def is_wide_row(variance, total, product):
    """Say whether a row's way back, of these sums of dy * gamma and of it times x - shift, leaves float32's range."""
    return (variance > LARGE_BACK) | (not abs(total) < LARGE_SUM) | (not abs(product) < LARGE_SUM)


@jit(inner=True)
def any_not_finite(values):
    """Say whether one of some numbers is infinite or NaN."""
    found = False
    for i in range(values.size):
        found |= not abs(values[np.uintp(i)]) < math.inf
    return found


@jit(inner=True)
def measure_wide(x, at, count, step):
    """Return the mean of `count` numbers, `step` apart from `at`, and their sum of squares around it.

    They are measured around the first, so that what is constant has no deviation.
    """
    first, total = np.float64(x[at]), 0.0
    for i in range(count):
        total += np.float64(x[at + i * step]) - first
    rough, rest, square = first + total / count, 0.0, 0.0
    for i in range(count):
        off = np.float64(x[at + i * step]) - rough
        rest += off
        square += off * off
    around = square - rest * rest / count
    return rough + rest / count, max(around, 0.0) if around == around else np.nan


@jit(inner=True)
def clipped(value, low, high):
    """Return a number brought between bounds; NaN stays."""
    value = low if value < low else value
    return high if value > high else value


@jit(inner=True)
def scale_wide(n, job, begin, pixels):
    """Fill some pixels of image n of y, as `scale_chunk` does, from element `begin` on."""
    x, y, gamma, beta, mean, variance = job.x, job.y, job.gamma, job.beta, job.mean[n], job.variance[n]
    x, y, (residual, adds, bounds) = x.reshape(-1), y.reshape(-1), job.after
    residual, low, high, C, G = residual.reshape(-1), bounds[0], bounds[1], gamma.size, mean.size
    for c in range(C):
        g = c // (C // G)
        inverse = gamma[c] / math.sqrt(variance[g] + job.eps)
        for i in range(begin + c, begin + pixels * C, C):
            value = y.dtype.type((np.float64(x[i]) - mean[g]) * inverse + beta[c])
            y[i] = clipped(value + residual[i] if adds else value, low, high)


@jit(inner=True)
def product_wide(x, dy, at, count, step, affine, shift, by_x, low, high):
    """Return the sums of dy and of dy * (x - shift), as `measure_gradient` takes them of a channel."""
    mean, scale, lift = affine
    given, along = 0.0, 0.0
    for i in range(at, at + count * step, step):
        made, g = x.dtype.type((np.float64(x[i]) - mean) * scale + lift), np.float64(dy[i])
        g = 0.0 if by_x & ((made <= low) | (made >= high)) else g
        given += g
        along += g * (np.float64(x[i]) - np.float64(shift))
    return given, along


@jit(inner=True)
def gradient_wide(n, job, begin, pixels, sums, by_x):
    """Fill some pixels of image n of dx, as `gradient_chunk` does; sums (2, C) of dy and of dy * xhat."""
    x, dy, dx, L = job.x.reshape(-1), job.dy.reshape(-1), job.dx.reshape(-1), job.x.shape[1]
    gamma, beta, mean, variance, constant = job.gamma, job.beta, job.mean[n], job.variance[n], job.constant
    low, high, C, G = job.bounds[0], job.bounds[1], gamma.size, mean.size
    E = C // G
    for g in range(G):
        inverse, plain, tilted = 1 / math.sqrt(variance[g] + job.eps), 0.0, 0.0
        for c in range(g * E, 0 if constant else g * E + E):
            plain += gamma[c] * sums[0, c] / (L * E)
            tilted += gamma[c] * sums[1, c] / (L * E)
        for c in range(g * E, g * E + E):
            for i in range(begin + c, begin + pixels * C, C):
                xhat, given = (np.float64(x[i]) - mean[g]) * inverse, np.float64(dy[i])
                made = x.dtype.type(xhat * gamma[c] + beta[c])
                given = 0.0 if by_x & ((made <= low) | (made >= high)) else given
                taken = 0.0 if constant else plain + xhat * tilted
                dx[i] = (given * gamma[c] - taken) * inverse


@jit(inner=True)
def scale_row_wide(x, at, count, mean, inverse, gamma, beta, y):
    """Fill a row of y: gamma * (x - mean) * inverse + beta."""
    for i in range(count):
        y[at + i] = (np.float64(x[at + i]) - mean) * inverse * gamma[i] + beta[i]


@jit(inner=True)
def gradient_row_wide(x, dy, at, first, last, gamma, mean, variance, eps, dx, sums):
    """Fill columns `first` to `last` of a row of dx, and add dy * xhat and dy to the two sums."""
    (along, given), F = sums, gamma.size
    inverse, plain, tilted = 1 / math.sqrt(variance + eps), 0.0, 0.0
    for i in range(F):
        g = np.float64(dy[at + i]) * gamma[i] / F
        plain += g
        tilted += g * ((np.float64(x[at + i]) - mean) * inverse)
    for i in range(first, last):
        xhat = (np.float64(x[at + i]) - mean) * inverse
        dx[at + i] = (np.float64(dy[at + i]) * gamma[i] - plain - xhat * tilted) * inverse
        along[i] += dy[at + i] * xhat
        given[i] += dy[at + i]
