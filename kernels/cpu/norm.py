"""Normalization by mean and variance, of channels or groups of channels: the definition is in `reference/norm.py`.

Rows (layer normalization) are in `row_norm.py`.

Arrays: x, y, dy, dx (N, L, C), groups G, mean and variance (N, G) in float64, gamma and beta (C,).

The pixels of an image are cut into chunks that stay in cache. A chunk is read twice: first for a rough mean of each
channel, then for the exact sums around it, so that nothing cancels where the mean is large beside the deviation. The
chunks' means and squares are joined in float64 (Chan, Golub, LeVeque 1983). Where there are images enough for all
threads, one task takes an image through all steps while the caches hold it; else the steps are shared one by one.
Chunks and their order depend on the shape alone, so both ways give the same bits.

A row of few channels is too short for vectors: several pixels are taken as one wide row of W = C * copies elements.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.row_norm import apart, layer_norm_backward, layer_norm_forward
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.workspace import scratch

__all__ = [
    "fixed_norm_forward", "group_norm_backward", "group_norm_forward", "layer_norm_backward", "layer_norm_forward",
    "update_running",
]  # fmt: skip

CHUNK = 1 << 14  # elements of a chunk: 64 KiB of float32, in L2 with all that goes with it
FEWEST = 64  # pixels of a chunk at least: what is done once a chunk and channel must not show
WIDE = 256  # elements of a wide row at least
SMALL = 1 << 15  # elements: for fewer no second thread wakes (9 us)
IMAGES = 4  # a thread at least, for tasks of whole images: fewer would leave threads without work at the end


def cut(L, C):
    """Return (pixels of a chunk, number of chunks, elements of a wide row) for images of L pixels."""
    copies = -(-WIDE // C)
    pixels = max(FEWEST, CHUNK // C)
    pixels = -(-pixels // copies) * copies
    return pixels, -(-L // pixels), C * copies


@jit(inner=True)
def enough_images(images, threads):
    """Say whether tasks of whole images keep all threads at work."""
    return images >= IMAGES * threads


@jit(inner=True)
def sum_chunk(x, at, count, W, shift, total):
    """Add x - shift, `count` elements from `at` in rows of W, to the total of each column."""
    total[:] = 0
    four = count // (4 * W) * 4 * W
    for row in range(at, at + four, 4 * W):
        second, third, fourth = row + W, row + 2 * W, row + 3 * W
        for i in range(W):
            s = shift[np.uintp(i)]
            first_two = (x[np.uintp(row + i)] - s) + (x[np.uintp(second + i)] - s)
            last_two = (x[np.uintp(third + i)] - s) + (x[np.uintp(fourth + i)] - s)
            total[np.uintp(i)] += first_two + last_two
    for row in range(at + four, at + count, W):
        for i in range(min(W, at + count - row)):
            total[np.uintp(i)] += x[np.uintp(row + i)] - shift[np.uintp(i)]


@jit(inner=True)
def square_chunk(x, at, count, W, shift, total, square):
    """Add x - shift and its square to the totals of each column."""
    total[:] = 0
    square[:] = 0
    two = count // (2 * W) * 2 * W
    for row in range(at, at + two, 2 * W):
        second = row + W
        for i in range(W):
            s = shift[np.uintp(i)]
            a, b = x[np.uintp(row + i)] - s, x[np.uintp(second + i)] - s
            total[np.uintp(i)] += a + b
            square[np.uintp(i)] += a * a + b * b
    for row in range(at + two, at + count, W):
        for i in range(min(W, at + count - row)):
            a = x[np.uintp(row + i)] - shift[np.uintp(i)]
            total[np.uintp(i)] += a
            square[np.uintp(i)] += a * a


@jit(inner=True)
def product_chunk(x, dy, at, count, W, shift, total, product):
    """Add dy and dy * (x - shift) to the totals of each column."""
    total[:] = 0
    product[:] = 0
    two = count // (2 * W) * 2 * W
    for row in range(at, at + two, 2 * W):
        second = row + W
        for i in range(W):
            s = shift[np.uintp(i)]
            a, b = dy[np.uintp(row + i)], dy[np.uintp(second + i)]
            total[np.uintp(i)] += a + b
            product[np.uintp(i)] += a * (x[np.uintp(row + i)] - s) + b * (x[np.uintp(second + i)] - s)
    for row in range(at + two, at + count, W):
        for i in range(min(W, at + count - row)):
            a = dy[np.uintp(row + i)]
            total[np.uintp(i)] += a
            product[np.uintp(i)] += a * (x[np.uintp(row + i)] - shift[np.uintp(i)])


@jit(inner=True)
def fold(wide, C, narrow):
    """Fill narrow (C,), in float64, with the sums of a wide row's copies of each channel."""
    for c in range(C):
        narrow[np.uintp(c)] = wide[np.uintp(c)]
    for start in range(C, wide.size, C):
        for c in range(C):
            narrow[np.uintp(c)] += np.float64(wide[np.uintp(start + c)])


@jit(inner=True)
def widen(wide, C):
    """Repeat the first C elements to the end."""
    for start in range(C, wide.size, C):
        for c in range(C):
            wide[np.uintp(start + c)] = wide[np.uintp(c)]


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
def sum_run(a, at, count):
    """Return the sum of `count` elements from `at`."""
    total = 0.0
    for i in range(count):
        total += a[np.uintp(at + i)]
    return total


@jit(inner=True, reorder=True)
def sum_products(a, b, at, count):
    """Return the sum of `count` products from `at`."""
    total = 0.0
    for i in range(count):
        total += a[np.uintp(at + i)] * b[np.uintp(at + i)]
    return total


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
def set_factors(gamma, beta, eps, mean, variance, factors):
    """Fill the factors of one image's wide rows from its statistics (G,)."""
    C, kind = gamma.size, factors.dtype.type
    E, shifts, scales, offsets = C // mean.size, factors[0], factors[1], factors[2]
    for g in range(mean.size):
        shift, inverse = kind(mean[g]), 1 / math.sqrt(variance[g] + eps)
        rest = np.float64(mean[g]) - np.float64(shift)
        for c in range(g * E, g * E + E):
            scale = gamma[np.uintp(c)] * inverse
            shifts[np.uintp(c)] = shift
            scales[np.uintp(c)] = scale
            offsets[np.uintp(c)] = beta[np.uintp(c)] - rest * scale
    for i in range(3):
        widen(factors[i], C)


@jit(inner=True)
def scale_rows(x, at, count, W, shift, scale, offset, y):
    """Fill `count` elements of y from `at`: (x - shift) * scale + offset, in rows of W."""
    for row in range(at, at + count, W):
        for i in range(min(W, at + count - row)):
            near = x[np.uintp(row + i)] - shift[np.uintp(i)]
            y[np.uintp(row + i)] = near * scale[np.uintp(i)] + offset[np.uintp(i)]


@jit(inner=True)
def scale_chunk(task, thread, x, cuts, factors, y):
    """Fill one chunk of y; the last task takes the first chunk, for the caches still hold the end of x."""
    (N, L, C), (pixels, chunks, W) = x.shape, cuts
    task = N * chunks - 1 - task
    n, first = task // chunks, task % chunks * pixels
    at, count = (n * L + first) * C, min(pixels, L - first) * C
    scale_rows(x.reshape(-1), at, count, W, factors[n, 0], factors[n, 1], factors[n, 2], y.reshape(-1))


@jit(inner=True)
def normalize_image(n, thread, x, gamma, beta, eps, cuts, parts, mean, variance, factors, y):
    """Take image n through all steps."""
    N, chunks = x.shape[0], cuts[1]
    for chunk in range(n * chunks, n * chunks + chunks):
        measure_chunk(chunk, thread, x, cuts, parts)
    join_chunks(n, thread, gamma, beta, eps, x.shape[1], cuts, parts, mean, variance, factors)
    for task in range((N - 1 - n) * chunks, (N - n) * chunks):
        scale_chunk(task, thread, x, cuts, factors, y)


@jit
def normalize(team, x, gamma, beta, eps, cuts, parts, mean, variance, factors, y):
    """Do `group_norm_forward`."""
    N, L, _ = x.shape
    if enough_images(N, team[0]):
        share(team, N, normalize_image, (x, gamma, beta, eps, cuts, parts, mean, variance, factors, y))
        return
    share(team, N * cuts[1], measure_chunk, (x, cuts, parts))
    share(team, N, join_chunks, (gamma, beta, eps, L, cuts, parts, mean, variance, factors))
    share(team, N * cuts[1], scale_chunk, (x, cuts, factors, y))


@jit
def scale_all(team, x, gamma, beta, eps, cuts, mean, variance, factors, y):
    """Do `fixed_norm_forward`."""
    set_factors(gamma, beta, eps, mean, variance, factors[0])
    share(team, cuts[1], scale_chunk, (x, cuts, factors, y))


def workspace(N, chunks, C, W, dtype):
    """Return the parts of all chunks, in float64, and the factors of all images."""
    parts = scratch("norm parts", N * chunks * 2 * C, np.dtype(np.float64))[: N * chunks * 2 * C]
    factors = scratch("norm factors", N * 4 * W, dtype)[: N * 4 * W]
    return parts.reshape(N * chunks, 2, C), factors.reshape(N, 4, W)


def group_norm_forward(x, gamma, beta, groups, eps, y, mean, variance):
    """Fill y, and the mean and biased variance of every group of every image."""
    N, L, C = x.shape
    if x.size == 0:
        mean[...], variance[...] = 0, 0
        return
    cuts = cut(L, C)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    call_parallel(x.size > SMALL, normalize, x, gamma, beta, float(eps), cuts, parts, mean, variance, factors, y)


def fixed_norm_forward(x, gamma, beta, mean, variance, eps, y):
    """Fill y (M, C) by statistics (C,) that are given: inference from running means."""
    if x.size == 0:
        return
    pixels, C = x.shape
    cuts = cut(pixels, C)
    _, factors = workspace(1, 0, C, cuts[2], x.dtype)
    image = x.reshape(1, pixels, C), gamma, beta, float(eps), cuts, mean, variance, factors, y.reshape(1, pixels, C)
    call_parallel(x.size > SMALL, scale_all, *image)


@jit(inner=True)
def measure_gradient(task, thread, x, dy, mean, cuts, parts):
    """Fill parts[task] with each channel's sums of dy and dy * (x - shift) over one chunk."""
    (_, L, C), (pixels, chunks, W), G = x.shape, cuts, mean.shape[1]
    n, first = task // chunks, task % chunks * pixels
    count, at, E = min(pixels, L - first) * C, (n * L + first) * C, C // G
    wide, part = np.empty((3, W), x.dtype), parts[task]
    for g in range(G):
        wide[0, g * E : g * E + E] = mean[n, g]
    widen(wide[0], C)
    product_chunk(x.reshape(-1), dy.reshape(-1), at, count, W, wide[0], wide[1], wide[2])
    fold(wide[1], C, part[0])
    fold(wide[2], C, part[1])


@jit(inner=True)
def join_gradient(n, thread, gamma, mean, variance, eps, constant, L, cuts, parts, factors):
    """Gather image n's sums of dy and dy * xhat in its first part, and fill the factors of its wide rows.

    dx = dy * scale - ((x - shift) * slope + offset)
    """
    (_, chunks, _), C, G, kind = cuts, gamma.size, mean.shape[1], factors.dtype.type
    E, own, made = C // G, parts[n * chunks], factors[n]
    given, along = own[0], own[1]
    for chunk in range(1, chunks):
        part, products = parts[n * chunks + chunk, 0], parts[n * chunks + chunk, 1]
        for c in range(C):
            given[np.uintp(c)] += part[np.uintp(c)]
            along[np.uintp(c)] += products[np.uintp(c)]
    shifts, scales, slopes, offsets = made[0], made[1], made[2], made[3]
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
            scales[np.uintp(c)] = gamma[np.uintp(c)] * inverse
            slopes[np.uintp(c)] = slope
            offsets[np.uintp(c)] = plain * share_of - rest * slope
    for i in range(4):
        widen(made[i], C)


@jit(inner=True)
def gradient_rows(x, dy, at, count, W, shift, scale, slope, offset, dx):
    """Fill `count` elements of dx from `at`, in rows of W."""
    for row in range(at, at + count, W):
        for i in range(min(W, at + count - row)):
            near = x[np.uintp(row + i)] - shift[np.uintp(i)]
            taken = near * slope[np.uintp(i)] + offset[np.uintp(i)]
            dx[np.uintp(row + i)] = dy[np.uintp(row + i)] * scale[np.uintp(i)] - taken


@jit(inner=True)
def gradient_chunk(task, thread, x, dy, cuts, factors, dx):
    """Fill one chunk of dx, the last one first."""
    (N, L, C), (pixels, chunks, W) = x.shape, cuts
    task = N * chunks - 1 - task
    n, first = task // chunks, task % chunks * pixels
    at, count, made = (n * L + first) * C, min(pixels, L - first) * C, factors[n]
    flat = x.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    gradient_rows(flat[0], flat[1], at, count, W, made[0], made[1], made[2], made[3], flat[2])


@jit(inner=True)
def gradient_image(n, thread, x, dy, gamma, mean, variance, eps, constant, wanted, cuts, parts, factors, dx):
    """Take image n through all steps of the way back."""
    N, chunks = x.shape[0], cuts[1]
    for chunk in range(n * chunks, n * chunks + chunks):
        measure_gradient(chunk, thread, x, dy, mean, cuts, parts)
    join_gradient(n, thread, gamma, mean, variance, eps, constant, x.shape[1], cuts, parts, factors)
    for task in range((N - 1 - n) * chunks, (N - n) * chunks if wanted else 0):
        gradient_chunk(task, thread, x, dy, cuts, factors, dx)


@jit
def normalize_backward(
    team, x, dy, gamma, mean, variance, eps, constant, wanted, cuts, parts, factors, dx, dgamma, dbeta
):
    """Do `group_norm_backward`."""
    (N, L, C), chunks = x.shape, cuts[1]
    how = gamma, mean, variance, eps, constant
    if enough_images(N, team[0]):
        share(team, N, gradient_image, (x, dy, *how, wanted, cuts, parts, factors, dx))
    else:
        share(team, N * chunks, measure_gradient, (x, dy, mean, cuts, parts))
        share(team, N, join_gradient, (*how, L, cuts, parts, factors))
        share(team, N * chunks if wanted else 0, gradient_chunk, (x, dy, cuts, factors, dx))
    sums = np.zeros((2, C), np.float64)
    for n in range(N):
        given, along = parts[n * chunks, 0], parts[n * chunks, 1]
        for c in range(C):
            sums[0, c] += given[c]
            sums[1, c] += along[c]
    for c in range(C):
        dbeta[c] = sums[0, c]
        dgamma[c] = sums[1, c]


def group_norm_backward(x, dy, gamma, mean, variance, groups, eps, constant, dx, dgamma, dbeta):
    """Fill dx (unless it is None), dgamma and dbeta; `constant` statistics do not depend on x."""
    (N, L, C), wanted = x.shape, dx is not None
    if x.size == 0:
        dgamma[...], dbeta[...] = 0, 0
        return
    cuts = cut(L, C)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    how = gamma, mean, variance, float(eps), bool(constant), wanted, cuts, parts, factors
    call_parallel(x.size > SMALL, normalize_backward, x, dy, *how, dx if wanted else x, dgamma, dbeta)


def update_running(mean, variance, count, momentum, running_mean, running_var):
    """Move running statistics (C,) by `momentum` towards those of a batch (N, C), the images' average.

    The variance is taken unbiased, by the factor count / (count - 1) for the `count` numbers of each mean.
    """
    unbiased = variance.mean(0) * (count / max(count - 1, 1))
    running_mean[...] = (1 - momentum) * running_mean + momentum * mean.mean(0)
    running_var[...] = (1 - momentum) * running_var + momentum * unbiased
