"""Pooling: the maximum, the mean or the norm of every window, channel by channel.

    x (N, D, H, W, C)   window (T, R, S)   y (N, O, P, Q, C)

Window (o, p, q) starts at pixel (o, p, q) * stride - pad. The outputs may be more than fit
(ceil_mode): the last windows then hang over the padded image. Pixels outside the image never win a
maximum and add 0 to a mean.
"""

from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.problem import Padding, Triple
from fastcnn.kernels.reference.definition.windows import Array, each_tap, inside, pad, tap_view
from fastcnn.kernels.sampling import adaptive_span, adaptive_window, gaussian_weights

ADJACENT = (1, 1, 1)  # the dilation of a mean's window
UNPADDED: Padding = ((0, 0), (0, 0), (0, 0))

Box = tuple[slice, ...]


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

    The last NaN of a window wins it, as in PyTorch. A window without a pixel of the image gives minus infinity
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
        better = here & (~found | (pixels > y) | np.isnan(pixels))
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


def adaptive_windows(image: tuple[int, ...], output: tuple[int, ...]) -> Iterator[tuple[Triple, Box]]:
    """Yield the position of every output and the box of pixels that is its adaptive window."""
    for position in np.ndindex(*output):
        spans = map(adaptive_span, image, output, position)
        yield position, tuple(slice(*span) for span in spans)


def adaptive_max_pool_forward(x: Array, y: Array, winner: npt.NDArray[np.integer]) -> None:
    """Fill y with the maxima of adaptive windows, and winner with taps as numbered in the largest of them."""
    N, C, largest = x.shape[0], x.shape[4], adaptive_window(x.shape[1:4], y.shape[1:4])
    for (o, p, q), box in adaptive_windows(x.shape[1:4], y.shape[1:4]):
        pixels = x[:, *box]
        size = pixels.shape[1:4]
        flat = pixels.reshape(N, prod(size), C)
        lost = np.isnan(flat)
        last = lost.shape[1] - 1 - lost[:, ::-1].argmax(1)
        tap = np.where(lost.any(1), last, flat.argmax(1))  # of equals the first, of NaNs the last
        winner[:, o, p, q] = np.ravel_multi_index(np.unravel_index(tap, size), largest)
        y[:, o, p, q] = np.take_along_axis(flat, tap[:, np.newaxis], 1)[:, 0]


def adaptive_max_pool_backward_input(dy: Array, winner: npt.NDArray[np.integer], dx: Array) -> None:
    """Fill dx: every pixel collects dy from the windows that it won."""
    largest = adaptive_window(dx.shape[1:4], dy.shape[1:4])
    dx[...] = 0
    for (o, p, q), box in adaptive_windows(dx.shape[1:4], dy.shape[1:4]):
        size = tuple(axis.stop - axis.start for axis in box)
        for tap in np.ndindex(*size):
            d, h, w = (axis.start + t for axis, t in zip(box, tap, strict=True))
            dx[:, d, h, w] += np.where(winner[:, o, p, q] == np.ravel_multi_index(tap, largest), dy[:, o, p, q], 0)


def adaptive_max_pool_positions(
    winner: npt.NDArray[np.integer], image: tuple[int, ...], positions: npt.NDArray[np.int64]
) -> None:
    """Fill positions with the flat places of the maxima in the image (D, H, W)."""
    largest = adaptive_window(image, winner.shape[1:4])
    for (o, p, q), box in adaptive_windows(image, winner.shape[1:4]):
        tap = np.unravel_index(winner[:, o, p, q], largest)
        place = [axis.start + t for axis, t in zip(box, tap, strict=True)]
        positions[:, o, p, q] = np.ravel_multi_index(tuple(place), image)


def adaptive_avg_pool_forward(x: Array, y: Array) -> None:
    """Fill y with the means of adaptive windows."""
    for (o, p, q), box in adaptive_windows(x.shape[1:4], y.shape[1:4]):
        y[:, o, p, q] = x[:, *box].mean((1, 2, 3), dtype=np.float64)


def adaptive_avg_pool_backward_input(dy: Array, dx: Array) -> None:
    """Fill dx: every pixel collects dy over the window's pixels from the windows that hold it."""
    total = np.zeros(dx.shape)
    for (o, p, q), box in adaptive_windows(dx.shape[1:4], dy.shape[1:4]):
        pixels = prod(axis.stop - axis.start for axis in box)
        total[:, *box] += (dy[:, o, p, q] / pixels)[:, np.newaxis, np.newaxis, np.newaxis]
    dx[...] = total


def max_pool_positions(
    winner: npt.NDArray[np.integer],
    window: Triple,
    stride: Triple,
    padding: Padding,
    dilation: Triple,
    image: tuple[int, ...],
    positions: npt.NDArray[np.int64],
) -> None:
    """Fill positions with the flat places of the maxima in the image (D, H, W), from the winning taps."""
    tap = np.unravel_index(winner, window)
    output = np.indices(winner.shape)[1:4]
    d, h, w = (output[a] * stride[a] - padding[a][0] + tap[a] * dilation[a] for a in range(3))
    positions[...] = (d * image[1] + h) * image[2] + w


def lp_pool_forward(x: Array, power: float, window: Triple, stride: Triple, y: Array) -> None:
    """Fill y with the p-norm (sum |x|^p)^(1/p) of every window."""
    output = y.shape[1:4]
    padded = pad(x, UNPADDED, overhang(x.shape[1:4], output, window, stride, UNPADDED, ADJACENT)).astype(np.float64)
    total = sum(np.abs(tap_view(padded, tap, output, stride, ADJACENT)) ** power for tap in each_tap(window))
    y[...] = total ** (1 / power)


def lp_pool_backward_input(
    x: Array, y: Array, dy: Array, power: float, window: Triple, stride: Triple, dx: Array
) -> None:
    """Fill dx: every pixel collects dy sign(x) (|x| / y)^(p - 1) from its windows, and 0 from those whose y is 0."""
    output = y.shape[1:4]
    more = overhang(x.shape[1:4], output, window, stride, UNPADDED, ADJACENT)
    padded, total = pad(x, UNPADDED, more).astype(np.float64), pad(np.zeros(x.shape), UNPADDED, more)
    norm = np.where(y == 0, 1, y).astype(np.float64)
    for tap in each_tap(window):
        pixels = tap_view(padded, tap, output, stride, ADJACENT)
        sums = tap_view(total, tap, output, stride, ADJACENT)
        slope = np.sign(pixels) * (np.abs(pixels) / norm) ** (power - 1)
        sums += np.where((y == 0) | (pixels == 0), 0, dy * slope)
    dx[...] = inside(total, UNPADDED, x.shape)


def gaussian_shares(
    image: tuple[int, ...],
    output: tuple[int, ...],
    window: Triple,
    stride: Triple,
    padding: Padding,
    sigma: tuple[float, float, float],
) -> Array:
    """Return the weight of every tap in every window, (T, R, S, O, P, Q, 1): those inside the image sum to 1."""
    axes = []
    for size, outputs, taps, step, (before, _), width in zip(
        image, output, window, stride, padding, sigma, strict=True
    ):
        pixel = np.arange(outputs) * step - before + np.arange(taps)[:, np.newaxis]
        weights = np.where((pixel >= 0) & (pixel < size), gaussian_weights(taps, width)[:, np.newaxis], 0)
        total = weights.sum(0)
        axes.append(weights / np.where(total == 0, 1, total))
    shares: Array = np.einsum("to,rp,sq->trsopq", *axes)[..., np.newaxis]
    return shares


def gaussian_pool_forward(
    x: Array,
    window: Triple,
    stride: Triple,
    padding: Padding,
    sigma: tuple[float, float, float],
    y: Array,
) -> None:
    """Fill y with the weighted mean of every window, over its pixels inside the image."""
    output = y.shape[1:4]
    shares = gaussian_shares(x.shape[1:4], output, window, stride, padding, sigma)
    padded = pad(x, padding, overhang(x.shape[1:4], output, window, stride, padding, ADJACENT))
    y[...] = sum(shares[tap] * tap_view(padded, tap, output, stride, ADJACENT) for tap in each_tap(window))


def gaussian_pool_backward_input(
    dy: Array,
    window: Triple,
    stride: Triple,
    padding: Padding,
    sigma: tuple[float, float, float],
    dx: Array,
) -> None:
    """Fill dx: every pixel collects dy from the windows that hold it, by its weight in each."""
    output = dy.shape[1:4]
    shares = gaussian_shares(dx.shape[1:4], output, window, stride, padding, sigma)
    more = overhang(dx.shape[1:4], output, window, stride, padding, ADJACENT)
    padded = pad(np.zeros(dx.shape), padding, more)
    for tap in each_tap(window):
        pixels = tap_view(padded, tap, output, stride, ADJACENT)
        pixels += shares[tap] * dy
    dx[...] = inside(padded, padding, dx.shape)
