"""Batches of images gathered and moved: each may be mirrored, and is then shifted.

    images (M, H, W, C)   rows (N,) whole numbers below M   flip, down, right (N,)   fill (C,)   y (N, H, W, C)

    y[n, h, w] = image[h - down[n], w - right[n]]   image = images[rows[n]], mirrored left to right where flip[n]

A place that no pixel has come to gets `fill`. An image is read and written once, so moving it costs little more than
gathering it.
"""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS


@jit(inner=True)
def _fill_pixels(line, fill, first, last):
    """Fill the pixels from first to last of a line (W * C,)."""
    for w in range(first, last):
        for c in range(fill.size):
            line[np.uintp(w * fill.size + c)] = fill[np.uintp(c)]


@jit(inner=True)
def _move_line(source, flip, right, C, first, last, line):
    """Fill the pixels from first to last of a line from the one at home there."""
    if not flip:
        start = (first - right) * C
        for i in range((last - first) * C):
            line[np.uintp(first * C + i)] = source[np.uintp(start + i)]
        return
    home = line.size // C - 1 + right  # the pixel that comes to column 0
    for c in range(C):
        for w in range(first, last):
            line[np.uintp(w * C + c)] = source[np.uintp((home - w) * C + c)]


@jit(inner=True)
def _move_image(n, thread, images, rows, flip, down, right, fill, y):
    H, C = y.shape[1], fill.size
    W = y.shape[2] // C
    first = min(max(right[n], 0), W)
    last = max(min(W + right[n], W), first)
    for h in range(H):
        line, home = y[n, h], h - down[n]
        if home < 0 or home >= H:
            _fill_pixels(line, fill, 0, W)
        else:
            _fill_pixels(line, fill, 0, first)
            _move_line(images[rows[n], home], flip[n], right[n], C, first, last, line)
            _fill_pixels(line, fill, last, W)


@jit
def _move_images(team, images, rows, flip, down, right, fill, y):
    share(team, y.shape[0], _move_image, (images, rows, flip, down, right, fill, y))


def move_images(
    images: np.ndarray,
    rows: np.ndarray,
    flip: np.ndarray,
    down: np.ndarray,
    right: np.ndarray,
    fill: np.ndarray,
    y: np.ndarray,
) -> None:
    """Fill y with the images of some rows, each moved in its way."""
    (M, H, W, C), N = images.shape, len(rows)
    lines = images.reshape(M, H, W * C), y.reshape(N, H, W * C)
    call_parallel(y.size > SERIAL_ELEMENTS, _move_images, lines[0], rows, flip, down, right, fill, lines[1])
