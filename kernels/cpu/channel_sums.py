"""Sums over the pixels of a chunk, channel by channel, for normalization: what its two directions share.

Chunks are cut by the shape alone. Narrow pixels are summed several side by side, a wide row at a time, and folded.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.workspace import scratch

CHUNK = 1 << 14  # elements of a chunk: 64 KiB of float32, in L2 with all that goes with it
FEWEST = 64  # pixels of a chunk at least: what is done once a chunk and channel must not show
WIDE = 256  # elements of a wide row at least
SMALL = 1 << 15  # elements: for fewer no second thread wakes
UNBOUNDED = (-math.inf, math.inf)
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
def within(dy, value, low, high):
    """Return dy where a value lies between the bounds, else 0: the gradient of clip."""
    return dy if low < value < high else type(dy)(0)


@jit(inner=True)
def product_chunk(x, dy, at, count, W, factors, low, high, total, product):
    """Add g and g * (x - shift) to the totals of each column; g is dy where clip lets the normalized x pass, else 0."""
    shifts, scales, offsets = factors[0], factors[1], factors[2]
    total[:] = 0
    product[:] = 0
    two = count // (2 * W) * 2 * W
    for row in range(at, at + two, 2 * W):
        second = row + W
        for i in range(W):
            shift, scale, offset = shifts[np.uintp(i)], scales[np.uintp(i)], offsets[np.uintp(i)]
            near, next_near = x[np.uintp(row + i)] - shift, x[np.uintp(second + i)] - shift
            a = within(dy[np.uintp(row + i)], near * scale + offset, low, high)
            b = within(dy[np.uintp(second + i)], next_near * scale + offset, low, high)
            total[np.uintp(i)] += a + b
            product[np.uintp(i)] += a * near + b * next_near
    for row in range(at + two, at + count, W):
        for i in range(min(W, at + count - row)):
            near = x[np.uintp(row + i)] - shifts[np.uintp(i)]
            a = within(dy[np.uintp(row + i)], near * scales[np.uintp(i)] + offsets[np.uintp(i)], low, high)
            total[np.uintp(i)] += a
            product[np.uintp(i)] += a * near


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


def workspace(N, chunks, C, W, dtype):
    """Return the parts of all chunks, in float64, and the factors of all images."""
    parts = scratch("norm parts", N * chunks * 2 * C, np.dtype(np.float64))[: N * chunks * 2 * C]
    factors = scratch("norm factors", N * 5 * W, dtype)[: N * 5 * W]
    return parts.reshape(N * chunks, 2, C), factors.reshape(N, 5, W)
