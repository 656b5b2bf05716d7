"""Padding of images, constant or from the image itself, and its gradient.

    x (N, D, H, W, C)   y (N, D + before + after, ..., C), per axis

A row a b c, padded by two before and one after: constant 0 0 a b c 0, replicate a a a b c c, reflect c b a b c b,
circular b c a b c a.

A row of y is one row of x, copied in one run, between a few pixels; so each axis needs but a table of which pixel
stands where. A row of dx collects the rows of dy that are copies of it, in their order.
"""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_MOVES
from fastcnn.kernels.cpu.simd.copy import copy_run, stream_run
from fastcnn.kernels.cpu.simd.streaming import streams
from fastcnn.kernels.problem import Padding

MODES = {"constant": 0, "reflect": 1, "replicate": 2, "circular": 3}
CONSTANT, REFLECT, REPLICATE, CIRCULAR = range(4)
OUTSIDE = -1
BLOCK = 1 << 14  # elements of y or dx, at least, that a task fills: whole rows


@jit
def sources(size, pair, mode):
    """Return which pixel of an axis stands at each place of the padded axis, or OUTSIDE where a constant does."""
    before, after = pair
    pixels = np.arange(-before, size + after)
    for i in range(pixels.size):
        at = pixels[i]
        if 0 <= at < size:
            continue
        if mode == CONSTANT:
            pixels[i] = OUTSIDE
        elif mode == REFLECT:
            pixels[i] = -at if at < 0 else 2 * (size - 1) - at
        elif mode == REPLICATE:
            pixels[i] = 0 if at < 0 else size - 1
        else:
            pixels[i] = at % size
    return pixels


@jit
def copies(size, pixels):
    """Return the places where each pixel stands, in their order: those of pixel i are places[starts[i]:starts[i + 1]].

    The inverse of `sources`.
    """
    starts = np.zeros(size + 1, np.int64)
    for pixel in pixels:
        if pixel != OUTSIDE:
            starts[pixel + 1] += 1
    starts = np.cumsum(starts)
    places, filled = np.empty(pixels.size, np.int64), starts.copy()
    for place in range(pixels.size):
        pixel = pixels[place]
        if pixel != OUTSIDE:
            places[filled[pixel]] = place
            filled[pixel] += 1
    return starts, places


@jit(inner=True)
def rows_of(length):
    """Return how many rows of this length a task takes."""
    return (BLOCK + length - 1) // max(1, length)


@jit(inner=True)
def put_pixels(x, at, pixels, first, last, C, value, y, to):
    """Fill the pixels `first` to `last` of the row of y at `to` from the row of x at `at`."""
    for q in range(first, last):
        start, target = at + pixels[q] * C, to + q * C
        if pixels[q] == OUTSIDE:
            for c in range(C):
                y[np.uintp(target + c)] = value
        else:
            copy_run(x, start, y, target, C)


@jit(inner=True)
def pad_rows(task, thread, x, image, C, left, deep, low, wide, value, past_caches, y):
    """Fill some rows of y, counted through all images and depths."""
    (D, H, W), (O, P, Q) = image, (deep.size, low.size, wide.size)
    height = rows_of(Q * C)
    for row in range(task * height, min(task * height + height, y.size // (Q * C))):
        n, d, h = row // (O * P), deep[row // P % O], low[row % P]
        to = row * Q * C
        if d == OUTSIDE or h == OUTSIDE:
            for i in range(to, to + Q * C):
                y[np.uintp(i)] = value
            continue
        at, middle = ((n * D + d) * H + h) * W * C, to + left * C
        put_pixels(x, at, wide, 0, left, C, value, y, to)
        if past_caches:
            stream_run(x, at, y, middle, W * C)
        else:
            copy_run(x, at, y, middle, W * C)
        put_pixels(x, at, wide, left + W, Q, C, value, y, to)


@jit
def pad_all(team, x, padding, mode, value, past_caches, y):
    """Do `pad_forward`."""
    D, H, W, C = x.shape[1:]
    deep, low, wide = sources(D, padding[0], mode), sources(H, padding[1], mode), sources(W, padding[2], mode)
    length, flat = y.shape[3] * C, y.reshape(-1)
    tasks = (flat.size // max(1, length) + rows_of(length) - 1) // rows_of(length)
    left, fill = padding[2][0], y.dtype.type(value)
    share(team, tasks, pad_rows, (x.reshape(-1), (D, H, W), C, left, deep, low, wide, fill, past_caches, flat))


def pad_forward(x: np.ndarray, padding: Padding, mode: str, value: float, y: np.ndarray) -> None:
    """Fill y with x inside its padding; `value` is the constant one's."""
    if y.size:
        call_parallel(y.size > SERIAL_MOVES, pad_all, x, padding, MODES[mode], float(value), streams(y), y)


@jit(inner=True)
def add_pixels(dy, at, pixels, first, last, C, dx, to):
    """Add the pixels `first` to `last` of the row of dy at `at` to those of the row of dx at `to` that they copy."""
    for q in range(first, last):
        if pixels[q] != OUTSIDE:
            start, target = at + q * C, to + pixels[q] * C
            for c in range(C):
                dx[np.uintp(target + c)] += dy[np.uintp(start + c)]


@jit(inner=True)
def collect_rows(task, thread, dy, output, C, left, deep, low, wide, W, past_caches, dx):
    """Fill some rows of dx, counted through all images and depths."""
    (O, P, Q), (deep_starts, deep_places), (low_starts, low_places) = output, deep, low
    D, H = deep_starts.size - 1, low_starts.size - 1
    height = rows_of(W * C)
    for row in range(task * height, min(task * height + height, dx.size // (W * C))):
        n, d, h, to, first = row // (D * H), row // H % D, row % H, row * W * C, True
        for i in range(deep_starts[d], deep_starts[d + 1]):
            for j in range(low_starts[h], low_starts[h + 1]):
                at = ((n * O + deep_places[i]) * P + low_places[j]) * Q * C
                middle = at + left * C
                if first and past_caches:
                    stream_run(dy, middle, dx, to, W * C)
                elif first:
                    copy_run(dy, middle, dx, to, W * C)
                else:
                    for k in range(W * C):
                        dx[np.uintp(to + k)] += dy[np.uintp(middle + k)]
                first = False
                add_pixels(dy, at, wide, 0, left, C, dx, to)
                add_pixels(dy, at, wide, left + W, Q, C, dx, to)


@jit
def collect_all(team, dy, padding, mode, past_caches, dx):
    """Do `pad_backward_input`."""
    (D, H, W, C), (O, P, Q) = dx.shape[1:], dy.shape[1:4]
    deep, low = copies(D, sources(D, padding[0], mode)), copies(H, sources(H, padding[1], mode))
    wide, left, length, flat = sources(W, padding[2], mode), padding[2][0], W * C, dx.reshape(-1)
    tasks = (flat.size // max(1, length) + rows_of(length) - 1) // rows_of(length)
    share(team, tasks, collect_rows, (dy.reshape(-1), (O, P, Q), C, left, deep, low, wide, W, past_caches, flat))


def pad_backward_input(dy: np.ndarray, padding: Padding, mode: str, dx: np.ndarray) -> None:
    """Fill dx: every pixel collects dy from all places where it stands."""
    if dx.size:
        # Only zeros around an image have no copy to be added to what was just stored.
        past_caches = mode == "constant" and streams(dx)
        call_parallel(dx.size > SERIAL_MOVES, collect_all, dy, padding, MODES[mode], past_caches, dx)
