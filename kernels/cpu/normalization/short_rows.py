"""Normalization of rows too short for sums of their own, taken side by side; arrays are those of `rows.py`.

A rough mean, that of a row's first elements, is enough for exact sums around it: `norm.py` says why. What is computed
of a row's sums is computed in a loop over the rows of a band, which is vectorized. While a band is scaled, the next one
is fetched.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.normalization.chunks import SAMPLE
from fastcnn.kernels.cpu.normalization.row_code import call_gradient, call_scale, call_sums
from fastcnn.kernels.cpu.normalization.wide import (
    LARGE,
    LARGE_BACK,
    any_above,
    any_not_finite,
    any_wide_sum,
    gradient_row_wide,
    is_finite,
    is_wide_row,
    measure_wide,
    scale_row_wide,
)
from fastcnn.kernels.cpu.runtime.compiler import jit


@jit(inner=True)
def normalize_short(band, thread, code, x, gamma, beta, eps, rows, y, mean, variance):
    """Take a band of short rows through all steps."""
    (M, F), kind, first, pitch = x.shape, x.dtype.type, band * rows, -(-rows // code.lanes) * code.lanes
    count, begin, made = min(rows, M - first), first * F * x.itemsize, np.empty((3, pitch), x.dtype)
    shift, total, square = made[0], made[1], made[2]
    at, places = x.ctypes.data + begin, (shift.ctypes.data, total.ctypes.data, square.ctypes.data)
    sample = min(F, max(code.lanes, F // SAMPLE))
    call_sums(code.total, at, 0, 0, F, count, sample, at, F, places[0], 0)
    for m in range(count):
        shift[m] = x[first + m, 0] + shift[m] / kind(sample)
    call_sums(code.square, at, 0, 0, F, count, F, places[0], 1, places[1], places[2])
    means, variances = mean[first : first + count], variance[first : first + count]
    for m in range(count):
        off = total[np.uintp(m)] / np.float64(F)
        around = square[np.uintp(m)] / np.float64(F) - off * off
        around = max(around, 0.0) if around == around else np.nan
        means[np.uintp(m)] = np.float64(shift[np.uintp(m)]) + off
        variances[np.uintp(m)] = around
    if any_not_finite(variances):
        for m in range(count):
            if not is_finite(variances[m]):
                means[m], around = measure_wide(x.reshape(-1), (first + m) * F, F, 1)
                variances[m] = around / F
    for m in range(count):
        centre, inverse = means[np.uintp(m)], 1 / math.sqrt(variances[np.uintp(m)] + eps)
        rounded = kind(centre)
        shift[np.uintp(m)] = rounded
        total[np.uintp(m)] = inverse
        square[np.uintp(m)] = (np.float64(rounded) - centre) * inverse
    call_scale(
        code.scale, at, y.ctypes.data + begin, gamma.ctypes.data, beta.ctypes.data, count, F, places[0], pitch, rows * F
    )
    if any_above(variances, LARGE):
        for m in range(count):
            if variances[m] > LARGE:
                inverse, flat = 1 / math.sqrt(variances[m] + eps), (x.reshape(-1), (first + m) * F, F)
                scale_row_wide(*flat, means[m], inverse, gamma, beta, y.reshape(-1))


@jit(inner=True)
def rows_wide(first, is_wide, x, dy, gamma, mean, variance, eps, dx, sums):
    """Take some rows from `first` on the way back in float64, of which the vector code has added no more than dy."""
    F, none = gamma.size, np.empty(gamma.size, x.dtype)
    flat, given, out = x.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    for m in range(is_wide.size):
        if is_wide[m]:
            how = gamma, mean[m], variance[m], eps, out, (sums[0], none)
            gradient_row_wide(flat, given, (first + m) * F, 0, F, *how)


@jit(inner=True)
def set_back_factors(means, variances, eps, F, made):
    """Fill the factors of rows' way back, in place of their sums: (shift, -, total, product, -)."""
    shift, scale, slope, offset, lift = made[0], made[1], made[2], made[3], made[4]
    for m in range(means.size):
        inverse = 1 / math.sqrt(variances[np.uintp(m)] + eps)
        rest = means[np.uintp(m)] - np.float64(shift[np.uintp(m)])
        total, product = np.float64(slope[np.uintp(m)]), np.float64(offset[np.uintp(m)])
        tilt = (product - rest * total) * inverse * inverse * inverse / F
        scale[np.uintp(m)] = inverse
        lift[np.uintp(m)] = -rest * inverse
        slope[np.uintp(m)] = tilt
        offset[np.uintp(m)] = total * inverse / F - rest * tilt


@jit(inner=True)
def gradient_short(band, thread, code, x, dy, gamma, mean, variance, eps, cuts, dx, sums):
    """Take a band of short rows the way back, `step` rows at a time; fill sums[band] as `gradient_band` does."""
    rows, step = cuts
    (M, F), pitch = x.shape, -(-step // code.lanes) * code.lanes
    made, is_wide = np.empty((5, pitch), x.dtype), np.empty(pitch, np.bool_)
    shift, slope, offset, own, end = made[0], made[2], made[3], sums[band], min(M, (band + 1) * rows)
    own[:] = 0
    for first in range(band * rows, end, step):
        count, begin = min(step, end - first), first * F * x.itemsize
        at, back = x.ctypes.data + begin, dy.ctypes.data + begin
        means, variances = mean[first : first + count], variance[first : first + count]
        for m in range(count):
            shift[np.uintp(m)] = means[np.uintp(m)]
        call_sums(
            code.product, at, back, gamma.ctypes.data, F, count, F, shift.ctypes.data, 1, slope.ctypes.data,
            offset.ctypes.data,
        )  # fmt: skip
        any_wide = any_above(variances, LARGE_BACK) or any_wide_sum(slope[:count]) or any_wide_sum(offset[:count])
        if any_wide:
            for m in range(count):
                is_wide[m] = is_wide_row(variances[m], slope[m], offset[m])
        set_back_factors(means, variances, eps, F, made)
        if any_wide:
            for m in range(count):
                if is_wide[m]:
                    made[:, m] = 0
        call_gradient(
            code.gradient, at, back, dx.ctypes.data + begin, gamma.ctypes.data, count, F, made.ctypes.data, pitch,
            own[0].ctypes.data, own[1].ctypes.data, step * F,
        )  # fmt: skip
        if any_wide:
            rows_wide(first, is_wide[:count], x, dy, gamma, means, variances, eps, dx, own)
