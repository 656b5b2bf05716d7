"""Pooling: the maximum or the mean of every window, channel by channel.

    x (N, D, H, W, C)   window (T, R, S)   y (N, O, P, Q, C)

Window (o, p, q) starts at pixel (o, p, q) * stride - pad. The outputs may be more than fit
(ceil_mode): the last windows then hang over the padded image. Pixels outside the image never win a
maximum and add 0 to a mean.
"""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.taps import Array, Padding, Triple, each_tap, inside, pad, tap_view

ADJACENT = (1, 1, 1)  # the dilation of a mean's window


def overhang(
    image: tuple[int, ...],
    output: tuple[int, ...],
    window: Triple,
    stride: Triple,
    padding: Padding,
    dilation: Triple,
) -> Triple:
    """Return by how many pixels, per axis, the last window reaches past the padded image."""
    depth, height, width = (
        max(0, (size_y - 1) * step + (taps - 1) * apart + 1 - (size + before + after))
        for size, size_y, taps, step, (before, after), apart in zip(
            image, output, window, stride, padding, dilation, strict=True
        )
    )
    return depth, height, width


def max_pool_forward(
    x: Array,
    window: Triple,
    stride: Triple,
    padding: Padding,
    dilation: Triple,
    y: Array,
    winner: npt.NDArray[np.integer],
) -> None:
    """Fill y with the maxima and winner with the tap (t * R + r) * S + s of the first maximum.

    The first NaN of a window wins it. A window without a pixel of the image gives minus infinity
    and tap 0.
    """
    output = y.shape[1:4]
    more = overhang(x.shape[1:4], output, window, stride, padding, dilation)
    padded, real = pad(x, padding, more), pad(np.ones_like(x, dtype=bool), padding, more)
    y[...] = -np.inf
    winner[...] = 0
    found = np.zeros(y.shape, dtype=bool)
    for index, tap in enumerate(each_tap(window)):
        pixels = tap_view(padded, tap, output, stride, dilation)
        here = tap_view(real, tap, output, stride, dilation)
        better = here & (~found | (pixels > y) | (np.isnan(pixels) & ~np.isnan(y)))
        y[better] = pixels[better]
        winner[better] = index
        found |= here


def max_pool_backward_input(
    dy: Array,
    winner: npt.NDArray[np.integer],
    window: Triple,
    stride: Triple,
    padding: Padding,
    dilation: Triple,
    dx: Array,
) -> None:
    """Fill dx: every pixel collects dy from the windows that it won."""
    output = dy.shape[1:4]
    more = overhang(dx.shape[1:4], output, window, stride, padding, dilation)
    padded = pad(np.zeros_like(dx), padding, more)
    for index, tap in enumerate(each_tap(window)):
        pixels = tap_view(padded, tap, output, stride, dilation)
        pixels += np.where(winner == index, dy, 0)
    dx[...] = inside(padded, padding, dx.shape)


def divisors(
    image: tuple[int, ...],
    output: tuple[int, ...],
    window: Triple,
    stride: Triple,
    padding: Padding,
    count_include_pad: bool,
    divisor: int,
) -> Array:
    """Return what every window's sum is divided by, shaped (O, P, Q, 1).

    That is `divisor` where it is not 0; else the number of the window's pixels inside the padded
    image (count_include_pad) or inside the image itself, and 1 where there are none. Pixels past
    the padded image never count.
    """
    if divisor:
        return np.full((*output, 1), float(divisor))
    counts = []
    for size, size_y, taps, step, (before, after) in zip(image, output, window, stride, padding, strict=True):
        start = np.arange(size_y) * step - before
        first, last = (-before, size + after) if count_include_pad else (0, size)
        counts.append(np.minimum(start + taps, last) - np.maximum(start, first))
    depth, height, width = (np.maximum(count, 0) for count in counts)
    count = np.multiply.outer(np.multiply.outer(depth, height), width)
    return np.maximum(count, 1)[..., np.newaxis].astype(np.float64)


def avg_pool_forward(
    x: Array,
    window: Triple,
    stride: Triple,
    padding: Padding,
    count_include_pad: bool,
    divisor: int,
    y: Array,
) -> None:
    """Fill y with the sum of every window over its divisor (see `divisors`)."""
    output = y.shape[1:4]
    padded = pad(x, padding, overhang(x.shape[1:4], output, window, stride, padding, ADJACENT))
    total = np.zeros(y.shape)
    for tap in each_tap(window):
        total += tap_view(padded, tap, output, stride, ADJACENT)
    image = x.shape[1:4]
    y[...] = total / divisors(image, output, window, stride, padding, count_include_pad, divisor)


def avg_pool_backward_input(
    dy: Array,
    window: Triple,
    stride: Triple,
    padding: Padding,
    count_include_pad: bool,
    divisor: int,
    dx: Array,
) -> None:
    """Fill dx: every pixel collects dy over the divisor from the windows that hold it."""
    image, output = dx.shape[1:4], dy.shape[1:4]
    share = dy / divisors(image, output, window, stride, padding, count_include_pad, divisor)
    more = overhang(image, output, window, stride, padding, ADJACENT)
    padded = pad(np.zeros(dx.shape), padding, more)
    for tap in each_tap(window):
        pixels = tap_view(padded, tap, output, stride, ADJACENT)
        pixels += share
    dx[...] = inside(padded, padding, dx.shape)
