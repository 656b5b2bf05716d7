"""The gradients of normalization over groups of channels; `norm.py` is the way forward, `reference/norm.py` defines."""

import math

import numpy as np

from fastcnn.kernels.cpu.channel_sums import (
    SMALL,
    UNBOUNDED,
    cut,
    enough_images,
    fold,
    product_chunk,
    set_factors,
    sum_products,
    widen,
    within,
    workspace,
)
from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel


@jit(inner=True)
def mask_run(dy, y, at, count, low, high):
    """Set those of `count` elements of dy from `at` to 0 whose y lies at a bound."""
    for i in range(at, at + count):
        dy[np.uintp(i)] = within(dy[np.uintp(i)], y[np.uintp(i)], low, high)


@jit(inner=True)
def measure_gradient(task, thread, x, dy, gamma, beta, mean, variance, eps, after, cuts, parts):
    """Fill parts[task] with each channel's sums of dy and dy * (x - shift) over one chunk, dy behind the clip."""
    (_, L, C), (pixels, chunks, W) = x.shape, cuts
    n, first = task // chunks, task % chunks * pixels
    count, at = min(pixels, L - first) * C, (n * L + first) * C
    wide, part, flat = np.empty((5, W), x.dtype), parts[task], dy.reshape(-1)
    set_factors(gamma, beta, eps, mean[n], variance[n], wide)
    y, masks, low, high = after
    if masks:
        mask_run(flat, y.reshape(-1), at, count, low, high)
        low, high = type(low)(-np.inf), type(low)(np.inf)
    product_chunk(x.reshape(-1), flat, at, count, W, wide, low, high, wide[3], wide[4])
    fold(wide[3], C, part[0])
    fold(wide[4], C, part[1])


@jit(inner=True)
def join_gradient(n, thread, gamma, beta, mean, variance, eps, constant, L, cuts, parts, factors):
    """Gather image n's sums of dy and dy * xhat in its first part, and fill the factors of its wide rows.

    dx = dy * scale - ((x - shift) * slope + offset), where clip let (x - shift) * scale + lift pass
    """
    (_, chunks, _), C, G, kind = cuts, gamma.size, mean.shape[1], factors.dtype.type
    E, own, made = C // G, parts[n * chunks], factors[n]
    given, along = own[0], own[1]
    for chunk in range(1, chunks):
        part, products = parts[n * chunks + chunk, 0], parts[n * chunks + chunk, 1]
        for c in range(C):
            given[np.uintp(c)] += part[np.uintp(c)]
            along[np.uintp(c)] += products[np.uintp(c)]
    shifts, scales, lifts, slopes, offsets = made[0], made[1], made[2], made[3], made[4]
    for g in range(G):
        shift, inverse = kind(mean[n, g]), 1 / math.sqrt(variance[n, g] + eps)
        rest = mean[n, g] - np.float64(shift)
        for c in range(g * E, g * E + E):
            along[np.uintp(c)] = (along[np.uintp(c)] - rest * given[np.uintp(c)]) * inverse
        plain, tilted = sum_products(gamma, given, g * E, E), sum_products(gamma, along, g * E, E)
        share_of = 0.0 if constant else inverse / (L * E)
        slope = tilted * inverse * share_of
        for c in range(g * E, g * E + E):
            shifts[np.uintp(c)] = shift
            scale = gamma[np.uintp(c)] * inverse
            scales[np.uintp(c)] = scale
            lifts[np.uintp(c)] = beta[np.uintp(c)] - rest * scale
            slopes[np.uintp(c)] = slope
            offsets[np.uintp(c)] = plain * share_of - rest * slope
    for i in range(5):
        widen(made[i], C)


@jit(inner=True)
def gradient_rows(x, dy, at, count, W, factors, low, high, dx):
    """Fill `count` elements of dx from `at`, in rows of W."""
    shift, scale, lift, slope, offset = factors[0], factors[1], factors[2], factors[3], factors[4]
    for row in range(at, at + count, W):
        for i in range(min(W, at + count - row)):
            near = x[np.uintp(row + i)] - shift[np.uintp(i)]
            taken = near * slope[np.uintp(i)] + offset[np.uintp(i)]
            passed = near * scale[np.uintp(i)] + lift[np.uintp(i)]
            dx[np.uintp(row + i)] = within(dy[np.uintp(row + i)], passed, low, high) * scale[np.uintp(i)] - taken


@jit(inner=True)
def gradient_chunk(task, thread, x, dy, after, cuts, factors, dx):
    """Fill one chunk of dx, the last one first."""
    (N, L, C), (pixels, chunks, W) = x.shape, cuts
    task = N * chunks - 1 - task
    n, first = task // chunks, task % chunks * pixels
    at, count = (n * L + first) * C, min(pixels, L - first) * C
    _, masks, low, high = after
    if masks:  # dy is masked already
        low, high = type(low)(-np.inf), type(low)(np.inf)
    gradient_rows(x.reshape(-1), dy.reshape(-1), at, count, W, factors[n], low, high, dx.reshape(-1))


@jit(inner=True)
def gradient_image(
    n, thread, x, dy, gamma, beta, mean, variance, eps, constant, wanted, after, cuts, parts, factors, dx
):
    """Take image n through all steps of the way back."""
    N, chunks = x.shape[0], cuts[1]
    for chunk in range(n * chunks, n * chunks + chunks):
        measure_gradient(chunk, thread, x, dy, gamma, beta, mean, variance, eps, after, cuts, parts)
    join_gradient(n, thread, gamma, beta, mean, variance, eps, constant, x.shape[1], cuts, parts, factors)
    for task in range((N - 1 - n) * chunks, (N - n) * chunks if wanted else 0):
        gradient_chunk(task, thread, x, dy, after, cuts, factors, dx)


@jit
def normalize_backward(
    team, x, dy, gamma, beta, mean, variance, eps, constant, wanted, after, cuts, parts, factors, dx, dgamma, dbeta
):
    """Do `group_norm_backward`."""
    (N, L, C), chunks = x.shape, cuts[1]
    how = gamma, beta, mean, variance, eps
    if enough_images(N, team[0]):
        share(team, N, gradient_image, (x, dy, *how, constant, wanted, after, cuts, parts, factors, dx))
    else:
        share(team, N * chunks, measure_gradient, (x, dy, *how, after, cuts, parts))
        share(team, N, join_gradient, (*how, constant, L, cuts, parts, factors))
        share(team, N * chunks if wanted else 0, gradient_chunk, (x, dy, after, cuts, factors, dx))
    sums = np.zeros((2, C), np.float64)
    for n in range(N):
        given, along = parts[n * chunks, 0], parts[n * chunks, 1]
        for c in range(C):
            sums[0, c] += given[c]
            sums[1, c] += along[c]
    for c in range(C):
        dbeta[c] = sums[0, c]
        dgamma[c] = sums[1, c]


def group_norm_backward(
    x, dy, gamma, mean, variance, groups, eps, constant, dx, dgamma, dbeta, beta=None, y=None, bounds=UNBOUNDED
):
    """Fill dx (unless it is None), dgamma and dbeta; `constant` statistics do not depend on x.

    Behind `bounds` the gradient is dy where they let the value pass: told by y, if it is given, and then left in dy,
    which is the residual's gradient; else by x, with `beta`.
    """
    (N, L, C), wanted = x.shape, dx is not None
    if x.size == 0:
        dgamma[...], dbeta[...] = 0, 0
        return
    cuts = cut(L, C)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    low, high = map(x.dtype.type, bounds)
    after = x if y is None else y.reshape(x.shape), y is not None, low, high
    how = gamma, gamma if beta is None else beta, mean, variance, float(eps), bool(constant), wanted, after
    call_parallel(
        x.size > SMALL, normalize_backward, x, dy, *how, cuts, parts, factors, dx if wanted else x, dgamma, dbeta
    )
