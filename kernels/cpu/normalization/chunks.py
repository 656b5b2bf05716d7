"""Sums over the pixels of a chunk, channel by channel, for normalization: what its two directions share.

Chunks are cut by the shape alone. Narrow pixels are summed several side by side, a wide row at a time, and folded.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.workspace import scratch

CHUNK = 1 << 14  # elements of a chunk: 64 KiB of float32, in L2 with all that goes with it
FEWEST = 64  # pixels of a chunk at least: what is done once a chunk and channel must not show
WIDE = 256  # elements of a wide row at least
SAMPLE = 8  # a rough mean is that of 1 / SAMPLE of a chunk's pixels
UNBOUNDED = (-math.inf, math.inf)
IMAGES = 4  # a thread at least, for tasks of whole images: fewer would leave threads without work at the end


def cut(L, C, lanes):
    """Return (pixels of a chunk, number of chunks, elements of a wide row) for images of L pixels.

    Rows of few channels are made as wide as whole vectors.
    """
    copies = -(-WIDE // C)
    if C < WIDE:
        copies = -(-copies // (lanes // math.gcd(C, lanes))) * (lanes // math.gcd(C, lanes))
    pixels = max(FEWEST, CHUNK // C)
    pixels = -(-pixels // copies) * copies
    return pixels, -(-L // pixels), C * copies


@jit(inner=True)
def enough_images(images, threads):
    """Say whether tasks of whole images keep all threads at work."""
    return images >= IMAGES * threads


@jit(inner=True)
def mirrored(task, tasks, threads):
    """Return the task that stands where `task` does from the other end of the tasks that `share` gives its thread."""
    owner = ((task + 1) * threads - 1) // tasks
    return owner * tasks // threads + (owner + 1) * tasks // threads - 1 - task


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
