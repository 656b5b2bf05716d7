"""How far a timed pass is from float64: the error of sampled elements, by its definition.

The error of a row is max |y - reference| / rms(reference) over `SAMPLES` elements drawn at random
(all of them where there are fewer): an absolute error in units of a typical output, so that an
output near 0 does not blow it up. The reference is summed in float64 for those elements alone,
which costs next to nothing and checks the very arrays that were timed.

Axis letters as in the kernels: x (N, D, H, W, C)   w (T, R, S, C / groups, K)   y (N, O, P, Q, K).
"""

import numpy as np
from numpy.typing import NDArray

from fastcnn.bench.shapes.convolution import Convolution

SAMPLES = 256

Array = NDArray[np.floating]


def relative_error(got: Array, reference: Array) -> float:
    """Return max |got - reference| / rms(reference)."""
    scale = float(np.sqrt(np.mean(np.square(reference)))) or 1.0
    return float(np.max(np.abs(got.astype(np.float64) - reference))) / scale


def drawn(size: int) -> NDArray[np.int64]:
    """Return the flat indices to look at, in an array of `size` elements."""
    if size <= SAMPLES:
        return np.arange(size)
    return np.random.default_rng(0).choice(size, SAMPLES, replace=False)


def forward_error(c: Convolution, x: Array, w: Array, y: Array) -> float:
    """Return the error of y = x * w at sampled outputs."""
    at = drawn(y.size)
    n, *position, k = np.unravel_index(at, y.shape)
    begin = k // (c.filters // c.groups) * (c.channels // c.groups)
    channel = begin[:, None] + np.arange(c.channels // c.groups)
    reference = np.zeros(at.size)
    for tap in np.ndindex(*c.window):
        pixel = [position[a] * c.stride[a] + tap[a] * c.dilation[a] - c.padding[a] for a in range(3)]
        inside = within(pixel, c.image)
        d, h, v = (np.where(inside, axis, 0)[:, None] for axis in pixel)
        taps = x[n[:, None], d, h, v, channel].astype(np.float64) * w[tap][:, k].T
        reference += np.where(inside, taps.sum(axis=1), 0)
    return relative_error(y.reshape(-1)[at], reference)


def backward_input_error(c: Convolution, dy: Array, w: Array, dx: Array) -> float:
    """Return the error of dx at sampled pixels: each collects w * dy from its outputs."""
    at = drawn(dx.size)
    n, *pixel, channel = np.unravel_index(at, dx.shape)
    group, own = np.divmod(channel, c.channels // c.groups)
    k = (group * (c.filters // c.groups))[:, None] + np.arange(c.filters // c.groups)
    reference = np.zeros(at.size)
    for tap in np.ndindex(*c.window):
        reach = [pixel[a] + c.padding[a] - tap[a] * c.dilation[a] for a in range(3)]
        on_grid = np.logical_and.reduce([reach[a] % c.stride[a] == 0 for a in range(3)])
        position = [reach[a] // c.stride[a] for a in range(3)]
        inside = on_grid & within(position, c.output)
        o, p, q = (np.where(inside, axis, 0)[:, None] for axis in position)
        taps = dy[n[:, None], o, p, q, k].astype(np.float64) * w[tap][own[:, None], k]
        reference += np.where(inside, taps.sum(axis=1), 0)
    return relative_error(dx.reshape(-1)[at], reference)


def backward_weight_error(c: Convolution, x: Array, dy: Array, dw: Array) -> float:
    """Return the error of dw at sampled weights: each collects x * dy over its positions."""
    at = drawn(dw.size)
    reference = np.empty(at.size)
    for i, index in enumerate(zip(*np.unravel_index(at, dw.shape), strict=True)):
        *tap, own, k = (int(j) for j in index)
        channel = k // (c.filters // c.groups) * (c.channels // c.groups) + own
        images, outputs = zip(*(_overlap(c, a, tap[a]) for a in range(3)), strict=True)
        pixels, errors = x[(slice(None), *images, channel)], dy[(slice(None), *outputs, k)]
        reference[i] = np.sum(pixels.astype(np.float64) * errors)
    return relative_error(dw.reshape(-1)[at], reference)


def within(position: list[NDArray[np.int64]], size: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Tell which positions, given by axis, lie within an array of this size."""
    return np.logical_and.reduce([(position[a] >= 0) & (position[a] < size[a]) for a in range(3)])


def _overlap(c: Convolution, axis: int, tap: int) -> tuple[slice, slice]:
    """Return the pixels that a tap meets along one axis, and the outputs that they went into."""
    shift, stride = tap * c.dilation[axis] - c.padding[axis], c.stride[axis]
    first = max(0, -(shift // stride))
    last = min(c.output[axis] - 1, (c.image[axis] - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first * stride + shift, last * stride + shift + 1, stride), slice(first, last + 1)
