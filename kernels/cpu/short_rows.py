"""Normalization of rows too short for sums of their own, taken side by side; arrays are those of `row_norm.py`.

A rough mean, that of a row's first elements, is enough for exact sums around it: `norm.py` says why. What is computed
of a row's sums is computed in a loop over the rows of a band, which is vectorized. While a band is scaled, the next one
is fetched.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.channel_sums import SAMPLE
from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.row_code import call_gradient, call_scale, call_sums


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
    for m in range(count):
        centre, inverse = means[np.uintp(m)], 1 / math.sqrt(variances[np.uintp(m)] + eps)
        rounded = kind(centre)
        shift[np.uintp(m)] = rounded
        total[np.uintp(m)] = inverse
        square[np.uintp(m)] = (np.float64(rounded) - centre) * inverse
    call_scale(
        code.scale, at, y.ctypes.data + begin, gamma.ctypes.data, beta.ctypes.data, count, F, places[0], pitch, rows * F
    )


@jit(inner=True)
def gradient_short(band, thread, code, x, dy, gamma, mean, variance, eps, rows, step, dx, sums):
    """Take a band of short rows the way back, `step` rows at a time; fill sums[band] as `gradient_band` does."""
    (M, F), pitch = x.shape, -(-step // code.lanes) * code.lanes
    made = np.empty((5, pitch), x.dtype)
    shift, scale, slope, offset, lift = made[0], made[1], made[2], made[3], made[4]
    sums[band] = 0
    for first in range(band * rows, min(M, band * rows + rows), step):
        count, begin = min(step, M - first, band * rows + rows - first), first * F * x.itemsize
        at, back = x.ctypes.data + begin, dy.ctypes.data + begin
        means, variances = mean[first : first + count], variance[first : first + count]
        for m in range(count):
            shift[np.uintp(m)] = means[np.uintp(m)]
        call_sums(
            code.product,
            at,
            back,
            gamma.ctypes.data,
            F,
            count,
            F,
            shift.ctypes.data,
            1,
            slope.ctypes.data,
            offset.ctypes.data,
        )
        for m in range(count):
            inverse = 1 / math.sqrt(variances[np.uintp(m)] + eps)
            rest = means[np.uintp(m)] - np.float64(shift[np.uintp(m)])
            total, product = np.float64(slope[np.uintp(m)]), np.float64(offset[np.uintp(m)])
            tilt = (product - rest * total) * inverse * inverse * inverse / F
            scale[np.uintp(m)] = inverse
            lift[np.uintp(m)] = -rest * inverse
            slope[np.uintp(m)] = tilt
            offset[np.uintp(m)] = total * inverse / F - rest * tilt
        call_gradient(
            code.gradient,
            at,
            back,
            dx.ctypes.data + begin,
            gamma.ctypes.data,
            count,
            F,
            made.ctypes.data,
            pitch,
            sums[band, 0].ctypes.data,
            sums[band, 1].ctypes.data,
            step * F,
        )
