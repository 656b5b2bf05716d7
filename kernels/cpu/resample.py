"""Enlarging and putting back: interpolation, and pixels put where a maximum stood.

    x (N, D, H, W, C)   y (N, O, P, Q, C)   positions, as x: flat places in the D * H * W pixels of y

Interpolation is a weighted sum along each axis (`spans.samples`), done by pooling's sweeps; its gradient is the same
sum the other way.
"""

from functools import lru_cache

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.sweep import sweep
from fastcnn.kernels.cpu.sweep_code import SUM, WEIGH
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.windows import Axis, Tables, tables
from fastcnn.kernels.reference.spans import samples

SMALL = 1 << 15  # elements: for fewer no second thread wakes
CHANNELS = 16  # that a task puts back: a cache line of them in float32


@lru_cache(maxsize=256)
def _tables(transposed, C, image, output, how) -> tuple[int, Tables]:
    """Return the mode and tables; `how` holds a `Sampling` for each axis."""
    axes = []
    for size, outputs, one in zip(image, output, how, strict=True):
        axis = Axis(size, samples(size, outputs, one), [1.0] * outputs)
        axes.append(axis.transpose() if transposed else axis)
    weighs = any(weight != 1 for axis in axes for met in axis.meetings for _, weight in met)
    return WEIGH if weighs else SUM, tables(axes, C, codes=False)


def upsample_forward(x, how, y):
    """Fill y with x interpolated; `how` holds a `Sampling` for each of three axes."""
    sweep(*_tables(False, x.shape[4], x.shape[1:4], y.shape[1:4], how), x, y)


def upsample_backward_input(dy, how, dx):
    """Fill dx: every pixel collects dy from the outputs that it went to, by its weight in each."""
    sweep(*_tables(True, dx.shape[4], dx.shape[1:4], dy.shape[1:4], how), dy, dx)


@jit(inner=True)
def _put_task(task, thread, x, positions, parts, y):
    """Put some channels of an image back: x (N, pixels, C), y (N, pixels, C)."""
    n, first = task // parts, task % parts * CHANNELS
    last = min(first + CHANNELS, y.shape[2])
    y[n, :, first:last] = 0
    for pixel in range(x.shape[1]):
        for c in range(first, last):
            place = int(positions[n, pixel, c])
            if 0 <= place < y.shape[1]:
                y[n, place, c] = x[n, pixel, c]


@jit
def _put(team, x, positions, y):
    parts = (y.shape[2] + CHANNELS - 1) // CHANNELS
    share(team, y.shape[0] * parts, _put_task, (x, positions, parts, y))


@jit(inner=True)
def _take_task(task, thread, dy, positions, parts, dx):
    """Take the gradient of some channels of an image from where they were put."""
    n, first = task // parts, task % parts * CHANNELS
    last = min(first + CHANNELS, dy.shape[2])
    for pixel in range(dx.shape[1]):
        for c in range(first, last):
            place = int(positions[n, pixel, c])
            dx[n, pixel, c] = dy[n, place, c] if 0 <= place < dy.shape[1] else 0


@jit
def _take(team, dy, positions, dx):
    parts = (dy.shape[2] + CHANNELS - 1) // CHANNELS
    share(team, dy.shape[0] * parts, _take_task, (dy, positions, parts, dx))


def _flat(*arrays):
    """Return arrays (N, D, H, W, C) as (N, D * H * W, C)."""
    return [
        array.reshape(array.shape[0], array.shape[1] * array.shape[2] * array.shape[3], array.shape[4])
        for array in arrays
    ]


def max_unpool_forward(x, positions, y):
    """Fill y with zeros, and x put at its positions; of several at one position the last stays."""
    call_parallel(y.size > SMALL, _put, *_flat(x, positions, y))


def max_unpool_backward_input(dy, positions, dx):
    """Fill dx with dy as it stands at the positions."""
    call_parallel(dx.size > SMALL, _take, *_flat(dy, positions, dx))
