"""Normalization by neighbouring channels or pixels: the definition is in `reference/local_norm.py`.

Local response takes a block of pixels at a time: their squares are laid out with zeros between the pixels, so that one
loop over the whole block adds a tap of all windows, whatever the number of channels. A block whose squares leave
float32's range is taken in float64, an element at a time. Local contrast is in `normalization/local_contrast.py`.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.normalization.local_contrast import local_contrast_backward_input, local_contrast_forward
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_WINDOWS

__all__ = [
    "local_contrast_backward_input", "local_contrast_forward", "local_response_backward_input",
    "local_response_forward",
]  # fmt: skip

BLOCK = 1 << 12  # elements of a block of pixels: its few buffers stay in L1 and L2

LARGE_SQUARES = 1e24  # more of them, to the power of -mu - 1, may leave float32's range

THREE_QUARTERS, HALF, WHOLE, ANY = range(4)  # the powers -mu that roots and divisions give, and the others
POWERS = {0.75: THREE_QUARTERS, 0.5: HALF, 1.0: WHOLE}

MANTISSA, EXPONENT_BIAS = 52, 1023  # of float64
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


@jit(inner=True, reorder=True)
def sum_up(s, count):
    """Return the sum of some numbers."""
    total = s.dtype.type(0)
    for i in range(count):
        total += s[np.uintp(i)]
    return total


@jit(inner=True)
def wide_sum(x, at, c, C, window, numbers):
    """Return kappa + lam * the sum of squares of a channel's window, in float64."""
    (before, after, _), (kappa, lam, _), total = window, numbers, 0.0
    for i in range(max(0, c - before), min(C, c + after + 1)):
        total += np.float64(x[at + i]) * np.float64(x[at + i])
    return kappa + lam * total


@jit(inner=True)
def respond_wide(x, at, pixels, C, window, numbers, y):
    """Fill some pixels, an element at a time."""
    for place in range(at, at + pixels * C, C):
        for c in range(C):
            y[place + c] = x[place + c] * wide_sum(x, place, c, C, window, numbers) ** -numbers[2]


@jit(inner=True)
def respond_back_wide(x, dy, at, pixels, C, window, numbers, dx):
    """Fill some pixels of dx, an element at a time."""
    (before, after, _), (_, lam, mu), sums = window, numbers, np.empty(C, np.float64)
    for place in range(at, at + pixels * C, C):
        for c in range(C):
            sums[c] = wide_sum(x, place, c, C, window, numbers)
        for i in range(C):
            shared = 0.0
            for c in range(max(0, i - after), min(C, i + before + 1)):
                own = np.float64(x[place + c]) * sums[c] ** -mu / sums[c]
                shared += np.float64(dy[place + c]) * own
            dx[place + i] = dy[place + i] * sums[i] ** -mu - 2 * lam * mu * x[place + i] * shared


@jit(inner=True)
def respond(block, thread, x, C, window, numbers, how, y):
    """Fill a block of pixels."""
    (before, after, pixels), (kappa, lam, mu) = window, numbers
    at, pitch = block * pixels * C, C + before + after
    pixels = min(pixels, (x.size - at) // C)
    buffers = np.empty((3, pixels * pitch + before + after), x.dtype)
    s, f = buffers[1], buffers[2]
    square_sums(x, at, pixels, C, before, after, kappa, lam, buffers[0], s)
    if not sum_up(s, pixels * pitch) < LARGE_SQUARES:
        respond_wide(x, at, pixels, C, window, numbers, y)
        return
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


def local_response_forward(
    x: np.ndarray, before: int, after: int, kappa: float, lam: float, mu: float, y: np.ndarray
) -> None:
    """Fill y (M, C)."""
    if x.size:
        settings = _settings(x.shape[1], before, after, kappa, lam, mu)
        call_parallel(x.size > SERIAL_WINDOWS, respond_all, x.reshape(-1), *settings, y.reshape(-1))


@jit(inner=True)
def respond_back(block, thread, x, dy, C, window, numbers, how, dx):
    """Fill a block of pixels of dx."""
    (before, after, pixels), (kappa, lam, mu) = window, numbers
    at, pitch, kind = block * pixels * C, C + before + after, x.dtype.type
    pixels = min(pixels, (x.size - at) // C)
    buffers = np.empty((4, pixels * pitch + before + after), x.dtype)
    padded, s, f, shared = buffers[0], buffers[1], buffers[2], buffers[3]
    square_sums(x, at, pixels, C, before, after, kappa, lam, padded, s)
    if not sum_up(s, pixels * pitch) < LARGE_SQUARES:
        respond_back_wide(x, dy, at, pixels, C, window, numbers, dx)
        return
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


def local_response_backward_input(
    x: np.ndarray, dy: np.ndarray, before: int, after: int, kappa: float, lam: float, mu: float, dx: np.ndarray
) -> None:
    """Fill dx (M, C)."""
    if x.size:
        settings = _settings(x.shape[1], before, after, kappa, lam, mu)
        call_parallel(
            x.size > SERIAL_WINDOWS, respond_all_back, x.reshape(-1), dy.reshape(-1), *settings, dx.reshape(-1)
        )
