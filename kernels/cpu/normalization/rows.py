"""Normalization of rows (layer normalization) by their mean and variance: the definition is in `reference/norm.py`.

Arrays: x, y, dy, dx (M, F), mean and variance (M,) in float64, gamma and beta (F,).

A row is read three times, for a rough mean, the exact sums around it, and the output: where it fits a cache, memory
sees it once. Sums run over pieces in the dtype of x, from piece to piece in float64. The gradients of gamma and beta
are summed along with dx, a band of rows at a time. Rows too long for that (their gradients of gamma would be as large
as dx) are cut into pieces: all sums of pieces first, then columns of pieces. Rows of a few vectors are taken many at
a time (`short_rows.py`).
"""

import math

import numpy as np

from fastcnn.kernels.cpu.normalization.row_code import row_code
from fastcnn.kernels.cpu.normalization.short_rows import gradient_short, normalize_short
from fastcnn.kernels.cpu.normalization.wide import (
    LARGE,
    gradient_row_wide,
    is_finite,
    is_wide_row,
    measure_wide,
    scale_row_wide,
)
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.streaming import streams
from fastcnn.kernels.cpu.simd.tile import lanes_of

PIECE = 1 << 12  # elements that are summed in the dtype of x
BAND = 1 << 13  # elements of a band of rows, a task: 32 KiB of float32, in L1
BAND_BACK = 1 << 14  # elements of a band of rows on the way back
STEP_BACK = 1 << 12  # elements of those that are summed and scaled while they are in L1, with dy and dx
SUMMED = 32  # its rows at least: each band has its own sums of the gradients of gamma and beta
SHORT = 512  # elements of the longest row that `short_rows.py` takes; of 1024, each by itself is faster (measured)


@jit(inner=True)
def apart(a, b):
    """Return a - b, which no reordered sum may take to pieces."""
    return a - b


@jit(inner=True, reorder=True)
def sum_piece(x, at, count, shift):
    """Return the sum of x - shift over a piece."""
    total = x.dtype.type(0)
    for i in range(count):
        total += apart(x[np.uintp(at + i)], shift)
    return total


@jit(inner=True, reorder=True)
def square_piece(x, at, count, shift):
    """Return the sums of x - shift and of its square over a piece."""
    total, square = x.dtype.type(0), x.dtype.type(0)
    for i in range(count):
        off = apart(x[np.uintp(at + i)], shift)
        total += off
        square += off * off
    return total, square


@jit(inner=True, reorder=True)
def product_piece(x, dy, gamma, at, start, count, shift):
    """Return the sums of dy * gamma and of dy * gamma * (x - shift) over a piece; gamma from `start`."""
    total, product = x.dtype.type(0), x.dtype.type(0)
    for i in range(count):
        given = dy[np.uintp(at + i)] * gamma[np.uintp(start + i)]
        total += given
        product += given * apart(x[np.uintp(at + i)], shift)
    return total, product


@jit(inner=True)
def rough_mean(x, at, F):
    """Return the mean of the row at `at`, as exactly as sums in the dtype of x give it."""
    first, total = x[at], 0.0
    for piece in range(at, at + F, PIECE):
        total += sum_piece(x, piece, min(PIECE, at + F - piece), first)
    return np.float64(first) + total / F


@jit(inner=True)
def measure_row(x, at, F, rough):
    """Return the mean and biased variance of the row at `at`, from sums around its rough mean."""
    shift, total, square = x.dtype.type(rough), 0.0, 0.0
    for piece in range(at, at + F, PIECE):
        s, q = square_piece(x, piece, min(PIECE, at + F - piece), shift)
        total += s
        square += q
    off = total / F
    around = square / F - off * off
    if is_finite(around):
        return np.float64(shift) + off, max(around, 0.0)
    mean, around = measure_wide(x, at, F, 1)
    return mean, around / F


@jit(inner=True)
def scale_row(x, at, count, shift, scale, offset, gamma, beta, start, y):
    """Fill `count` elements of y from `at`: gamma * ((x - shift) * scale + offset) + beta; gamma, beta from `start`."""
    for i in range(count):
        xhat = (x[np.uintp(at + i)] - shift) * scale + offset
        y[np.uintp(at + i)] = xhat * gamma[np.uintp(start + i)] + beta[np.uintp(start + i)]


@jit(inner=True)
def row_factors(mean, variance, eps, kind):
    """Return (shift, scale, offset) with xhat = (x - shift) * scale + offset: x - shift is exact near the mean."""
    shift, inverse = kind(mean), 1 / math.sqrt(variance + eps)
    return shift, kind(inverse), kind((np.float64(shift) - mean) * inverse)


@jit(inner=True)
def normalize_band(band, thread, x, gamma, beta, eps, rows, y, mean, variance):
    """Take a band of rows through all steps; a step goes over all its rows, which do not wait for each other."""
    (M, F), flat, out = x.shape, x.reshape(-1), y.reshape(-1)
    first, stop = band * rows, min(M, band * rows + rows)
    for m in range(first, stop):
        mean[m] = rough_mean(flat, m * F, F)
    for m in range(first, stop):
        mean[m], variance[m] = measure_row(flat, m * F, F, mean[m])
    for m in range(first, stop):
        if variance[m] > LARGE:
            scale_row_wide(flat, m * F, F, mean[m], 1 / math.sqrt(variance[m] + eps), gamma, beta, out)
            continue
        shift, scale, offset = row_factors(mean[m], variance[m], eps, x.dtype.type)
        scale_row(flat, m * F, F, shift, scale, offset, gamma, beta, 0, out)


@jit
def normalize_short_rows(team, code, x, gamma, beta, eps, rows, y, mean, variance):
    """Do `layer_norm_forward` for short rows."""
    how = code, x, gamma, beta, eps, rows, y, mean, variance
    share(team, (x.shape[0] + rows - 1) // rows, normalize_short, how)


@jit
def normalize_rows(team, x, gamma, beta, eps, rows, y, mean, variance):
    """Do `layer_norm_forward`."""
    share(team, (x.shape[0] + rows - 1) // rows, normalize_band, (x, gamma, beta, eps, rows, y, mean, variance))


def layer_norm_forward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    eps: float,
    y: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> None:
    """Fill y (M, F), and the mean and biased variance of every row."""
    if x.size == 0:
        mean[...], variance[...] = 0, 0
        return
    if x.shape[1] <= SHORT:
        code = row_code(x.dtype, streams(y, 2, lanes_of(y.itemsize), x.shape[1]))
        rows = max(1, BAND // x.shape[1] // code.lanes) * code.lanes
        how = x, gamma, beta, float(eps), rows, y, mean, variance
        call_parallel(x.size > SERIAL_ELEMENTS, normalize_short_rows, code, *how)
        return
    rows = max(1, BAND // x.shape[1])
    call_parallel(x.size > SERIAL_ELEMENTS, normalize_rows, x, gamma, beta, float(eps), rows, y, mean, variance)


@jit(inner=True)
def gradient_factors(mean, variance, eps, total, product, F, kind):
    """Return (shift, scale, slope, offset): dx = dy * gamma * scale - ((x - shift) * slope + offset).

    `total` and `product` are the row's sums of dy * gamma and of dy * gamma * (x - shift).
    """
    shift, inverse = kind(mean), 1 / math.sqrt(variance + eps)
    rest = mean - np.float64(shift)
    slope = (product - rest * total) * inverse * inverse * inverse / F
    return shift, kind(inverse), kind(slope), kind(total * inverse / F - rest * slope)


@jit(inner=True)
def gradient_row(x, dy, at, count, factors, lift, gamma, start, dx, along, given):
    """Fill `count` elements of dx from `at`, and add dy * xhat to `along` and dy to `given`.

    These and gamma are taken from `start`. xhat = (x - shift) * scale + lift.
    """
    shift, scale, slope, offset = factors
    for i in range(count):
        near, g = x[np.uintp(at + i)] - shift, dy[np.uintp(at + i)]
        dx[np.uintp(at + i)] = g * gamma[np.uintp(start + i)] * scale - (near * slope + offset)
        along[np.uintp(start + i)] += g * (near * scale + lift)
        given[np.uintp(start + i)] += g


@jit(inner=True)
def sum_row_gradient(x, dy, gamma, at, F, shift):
    """Return a row's sums of dy * gamma and of dy * gamma * (x - shift)."""
    total, product = 0.0, 0.0
    for start in range(0, F, PIECE):
        s, p = product_piece(x, dy, gamma, at + start, start, min(PIECE, F - start), shift)
        total += s
        product += p
    return total, product


@jit(inner=True)
def gradient_band(band, thread, x, dy, gamma, mean, variance, eps, rows, totals, dx, sums):
    """Take a band of rows the way back, and fill sums[band] with its gradients of gamma and beta."""
    (M, F), kind = x.shape, x.dtype.type
    flat, given, out = x.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    sums[band] = 0
    first, stop = band * rows, min(M, band * rows + rows)
    for m in range(first, stop):
        totals[m, 0], totals[m, 1] = sum_row_gradient(flat, given, gamma, m * F, F, kind(mean[m]))
    for m in range(first, stop):
        if is_wide_row(variance[m], totals[m, 0], totals[m, 1]):
            rest = gamma, mean[m], variance[m], eps, out, (sums[band, 0], sums[band, 1])
            gradient_row_wide(flat, given, m * F, 0, F, *rest)
            continue
        _, _, lift = row_factors(mean[m], variance[m], eps, kind)
        factors = gradient_factors(mean[m], variance[m], eps, totals[m, 0], totals[m, 1], F, kind)
        gradient_row(flat, given, m * F, F, factors, lift, gamma, 0, out, sums[band, 0], sums[band, 1])


@jit(inner=True)
def measure_row_gradient(m, thread, x, dy, gamma, mean, totals):
    """Fill totals[m] with the row's sums of dy * gamma and of dy * gamma * (x - shift)."""
    F = x.shape[1]
    shift = x.dtype.type(mean[m])
    totals[m, 0], totals[m, 1] = sum_row_gradient(x.reshape(-1), dy.reshape(-1), gamma, m * F, F, shift)


@jit(inner=True)
def gradient_columns(piece, thread, x, dy, gamma, mean, variance, eps, totals, dx, sums):
    """Fill a piece of every row of dx, and of the gradients of gamma and beta, sums[0]."""
    (M, F), kind, start = x.shape, x.dtype.type, piece * PIECE
    count = min(PIECE, F - start)
    flat, given, out = x.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    sums[0, :, start : start + count] = 0
    for m in range(M):
        if is_wide_row(variance[m], totals[m, 0], totals[m, 1]):
            rest = gamma, mean[m], variance[m], eps, out, (sums[0, 0], sums[0, 1])
            gradient_row_wide(flat, given, m * F, start, start + count, *rest)
            continue
        _, _, lift = row_factors(mean[m], variance[m], eps, kind)
        factors = gradient_factors(mean[m], variance[m], eps, totals[m, 0], totals[m, 1], F, kind)
        gradient_row(flat, given, m * F + start, count, factors, lift, gamma, start, out, sums[0, 0], sums[0, 1])


@jit(inner=True)
def add_bands(piece, thread, sums, dgamma, dbeta):
    """Fill a piece of dgamma and dbeta with the bands' sums, added in order in float64."""
    start, stop = piece * PIECE, min(dgamma.size, piece * PIECE + PIECE)
    total = np.zeros((2, stop - start), np.float64)
    for band in range(sums.shape[0]):
        for i in range(stop - start):
            total[0, np.uintp(i)] += sums[band, 0, np.uintp(start + i)]
            total[1, np.uintp(i)] += sums[band, 1, np.uintp(start + i)]
    for i in range(stop - start):
        dgamma[start + i] = total[0, i]
        dbeta[start + i] = total[1, i]


@jit
def normalize_rows_backward(team, x, dy, gamma, statistics, rows, totals, sums, dx, dgamma, dbeta):
    """Do `layer_norm_backward`, by bands of rows, or (rows = 0) by rows and then by columns of pieces."""
    (M, F), (mean, variance, eps) = x.shape, statistics
    pieces = (F + PIECE - 1) // PIECE
    if rows:
        share(team, sums.shape[0], gradient_band, (x, dy, gamma, mean, variance, eps, rows, totals, dx, sums))
    else:
        share(team, M, measure_row_gradient, (x, dy, gamma, mean, totals))
        share(team, pieces, gradient_columns, (x, dy, gamma, mean, variance, eps, totals, dx, sums))
    share(team, pieces, add_bands, (sums, dgamma, dbeta))


@jit
def short_rows_backward(team, code, x, dy, gamma, statistics, cuts, dx, sums, dgamma, dbeta):
    """Do `layer_norm_backward` for short rows; cuts: rows of a band, and of what is taken at once."""
    share(team, sums.shape[0], gradient_short, (code, x, dy, gamma, *statistics, cuts, dx, sums))
    share(team, 1, add_bands, (sums, dgamma, dbeta))


def layer_norm_backward(
    x: np.ndarray, dy: np.ndarray, gamma: np.ndarray, mean: np.ndarray, variance: np.ndarray, eps: float,
    dx: np.ndarray, dgamma: np.ndarray, dbeta: np.ndarray,
) -> None:  # fmt: skip
    """Fill dx (M, F), dgamma and dbeta (F,)."""
    M, F = x.shape
    if x.size == 0:
        dgamma[...], dbeta[...] = 0, 0
        return
    rows = max(SUMMED, BAND_BACK // F) if F <= PIECE else 0
    bands = -(-M // rows) if rows else 1
    sums = scratch("norm sums", bands * 2 * F, x.dtype)[: bands * 2 * F].reshape(bands, 2, F)
    statistics = mean, variance, float(eps)
    if F <= SHORT:
        code = row_code(x.dtype, streams(dx, 3, lanes_of(dx.itemsize), F))
        step = max(1, STEP_BACK // F // code.lanes) * code.lanes
        how = gamma, statistics, (rows, step), dx, sums, dgamma, dbeta
        call_parallel(x.size > SERIAL_ELEMENTS, short_rows_backward, code, x, dy, *how)
        return
    totals = scratch("norm totals", 2 * M, np.dtype(np.float64))[: 2 * M].reshape(M, 2)
    given = gamma, statistics, rows, totals, sums, dx, dgamma, dbeta
    call_parallel(x.size > SERIAL_ELEMENTS, normalize_rows_backward, x, dy, *given)
