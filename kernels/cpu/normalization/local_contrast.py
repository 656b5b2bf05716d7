"""Local contrast normalization, an image at a time: the definition is in `reference/local_norm.py`.

Means and deviations are planes (H, W), which a cache holds, in float64 and around a number that all pixels have in
common: what is left of a flat part after its mean is taken off would else be the rounding of that, divided by as
little. Where squares overflow, those of the whole image are taken again of smaller numbers.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.normalization.rows import apart
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, runs_on_host
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_WINDOWS

SMALL_FACTOR = 2.0**-600  # the squares of all float64 times it are finite


@jit(inner=True)
def add_row(total, weight, row, next_weight, next_row):
    """Add two weighted rows to a third."""
    for w in range(total.size):
        total[np.uintp(w)] += weight * row[np.uintp(w)] + next_weight * next_row[np.uintp(w)]


@jit(inner=True)
def blur(plane, down, across, padded, half, out):
    """Fill out (H, W) with the weighted means of plane: across (T, W) along rows, then down (H, T) along columns.

    T is odd: after one tap the others are added in pairs, which halves the passes through a row.
    """
    (H, W), T = plane.shape, down.shape[1]
    middle = T // 2
    padded[:] = 0
    for h in range(H):
        for w in range(W):
            padded[np.uintp(middle + w)] = plane[h, np.uintp(w)]
        for w in range(W):
            half[h, np.uintp(w)] = across[0, np.uintp(w)] * padded[np.uintp(w)]
        for t in range(1, T, 2):
            for w in range(W):
                first = across[t, np.uintp(w)] * padded[np.uintp(w + t)]
                half[h, np.uintp(w)] += first + across[t + 1, np.uintp(w)] * padded[np.uintp(w + t + 1)]
    for h in range(H):
        first, after = max(0, middle - h), min(T, H + middle - h)
        weight, source = down[h, first], half[h + first - middle]
        for w in range(W):
            out[h, np.uintp(w)] = weight * source[np.uintp(w)]
        for t in range(first + 1, after, 2):
            second = min(t + 1, after - 1)
            other = down[h, second] if second > t else 0.0
            add_row(out[h], down[h, t], half[h + t - middle], other, half[h + second - middle])


@jit(inner=True, reorder=True)
def channel_mean(a, at, C):
    """Return the mean of C elements from `at`, around the first: that of equal ones is exact."""
    first, total = np.float64(a[np.uintp(at)]), 0.0
    for c in range(C):
        total += apart(np.float64(a[np.uintp(at + c)]), first)
    return first + total / C


@jit(inner=True, reorder=True)
def channel_square(a, factor, at, C):
    """Return the mean of the squares of C elements from `at`, times a factor each."""
    total = 0.0
    for c in range(C):
        value = np.float64(a[np.uintp(at + c)]) * factor
        total += value * value
    return total / C


@jit(inner=True, reorder=True)
def channel_product(a, b, at, C):
    """Return the sum of C products from `at`."""
    total = 0.0
    for c in range(C):
        total += np.float64(a[np.uintp(at + c)]) * np.float64(b[np.uintp(at + c)])
    return total


@jit(inner=True)
def nearest_to_zero(plane):
    """Return what a plane of numbers of one sign can be taken off without growing, or 0."""
    low, high = plane[0], plane[0]
    for p in range(plane.size):
        low = min(low, plane[p])
        high = max(high, plane[p])
    return low if low > 0 else high if high < 0 else 0.0


@jit(inner=True)
def spread_image(y, at, C, factor, down, across, padded, planes, spread):
    """Fill a plane (H, W) with the deviations of v = y, and return their sum; squares are taken of v * factor."""
    plane, flat, total = planes[0].reshape(-1), spread.reshape(-1), 0.0
    for p in range(flat.size):
        plane[p] = channel_square(y, factor, at + p * C, C)
    blur(planes[0], down, across, padded, planes[1], spread)
    for p in range(flat.size):
        flat[p] = math.sqrt(flat[p]) / factor
        total += flat[p]
    return total


@jit(inner=True)
def contrast_image(n, thread, x, C, down, across, subtract, divide, eps, y, deviation):
    """Fill image n of y, and its plane of deviations."""
    (_, H, W), T = deviation.shape, down.shape[1]
    pixels, planes, padded = H * W, np.empty((3, H, W), np.float64), np.empty(W + T, np.float64)
    plane, half, out, at = planes[0], planes[1], planes[2], n * H * W * C
    flat, part, kept = out.reshape(-1), plane.reshape(-1), deviation[n].reshape(-1)
    kept[:] = 0
    if subtract:
        for p in range(pixels):
            part[p] = channel_mean(x, at + p * C, C)
        shift = nearest_to_zero(part)
        for p in range(pixels):
            part[p] -= shift
        blur(plane, down, across, padded, half, out)
        for p in range(pixels):
            for c in range(at + p * C, at + p * C + C):
                y[c] = (np.float64(x[c]) - shift) - flat[p]
    else:
        y[at : at + pixels * C] = x[at : at + pixels * C]
    if not divide:
        return
    total = spread_image(y, at, C, 1.0, down, across, padded, planes, out)
    if not total < math.inf:
        total = spread_image(y, at, C, SMALL_FACTOR, down, across, padded, planes, out)
    average = max(total / pixels, eps) if total == total else total
    for p in range(pixels):
        kept[p] = flat[p]
        divisor = y.dtype.type(max(flat[p], average) if flat[p] == flat[p] else flat[p])
        for c in range(at + p * C, at + p * C + C):
            y[c] /= divisor


@jit
def contrast_images(team, x, C, down, across, subtract, divide, eps, y, deviation):
    """Do `local_contrast_forward`."""
    share(team, deviation.shape[0], contrast_image, (x, C, down, across, subtract, divide, eps, y, deviation))


@runs_on_host
def local_contrast_forward(
    x: np.ndarray,
    weights_h: np.ndarray,
    weights_w: np.ndarray,
    subtract: bool,
    divide: bool,
    eps: float,
    y: np.ndarray,
    deviation: np.ndarray,
) -> None:
    """Fill y (N, H, W, C), and deviation with D where it divides, else with 0."""
    down, across = np.ascontiguousarray(weights_h), np.ascontiguousarray(weights_w.T)
    how = x.shape[3], down, across, bool(subtract), bool(divide), float(eps)
    if x.size:
        call_parallel(x.size > SERIAL_WINDOWS, contrast_images, x.reshape(-1), *how, y.reshape(-1), deviation)


@jit(inner=True)
def contrast_image_back(n, thread, y, deviation, dy, C, down, across, subtract, divide, eps, dx):
    """Fill image n of dx; down and across are the adjoint's weights."""
    (_, H, W), kind, T = deviation.shape, y.dtype.type, down.shape[1]
    pixels, planes, padded = H * W, np.empty((3, H, W), np.float64), np.empty(W + T, np.float64)
    plane, half, blurred, at = planes[0], planes[1], planes[2], n * H * W * C
    spread, part, shared = deviation[n].reshape(-1), plane.reshape(-1), blurred.reshape(-1)
    dx[at : at + pixels * C] = dy[at : at + pixels * C]
    if divide:
        total, outside = 0.0, 0.0
        for p in range(pixels):
            total += spread[p]
        average = kind(total / pixels)  # as the deviations are, so that equal ones are not above it
        least = max(average, kind(eps))
        for p in range(pixels):
            part[p] = -channel_product(y, dy, at + p * C, C) / max(spread[p], least)
            if not spread[p] > least:
                outside += part[p]
                part[p] = 0
        by_average = outside / pixels if average > kind(eps) else 0.0
        for p in range(pixels):
            by_spread = part[p] + by_average
            part[p] = by_spread / 2 / spread[p] if spread[p] > 0 else 0.0
        blur(plane, down, across, padded, half, blurred)
        for p in range(pixels):
            divisor = max(spread[p], least)
            along = kind(2 / C * divisor * shared[p])
            for c in range(at + p * C, at + p * C + C):
                dx[c] = dy[c] / divisor + along * y[c]
    if subtract:
        for p in range(pixels):
            part[p] = channel_mean(dx, at + p * C, C)
        blur(plane, down, across, padded, half, blurred)
        for p in range(pixels):
            for c in range(at + p * C, at + p * C + C):
                dx[c] = dx[c] - shared[p]


@jit
def contrast_images_back(team, y, deviation, dy, C, down, across, subtract, divide, eps, dx):
    """Do `local_contrast_backward_input`."""
    how = C, down, across, subtract, divide, eps
    share(team, deviation.shape[0], contrast_image_back, (y, deviation, dy, *how, dx))


def adjoint(weights):
    """Return the table (H, T) of the transposed mean: what pixel h gives to those around it."""
    size, taps = weights.shape
    padded = np.zeros((size + taps - 1, taps), weights.dtype)
    padded[taps // 2 : taps // 2 + size] = weights
    rows, tap = np.arange(size)[:, None], np.arange(taps)
    return padded[rows + tap, taps - 1 - tap]


@runs_on_host
def local_contrast_backward_input(
    y: np.ndarray,
    deviation: np.ndarray,
    dy: np.ndarray,
    weights_h: np.ndarray,
    weights_w: np.ndarray,
    subtract: bool,
    divide: bool,
    eps: float,
    dx: np.ndarray,
) -> None:
    """Fill dx; where D is 0, so is its gradient."""
    down = np.ascontiguousarray(adjoint(weights_h))
    across = np.ascontiguousarray(adjoint(weights_w).T)
    how = y.shape[3], down, across, bool(subtract), bool(divide), float(eps)
    if y.size:
        arrays = y.reshape(-1), deviation, dy.reshape(-1)
        call_parallel(y.size > SERIAL_WINDOWS, contrast_images_back, *arrays, *how, dx.reshape(-1))
