"""Enlarging and putting back: interpolation, and pixels put where a maximum stood.

    x (N, D, H, W, C)   y (N, O, P, Q, C)   positions, as x: flat places in the D * H * W pixels of y

Interpolation is a weighted sum along each axis (`spans.samples`), done by pooling's sweeps; its gradient is the same
sum the other way.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np

from fastcnn.kernels.cpu.pooling.window_code import PLACE, SUM, WEIGH
from fastcnn.kernels.cpu.pooling.window_loop import sweep
from fastcnn.kernels.cpu.pooling.window_tables import Axis, Tables, tables
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.sampling import Sampling, samples

FEW_IMAGES = 8  # fewer are put back in parts of the channels
BLOCK = 1 << 12  # elements that a task takes from where they were put
LARGEST = (1 << 31) - 1  # elements of an image whose places are computed in 32 bits, twice as many in a vector
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


def upsample_forward(x: np.ndarray, how: Sequence[Sampling], y: np.ndarray) -> None:
    """Fill y with x interpolated; `how` holds a `Sampling` for each of three axes."""
    sweep(*_forward(x.shape[4], x.shape[1:4], y.shape[1:4], how), x, y)


def upsample_backward_input(dy: np.ndarray, how: Sequence[Sampling], dx: np.ndarray) -> None:
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
def _take_task(task, thread, dy, positions, shape, index, dx):
    """Take the gradient of a block of elements, of pixels in an image, from where they were put.

    Three loops, since the first and the last are vectors: where to look, looking there, and 0 for what was not put.
    """
    (pixels, channels, size), at, last = shape, task * BLOCK, min(dx.size, task * BLOCK + BLOCK)
    none, end = positions.dtype.type(0), positions.dtype.type(size)
    places = np.empty(BLOCK, index)
    while at < last:
        pixel, first = at // channels, at % channels
        image, count = dy[pixel // pixels * size * channels :], min(channels - first, last - at)
        for c in range(count):
            position = positions[np.uintp(at + c)]
            place = index(position if none <= position < end else none)
            places[np.uintp(c)] = index(index(place * channels) + index(first + c))
        for c in range(count):
            dx[np.uintp(at + c)] = image[np.uintp(places[np.uintp(c)])]
        for c in range(count):
            position, value = positions[np.uintp(at + c)], dx[np.uintp(at + c)]
            dx[np.uintp(at + c)] = value if none <= position < end else dx.dtype.type(0)
        at += count


@jit
def _take(team, dy, positions, shape, dx):
    _, channels, size = shape
    tasks = (dx.size + BLOCK - 1) // BLOCK
    if size * channels <= LARGEST:
        share(team, tasks, _take_task, (dy, positions, shape, np.int32, dx))
    else:
        share(team, tasks, _take_task, (dy, positions, shape, np.int64, dx))


def max_unpool_forward(x: np.ndarray, positions: np.ndarray, y: np.ndarray) -> None:
    """Fill y with zeros, and x put at its positions; of several at one position the last stays."""
    N, channels, size = y.shape[0], y.shape[4], prod(y.shape[1:4])
    parts = 1 if N >= FEW_IMAGES else -(-channels // CHANNELS)
    flat = x.reshape(-1), positions.reshape(-1)
    call_parallel(y.size > SERIAL_ELEMENTS, _put, N, *flat, channels, prod(x.shape[1:4]), parts, size, y.reshape(-1))


def max_unpool_backward_input(dy: np.ndarray, positions: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx with dy as it stands at the positions."""
    shape = prod(dx.shape[1:4]), dx.shape[4], prod(dy.shape[1:4])
    if dx.size:
        flat = dy.reshape(-1), positions.reshape(-1)
        call_parallel(dx.size > SERIAL_ELEMENTS, _take, *flat, shape, dx.reshape(-1))
