"""Normalization by mean and variance, of channels or groups of channels: the definition is in `reference/norm.py`.

Rows (layer normalization) are in `row_norm.py`.

Arrays: x, y, dy, dx (N, L, C), groups G, mean and variance (N, G) in float64, gamma and beta (C,).

The pixels of an image are cut into chunks that stay in cache. A chunk is read twice: first for a rough mean of each
channel, then for the exact sums around it, so that nothing cancels where the mean is large beside the deviation. The
chunks' means and squares are joined in float64 (Chan, Golub, LeVeque 1983). Where there are images enough for all
threads, one task takes an image through all steps while the caches hold it; else the steps are shared one by one.
Chunks and their order depend on the shape alone, so both ways give the same bits.

What follows the normalization goes along: y = clip(normalized x + residual, low, high), a sum and ReLU or ReLU6 in one.

A row of few channels is too short for vectors: several pixels are taken as one wide row of W = C * copies elements.
"""

import numpy as np

from fastcnn.kernels.cpu.channel_sums import (
    SMALL,
    UNBOUNDED,
    cut,
    enough_images,
    fold,
    set_factors,
    square_chunk,
    sum_chunk,
    sum_run,
    widen,
    workspace,
)
from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.norm_gradient import group_norm_backward
from fastcnn.kernels.cpu.row_norm import apart, layer_norm_backward, layer_norm_forward
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel

__all__ = [
    "fixed_norm_forward", "group_norm_backward", "group_norm_forward", "layer_norm_backward", "layer_norm_forward",
    "update_running",
]  # fmt: skip


@jit(inner=True)
def measure_chunk(task, thread, x, cuts, parts):
    """Fill parts[task] with each channel's mean and sum of squared deviations over one chunk."""
    (_, L, C), (pixels, chunks, W) = x.shape, cuts
    n, first = task // chunks, task % chunks * pixels
    count, at, flat = min(pixels, L - first), (n * L + first) * C, x.reshape(-1)
    wide, part = np.empty((3, W), x.dtype), parts[task]
    shift, total, square = wide[0], wide[1], wide[2]
    mean, around = part[0], part[1]
    shift[:C] = flat[at : at + C]
    widen(shift, C)
    sum_chunk(flat, at, count * C, W, shift, total)
    fold(total, C, mean)
    for c in range(C):
        shift[c] += x.dtype.type(mean[c] / count)
    widen(shift, C)
    square_chunk(flat, at, count * C, W, shift, total, square)
    fold(total, C, mean)
    fold(square, C, around)
    for c in range(C):
        off = mean[c] / count
        around[c] = max(around[c] - off * mean[c], 0.0) if around[c] == around[c] else np.nan
        mean[c] = np.float64(shift[c]) + off


@jit(inner=True, reorder=True)
def join_channels(centre, around, at, count, mean, L):
    """Return the sum of squares around the mean of a group's channels, each with its own centre."""
    total = 0.0
    for i in range(count):
        off = apart(centre[np.uintp(at + i)], mean)
        total += around[np.uintp(at + i)] + L * off * off
    return total


@jit(inner=True)
def join_chunks(n, thread, gamma, beta, eps, L, cuts, parts, mean, variance, factors):
    """Fill the statistics of image n, and the factors (shift, scale, offset) of its wide rows.

    y = (x - shift) * scale + offset, where the shift is the mean rounded: x - shift is exact near the mean.
    """
    (pixels, chunks, _), C, G = cuts, gamma.size, mean.shape[1]
    E, joined = C // G, np.zeros((2, C), np.float64)
    centre, around = joined[0], joined[1]
    for chunk in range(chunks):
        part, share_of = parts[n * chunks + chunk, 0], min(pixels, L - chunk * pixels) / L
        for c in range(C):
            centre[np.uintp(c)] += share_of * part[np.uintp(c)]
    for chunk in range(chunks):
        part, squares = parts[n * chunks + chunk, 0], parts[n * chunks + chunk, 1]
        count = float(min(pixels, L - chunk * pixels))
        for c in range(C):
            off = part[np.uintp(c)] - centre[np.uintp(c)]
            around[np.uintp(c)] += squares[np.uintp(c)] + count * off * off
    for g in range(G):
        mean[n, g] = centre[g] if E == 1 else sum_run(centre, g * E, E) / E
        variance[n, g] = around[g] / L if E == 1 else join_channels(centre, around, g * E, E, mean[n, g], L) / (E * L)
    set_factors(gamma, beta, eps, mean[n], variance[n], factors[n])


@jit(inner=True)
def clip(value, low, high):
    """Return the value brought between the bounds; NaN stays."""
    raised = low if value < low else value
    return high if raised > high else raised


@jit(inner=True)
def scale_rows(x, at, count, W, shift, scale, offset, low, high, y):
    """Fill `count` elements of y from `at`: clip((x - shift) * scale + offset), in rows of W."""
    for row in range(at, at + count, W):
        for i in range(min(W, at + count - row)):
            near = x[np.uintp(row + i)] - shift[np.uintp(i)]
            y[np.uintp(row + i)] = clip(near * scale[np.uintp(i)] + offset[np.uintp(i)], low, high)


@jit(inner=True)
def scale_and_add_rows(x, residual, at, count, W, shift, scale, offset, low, high, y):
    """Fill `count` elements of y from `at`: clip((x - shift) * scale + offset + residual), in rows of W."""
    for row in range(at, at + count, W):
        for i in range(min(W, at + count - row)):
            near = x[np.uintp(row + i)] - shift[np.uintp(i)]
            own = near * scale[np.uintp(i)] + offset[np.uintp(i)]
            y[np.uintp(row + i)] = clip(own + residual[np.uintp(row + i)], low, high)


@jit(inner=True)
def scale_chunk(task, thread, x, cuts, factors, after, y):
    """Fill one chunk of y; the last task takes the first chunk, for the caches still hold the end of x."""
    (N, L, C), (pixels, chunks, W) = x.shape, cuts
    task = N * chunks - 1 - task
    n, first = task // chunks, task % chunks * pixels
    at, count, made = (n * L + first) * C, min(pixels, L - first) * C, factors[n]
    residual, adds, low, high = after
    if adds:
        flat = x.reshape(-1), residual.reshape(-1)
        scale_and_add_rows(flat[0], flat[1], at, count, W, made[0], made[1], made[2], low, high, y.reshape(-1))
    else:
        scale_rows(x.reshape(-1), at, count, W, made[0], made[1], made[2], low, high, y.reshape(-1))


@jit(inner=True)
def normalize_image(n, thread, x, gamma, beta, eps, cuts, parts, mean, variance, factors, after, y):
    """Take image n through all steps."""
    N, chunks = x.shape[0], cuts[1]
    for chunk in range(n * chunks, n * chunks + chunks):
        measure_chunk(chunk, thread, x, cuts, parts)
    join_chunks(n, thread, gamma, beta, eps, x.shape[1], cuts, parts, mean, variance, factors)
    for task in range((N - 1 - n) * chunks, (N - n) * chunks):
        scale_chunk(task, thread, x, cuts, factors, after, y)


@jit
def normalize(team, x, gamma, beta, eps, cuts, parts, mean, variance, factors, after, y):
    """Do `group_norm_forward`."""
    N, L, _ = x.shape
    if enough_images(N, team[0]):
        share(team, N, normalize_image, (x, gamma, beta, eps, cuts, parts, mean, variance, factors, after, y))
        return
    share(team, N * cuts[1], measure_chunk, (x, cuts, parts))
    share(team, N, join_chunks, (gamma, beta, eps, L, cuts, parts, mean, variance, factors))
    share(team, N * cuts[1], scale_chunk, (x, cuts, factors, after, y))


@jit
def scale_all(team, x, gamma, beta, eps, cuts, mean, variance, factors, after, y):
    """Do `fixed_norm_forward`."""
    set_factors(gamma, beta, eps, mean, variance, factors[0])
    share(team, cuts[1], scale_chunk, (x, cuts, factors, after, y))


def after_norm(x, residual, bounds):
    """Return what follows the normalization of x as kernels take it: (residual, whether there is one, low, high)."""
    low, high = map(x.dtype.type, bounds)
    return x if residual is None else residual.reshape(x.shape), residual is not None, low, high


def group_norm_forward(x, gamma, beta, groups, eps, y, mean, variance, residual=None, bounds=UNBOUNDED):
    """Fill y, and the mean and biased variance of every group of every image.

    y is the normalized x, plus `residual` (of any shape of as many elements) if there is one, brought between `bounds`.
    """
    N, L, C = x.shape
    if x.size == 0:
        mean[...], variance[...] = 0, 0
        return
    cuts = cut(L, C)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    how = float(eps), cuts, parts, mean, variance, factors, after_norm(x, residual, bounds), y
    call_parallel(x.size > SMALL, normalize, x, gamma, beta, *how)


def fixed_norm_forward(x, gamma, beta, mean, variance, eps, y, residual=None, bounds=UNBOUNDED):
    """Fill y (M, C) by statistics (C,) that are given: inference from running means; the rest as above."""
    if x.size == 0:
        return
    pixels, C = x.shape
    cuts = cut(pixels, C)
    _, factors = workspace(1, 0, C, cuts[2], x.dtype)
    x3, y3 = x.reshape(1, pixels, C), y.reshape(1, pixels, C)
    how = gamma, beta, float(eps), cuts, mean, variance, factors, after_norm(x3, residual, bounds), y3
    call_parallel(x.size > SMALL, scale_all, x3, *how)


@jit
def _move(mean, variance, unbiased, momentum, running_mean, running_var):
    N, C = mean.shape
    for c in range(C):
        centre, spread = 0.0, 0.0
        for n in range(N):
            centre += mean[n, c]
            spread += variance[n, c]
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * (centre / N)
        running_var[c] = (1 - momentum) * running_var[c] + momentum * (spread / N * unbiased)


def update_running(mean, variance, count, momentum, running_mean, running_var):
    """Move running statistics (C,) by `momentum` towards those of a batch (N, C), the images' average.

    The variance is taken unbiased, by the factor count / (count - 1) for the `count` numbers of each mean.
    """
    _move(mean, variance, count / max(count - 1, 1), float(momentum), running_mean, running_var)
