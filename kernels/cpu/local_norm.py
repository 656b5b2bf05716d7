"""Normalization by neighbouring channels or pixels: the definition is in `reference/local_norm.py`.

Local response takes a block of pixels at a time: their squares are laid out with zeros between the pixels, so that one
loop over the whole block adds a tap of all windows, whatever the number of channels. Local contrast takes an image at
a time: its means and deviations are planes (H, W), which a cache holds.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, repeatable

BLOCK = 1 << 12  # elements of a block of pixels: its few buffers stay in L1 and L2
SMALL = 1 << 14  # elements: for fewer no second thread wakes

THREE_QUARTERS, HALF, WHOLE, ANY = range(4)  # the powers -mu that roots and divisions give, and the others
POWERS = {0.75: THREE_QUARTERS, 0.5: HALF, 1.0: WHOLE}

MANTISSA, EXPONENT_BIAS = 52, 1023  # of float64
ONE_BITS, FRACTION_BITS = 1023 << 52, (1 << 52) - 1
SQRT_HALF_BITS = 0x3FE6A09E667F3BCD


@jit(inner=True)
def raised(s, exponent):
    """Return s^exponent for a normal s > 0, as exp(exponent * log(s)) by series, without branches.

    log: s = 2^e * m with m from sqrt(1/2) to sqrt(2), log(m) = 2 * artanh((m - 1) / (m + 1)), to 11 terms.
    exp: 2^k * e^r with |r| <= ln(2) / 2, to 13 terms. Together they are good to 1e-15 where s is from 1e-9 to 1e9.
    """
    bits = np.float64(s).view(np.int64)
    e = (bits - SQRT_HALF_BITS) >> MANTISSA
    m = np.int64(bits - (e << MANTISSA)).view(np.float64)
    z = (m - 1.0) / (m + 1.0)
    w, series = z * z, 1.0 / 21.0
    series = series * w + 1.0 / 19.0
    series = series * w + 1.0 / 17.0
    series = series * w + 1.0 / 15.0
    series = series * w + 1.0 / 13.0
    series = series * w + 1.0 / 11.0
    series = series * w + 1.0 / 9.0
    series = series * w + 1.0 / 7.0
    series = series * w + 1.0 / 5.0
    series = series * w + 1.0 / 3.0
    log = e * 0.6931471805599453 + 2.0 * (z + z * w * series)
    t = min(max(exponent * log, -700.0), 700.0)
    k = math.floor(t * 1.4426950408889634 + 0.5)
    r = (t - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = (p * r + 1.0) * r + 1.0
    scale = np.int64((np.int64(k) + EXPONENT_BIAS) << MANTISSA).view(np.float64)
    return p * scale


@jit(inner=True)
def power(s, count, how, mu, f):
    """Fill f with s^-mu."""
    one = s.dtype.type(1)
    if how == THREE_QUARTERS:
        for i in range(count):
            root = one / math.sqrt(s[np.uintp(i)])
            f[np.uintp(i)] = root * math.sqrt(root)
    elif how == HALF:
        for i in range(count):
            f[np.uintp(i)] = one / math.sqrt(s[np.uintp(i)])
    elif how == WHOLE:
        for i in range(count):
            f[np.uintp(i)] = one / s[np.uintp(i)]
    else:
        for i in range(count):
            v = s[np.uintp(i)]
            f[np.uintp(i)] = raised(v, -mu) if (v > 0) & (v < np.inf) else np.nan


@jit(inner=True)
def add_taps(padded, count, taps, first, factor, total):
    """Fill total[i] with first + factor * the sum of padded[i] to padded[i + taps - 1]."""
    for i in range(count):
        total[np.uintp(i)] = padded[np.uintp(i)]
    pairs = 1
    for t in range(1, taps - 1, 2):
        for i in range(count):
            total[np.uintp(i)] += padded[np.uintp(i + t)] + padded[np.uintp(i + t + 1)]
        pairs = t + 2
    for t in range(pairs, taps):
        for i in range(count):
            total[np.uintp(i)] += padded[np.uintp(i + t)]
    for i in range(count):
        total[np.uintp(i)] = first + factor * total[np.uintp(i)]


@jit(inner=True)
def square_sums(x, at, pixels, C, before, after, kappa, lam, padded, s):
    """Fill s, in rows of C + before + after, with kappa + lam * the window's sum of squares."""
    pitch, zero = C + before + after, x.dtype.type(0)
    for p in range(pixels):
        source, to = at + p * C, p * pitch
        for i in range(before):
            padded[np.uintp(to + i)] = zero
        for i in range(C):
            v = x[np.uintp(source + i)]
            padded[np.uintp(to + before + i)] = v * v
        for i in range(before + C, pitch):
            padded[np.uintp(to + i)] = zero
    for i in range(pixels * pitch, padded.size):
        padded[np.uintp(i)] = zero
    add_taps(padded, pixels * pitch, before + after + 1, x.dtype.type(kappa), x.dtype.type(lam), s)


@jit(inner=True)
def respond(block, thread, x, C, window, numbers, how, y):
    """Fill a block of pixels."""
    (before, after, pixels), (kappa, lam, mu) = window, numbers
    at, pitch = block * pixels * C, C + before + after
    pixels = min(pixels, (x.size - at) // C)
    buffers = np.empty((3, pixels * pitch + before + after), x.dtype)
    s, f = buffers[1], buffers[2]
    square_sums(x, at, pixels, C, before, after, kappa, lam, buffers[0], s)
    power(s, pixels * pitch, how, mu, f)
    for p in range(pixels):
        source, row = at + p * C, p * pitch
        for i in range(C):
            y[np.uintp(source + i)] = x[np.uintp(source + i)] * f[np.uintp(row + i)]


@jit
def respond_all(team, x, C, window, numbers, how, y):
    """Do `local_response_forward`."""
    share(team, (x.size + window[2] * C - 1) // (window[2] * C), respond, (x, C, window, numbers, how, y))


def _settings(C, before, after, kappa, lam, mu):
    window = min(before, C - 1), min(after, C - 1), max(1, BLOCK // C)
    return C, window, (float(kappa), float(lam), float(mu)), POWERS.get(mu, ANY)


@repeatable
def local_response_forward(x, before, after, kappa, lam, mu, y):
    """Fill y (M, C)."""
    if x.size:
        settings = _settings(x.shape[1], before, after, kappa, lam, mu)
        call_parallel(x.size > SMALL, respond_all, x.reshape(-1), *settings, y.reshape(-1))


@jit(inner=True)
def respond_back(block, thread, x, dy, C, window, numbers, how, dx):
    """Fill a block of pixels of dx."""
    (before, after, pixels), (kappa, lam, mu) = window, numbers
    at, pitch, kind = block * pixels * C, C + before + after, x.dtype.type
    pixels = min(pixels, (x.size - at) // C)
    buffers = np.empty((4, pixels * pitch + before + after), x.dtype)
    padded, s, f, shared = buffers[0], buffers[1], buffers[2], buffers[3]
    square_sums(x, at, pixels, C, before, after, kappa, lam, padded, s)
    power(s, pixels * pitch, how, mu, f)
    padded[:] = 0
    for p in range(pixels):
        source, row, to = at + p * C, p * pitch, p * pitch + after
        for i in range(C):
            part = dy[np.uintp(source + i)] * x[np.uintp(source + i)]
            padded[np.uintp(to + i)] = part * f[np.uintp(row + i)] / s[np.uintp(row + i)]
    add_taps(padded, pixels * pitch, before + after + 1, kind(0), kind(2 * lam * mu), shared)
    for p in range(pixels):
        source, row = at + p * C, p * pitch
        for i in range(C):
            own = dy[np.uintp(source + i)] * f[np.uintp(row + i)]
            dx[np.uintp(source + i)] = own - x[np.uintp(source + i)] * shared[np.uintp(row + i)]


@jit
def respond_all_back(team, x, dy, C, window, numbers, how, dx):
    """Do `local_response_backward_input`."""
    share(team, (x.size + window[2] * C - 1) // (window[2] * C), respond_back, (x, dy, C, window, numbers, how, dx))


@repeatable
def local_response_backward_input(x, dy, before, after, kappa, lam, mu, dx):
    """Fill dx (M, C)."""
    if x.size:
        settings = _settings(x.shape[1], before, after, kappa, lam, mu)
        call_parallel(x.size > SMALL, respond_all_back, x.reshape(-1), dy.reshape(-1), *settings, dx.reshape(-1))


@jit(inner=True)
def blur(plane, down, across, padded, half, out):
    """Fill out (H, W) with the weighted means of plane: across (T, W) along rows, then down (H, T) along columns."""
    (H, W), T = plane.shape, down.shape[1]
    middle = T // 2
    padded[:] = 0
    for h in range(H):
        for w in range(W):
            padded[np.uintp(middle + w)] = plane[h, np.uintp(w)]
        for w in range(W):
            half[h, np.uintp(w)] = 0
        for t in range(T):
            for w in range(W):
                half[h, np.uintp(w)] += across[t, np.uintp(w)] * padded[np.uintp(w + t)]
    for h in range(H):
        for w in range(W):
            out[h, np.uintp(w)] = 0
        for t in range(max(0, middle - h), min(T, H + middle - h)):
            weight, source = down[h, t], h + t - middle
            for w in range(W):
                out[h, np.uintp(w)] += weight * half[source, np.uintp(w)]


@jit(inner=True, reorder=True)
def channel_sum(a, at, C):
    """Return the sum of C elements from `at`."""
    total = a.dtype.type(0)
    for c in range(C):
        total += a[np.uintp(at + c)]
    return total


@jit(inner=True, reorder=True)
def channel_product(a, b, at, C):
    """Return the sum of C products from `at`."""
    total = a.dtype.type(0)
    for c in range(C):
        total += a[np.uintp(at + c)] * b[np.uintp(at + c)]
    return total


@jit(inner=True)
def contrast_image(n, thread, x, C, down, across, subtract, divide, eps, y, deviation):
    """Fill image n of y, and its plane of deviations."""
    (_, H, W), kind, T = deviation.shape, x.dtype.type, down.shape[1]
    pixels, planes, padded = H * W, np.empty((2, H, W), x.dtype), np.empty(W + T, x.dtype)
    plane, half, spread, at = planes[0], planes[1], deviation[n], n * H * W * C
    flat, part = spread.reshape(-1), plane.reshape(-1)
    for p in range(pixels):
        part[p] = channel_sum(x, at + p * C, C) / kind(C) if subtract else kind(0)
    if subtract:
        blur(plane, down, across, padded, half, spread)
        for p in range(pixels):
            for c in range(at + p * C, at + p * C + C):
                y[c] = x[c] - flat[p]
    else:
        y[at : at + pixels * C] = x[at : at + pixels * C]
    spread[:] = 0
    if not divide:
        return
    for p in range(pixels):
        part[p] = channel_product(y, y, at + p * C, C) / kind(C)
    blur(plane, down, across, padded, half, spread)
    total = 0.0
    for p in range(pixels):
        flat[p] = math.sqrt(flat[p])
        total += flat[p]
    average = max(total / pixels, eps) if total == total else total
    for p in range(pixels):
        inverse = kind(1) / max(flat[p], kind(average)) if flat[p] == flat[p] else flat[p]
        for c in range(at + p * C, at + p * C + C):
            y[c] *= inverse


@jit
def contrast_images(team, x, C, down, across, subtract, divide, eps, y, deviation):
    """Do `local_contrast_forward`."""
    share(team, deviation.shape[0], contrast_image, (x, C, down, across, subtract, divide, eps, y, deviation))


def local_contrast_forward(x, weights_h, weights_w, subtract, divide, eps, y, deviation):
    """Fill y (N, H, W, C), and deviation with D where it divides, else with 0."""
    down, across = np.ascontiguousarray(weights_h, x.dtype), np.ascontiguousarray(weights_w.T, x.dtype)
    how = x.shape[3], down, across, bool(subtract), bool(divide), float(eps)
    if x.size:
        call_parallel(x.size > SMALL, contrast_images, x.reshape(-1), *how, y.reshape(-1), deviation)


@jit(inner=True)
def contrast_image_back(n, thread, y, deviation, dy, C, down, across, subtract, divide, eps, dx):
    """Fill image n of dx; down and across are the adjoint's weights."""
    (_, H, W), kind, T = deviation.shape, y.dtype.type, down.shape[1]
    pixels, planes, padded = H * W, np.empty((3, H, W), y.dtype), np.empty(W + T, y.dtype)
    plane, half, blurred, at = planes[0], planes[1], planes[2], n * H * W * C
    spread, part, shared = deviation[n].reshape(-1), plane.reshape(-1), blurred.reshape(-1)
    dx[at : at + pixels * C] = dy[at : at + pixels * C]
    if divide:
        total, outside = 0.0, 0.0
        for p in range(pixels):
            total += spread[p]
        average = kind(total / pixels)
        least = max(average, kind(eps))
        for p in range(pixels):
            part[p] = -channel_product(y, dy, at + p * C, C) / max(spread[p], least)
            if not spread[p] > least:
                outside += part[p]
                part[p] = 0
        by_average = kind(outside / pixels) if average > kind(eps) else kind(0)
        for p in range(pixels):
            by_spread = part[p] + by_average
            part[p] = by_spread / (kind(2) * spread[p]) if spread[p] > 0 else kind(0)
        blur(plane, down, across, padded, half, blurred)
        for p in range(pixels):
            divisor = max(spread[p], least)
            inverse, along = kind(1) / divisor, kind(2) / kind(C) * divisor * shared[p]
            for c in range(at + p * C, at + p * C + C):
                dx[c] = dy[c] * inverse + along * y[c]
    if subtract:
        for p in range(pixels):
            part[p] = channel_sum(dx, at + p * C, C) / kind(C)
        blur(plane, down, across, padded, half, blurred)
        for p in range(pixels):
            for c in range(at + p * C, at + p * C + C):
                dx[c] -= shared[p]


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


def local_contrast_backward_input(y, deviation, dy, weights_h, weights_w, subtract, divide, eps, dx):
    """Fill dx; where D is 0, so is its gradient."""
    down = np.ascontiguousarray(adjoint(weights_h), y.dtype)
    across = np.ascontiguousarray(adjoint(weights_w).T, y.dtype)
    how = y.shape[3], down, across, bool(subtract), bool(divide), float(eps)
    if y.size:
        arrays = y.reshape(-1), deviation, dy.reshape(-1)
        call_parallel(y.size > SMALL, contrast_images_back, *arrays, *how, dx.reshape(-1))
