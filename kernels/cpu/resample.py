"""Enlarging and putting back: interpolation, and pixels put where a maximum stood.

    x (N, D, H, W, C)   y (N, O, P, Q, C)   positions, as x: flat places in the D * H * W pixels of y

Interpolation is a weighted sum along each axis (`spans.samples`), done by pooling's sweeps; its gradient is the same
sum the other way.
"""

from functools import lru_cache
from math import prod

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.sweep import sweep
from fastcnn.kernels.cpu.sweep_code import PLACE, SUM, WEIGH
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.windows import Axis, Tables, tables
from fastcnn.kernels.reference.spans import samples

SMALL = 1 << 15  # elements: for fewer no second thread wakes
FEW_IMAGES = 8  # fewer are put back in parts of the channels
CHANNELS = 16  # of such a part: a cache line of them in float32


def _axes(image, output, how) -> list[Axis]:
    return [
        Axis(size, samples(size, outputs, one), [1.0] * outputs)
        for size, outputs, one in zip(image, output, how, strict=True)
    ]


def _weighs(axes) -> bool:
    return any(weight != 1 for axis in axes for met in axis.meetings for _, weight in met)


@lru_cache(maxsize=256)
def _forward(C, image, output, how) -> tuple[int, Tables]:
    """Return the mode and tables; where outputs copy a pixel each, a pixel writes its own."""
    axes = _axes(image, output, how)
    back = [axis.transpose() for axis in axes]
    if not _weighs(axes) and all(axis.tiles() for axis in back):
        return PLACE, tables(back, C, codes=False)
    return WEIGH, tables(axes, C, codes=False)


@lru_cache(maxsize=256)
def _backward(C, image, output, how) -> tuple[int, Tables]:
    axes = _axes(image, output, how)
    return WEIGH if _weighs(axes) else SUM, tables([axis.transpose() for axis in axes], C, codes=False)


def upsample_forward(x, how, y):
    """Fill y with x interpolated; `how` holds a `Sampling` for each of three axes."""
    sweep(*_forward(x.shape[4], x.shape[1:4], y.shape[1:4], how), x, y)


def upsample_backward_input(dy, how, dx):
    """Fill dx: every pixel collects dy from the outputs that it went to, by its weight in each."""
    sweep(*_backward(dx.shape[4], dx.shape[1:4], dy.shape[1:4], how), dy, dx)


@jit(inner=True)
def _put_task(task, thread, x, positions, channels, pixels, parts, size, y):
    """Put some channels of an image back: x `pixels` of an image, y `size`."""
    n, first = task // parts, task % parts * channels // parts
    last = (task % parts + 1) * channels // parts
    for place in range(size):
        for c in range(first, last):
            y[np.uintp((n * size + place) * channels + c)] = 0
    for pixel in range(pixels):
        for c in range(first, last):
            i = (n * pixels + pixel) * channels + c
            place = np.int64(positions[np.uintp(i)])
            if 0 <= place < size:
                y[np.uintp((n * size + place) * channels + c)] = x[np.uintp(i)]


@jit
def _put(team, images, x, positions, channels, pixels, parts, size, y):
    share(team, images * parts, _put_task, (x, positions, channels, pixels, parts, size, y))


@jit(inner=True)
def _take_task(task, thread, dy, positions, channels, pixels, size, dx):
    """Take the gradient of one pixel from where it was put."""
    n = task // pixels
    for c in range(channels):
        i = task * channels + c
        place = np.int64(positions[np.uintp(i)])
        inside = 0 <= place < size
        value = dy[np.uintp((n * size + (place if inside else 0)) * channels + c)]
        dx[np.uintp(i)] = value if inside else 0


@jit
def _take(team, images, dy, positions, channels, pixels, size, dx):
    share(team, images * pixels, _take_task, (dy, positions, channels, pixels, size, dx))


def max_unpool_forward(x, positions, y):
    """Fill y with zeros, and x put at its positions; of several at one position the last stays."""
    N, channels, size = y.shape[0], y.shape[4], prod(y.shape[1:4])
    parts = 1 if N >= FEW_IMAGES else -(-channels // CHANNELS)
    flat = x.reshape(-1), positions.reshape(-1)
    call_parallel(y.size > SMALL, _put, N, *flat, channels, prod(x.shape[1:4]), parts, size, y.reshape(-1))


def max_unpool_backward_input(dy, positions, dx):
    """Fill dx with dy as it stands at the positions."""
    N, channels, size = dx.shape[0], dx.shape[4], prod(dy.shape[1:4])
    flat = dy.reshape(-1), positions.reshape(-1)
    call_parallel(dx.size > SMALL, _take, N, *flat, channels, prod(dx.shape[1:4]), size, dx.reshape(-1))
