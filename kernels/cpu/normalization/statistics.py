"""Means and variances of channels, from chunks joined in a fixed order."""

import numpy as np

from fastcnn.kernels.cpu.normalization.chunks import SAMPLE, fold, sum_chunk, widen
from fastcnn.kernels.cpu.normalization.column_code import call_sums
from fastcnn.kernels.cpu.normalization.rows import apart
from fastcnn.kernels.cpu.normalization.wide import is_finite, measure_wide
from fastcnn.kernels.cpu.runtime.compiler import jit

FOLDED = 64  # rows of a filter a task


@jit(inner=True)
def measure_chunk(task, thread, n, code, x, cuts, parts):
    """Fill the parts of one chunk of image n: each channel's mean and sum of squared deviations."""
    (_, L, C), (pixels, chunks, W) = x.shape, cuts
    first = task * pixels
    count, at, flat = min(pixels, L - first), (n * L + first) * C, x.reshape(-1)
    wide, part = np.empty((3, W), x.dtype), parts[n * chunks + task]
    shift, total, square = wide[0], wide[1], wide[2]
    mean, around = part[0], part[1]
    shift[:C] = flat[at : at + C]
    widen(shift, C)
    sampled = min(count * C, -(-count * C // (SAMPLE * W)) * W)
    sum_chunk(flat, at, sampled, W, shift, total)
    fold(total, C, mean)
    for c in range(C):
        shift[c] += x.dtype.type(mean[c] * C / sampled)
    widen(shift, C)
    total[:], square[:] = 0, 0
    places = shift.ctypes.data, total.ctypes.data, square.ctypes.data
    call_sums(code.square, x.ctypes.data + at * x.itemsize, 0, count * C, W, places[0], 0, places[1], places[2])
    fold(total, C, mean)
    fold(square, C, around)
    for c in range(C):
        if is_finite(mean[c]) & is_finite(around[c]):
            off = mean[c] / count
            around[c] = max(around[c] - off * mean[c], 0.0)
            mean[c] = np.float64(shift[c]) + off
        else:
            mean[c], around[c] = measure_wide(flat, at + c, count, C)


@jit(inner=True, reorder=True)
def join_channels(centre, around, at, count, mean, L):
    """Return the sum of squares around the mean of a group's channels, each with its own centre."""
    total = 0.0
    for i in range(count):
        off = apart(centre[np.uintp(at + i)], mean)
        total += around[np.uintp(at + i)] + L * off * off
    return total


@jit(inner=True)
def join_chunks(n, C, L, cuts, parts, mean, variance):
    """Fill the statistics of image n from those of its chunks."""
    (pixels, chunks, _), G = cuts, mean.shape[1]
    E, joined = C // G, np.zeros((2, C), np.float64)
    centre, around, first = joined[0], joined[1], parts[n * chunks, 0]
    for chunk in range(1, chunks):
        part, share_of = parts[n * chunks + chunk, 0], min(pixels, L - chunk * pixels) / L
        for c in range(C):
            centre[np.uintp(c)] += share_of * (part[np.uintp(c)] - first[np.uintp(c)])
    for c in range(C):
        centre[np.uintp(c)] += first[np.uintp(c)]
    for chunk in range(chunks):
        part, squares = parts[n * chunks + chunk, 0], parts[n * chunks + chunk, 1]
        count = float(min(pixels, L - chunk * pixels))
        for c in range(C):
            off = part[np.uintp(c)] - centre[np.uintp(c)]
            around[np.uintp(c)] += squares[np.uintp(c)] + count * off * off
    for g in range(G):
        mean[n, g] = centre[g] if E == 1 else join_means(centre, g * E, E)
        variance[n, g] = around[g] / L if E == 1 else join_channels(centre, around, g * E, E, mean[n, g], L) / (E * L)


@jit(inner=True, reorder=True)
def join_means(centre, at, count):
    """Return the mean of some channels' means, around the first: that of equal numbers is the number."""
    first, total = centre[at], 0.0
    for i in range(count):
        total += apart(centre[np.uintp(at + i)], first)
    return first + total / count
