"""Where the maxima of windows stand: from the number of the winning tap to a flat place in the image.

winner, positions (N, O, P, Q, C)   position (d * H + h) * W + w in an image (D, H, W)
"""

from functools import lru_cache

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.problem import Padding, Triple
from fastcnn.kernels.sampling import adaptive_span, adaptive_window


@lru_cache(maxsize=256)
def _window_places(output, window, stride, padding, dilation, image):
    """Return the place of every window's start (O, P, Q), and of every tap from there (taps,)."""
    starts = [np.arange(n) * step - before for n, step, (before, _) in zip(output, stride, padding, strict=True)]
    return _places(starts, window, dilation, image)


@lru_cache(maxsize=256)
def _adaptive_places(output, image):
    starts = [np.array([adaptive_span(size, n, o)[0] for o in range(n)]) for size, n in zip(image, output, strict=True)]
    return _places(starts, adaptive_window(image, output), (1, 1, 1), image)


def _places(starts, window, dilation, image):
    pitches = (image[1] * image[2], image[2], 1)
    windows = _outer_sum(starts, pitches)
    taps = _outer_sum([np.arange(n) * apart for n, apart in zip(window, dilation, strict=True)], pitches)
    return windows, taps


def _outer_sum(axes, pitches):
    d, h, w = (axis * pitch for axis, pitch in zip(axes, pitches, strict=True))
    return (d[:, None, None] + h[:, None] + w).astype(np.int64).reshape(-1)


@jit(inner=True)
def _position_row(task, thread, winner, windows, taps, positions):
    start = windows[task % windows.size]
    for c in range(winner.shape[1]):
        positions[task, c] = start + taps[winner[task, c]]


@jit
def _position_rows(team, winner, windows, taps, positions):
    share(team, winner.shape[0], _position_row, (winner, windows, taps, positions))


def _fill(winner, places, positions):
    rows, C = int(np.prod(winner.shape[:4])), winner.shape[4]
    call_parallel(
        winner.size > SERIAL_ELEMENTS, _position_rows, winner.reshape(rows, C), *places, positions.reshape(rows, C)
    )


def max_pool_positions(
    winner: np.ndarray,
    window: Triple,
    stride: Triple,
    padding: Padding,
    dilation: Triple,
    image: tuple[int, ...],
    positions: np.ndarray,
) -> None:
    """Fill positions with the places of the maxima in the image (D, H, W), from the winners of a maximum."""
    _fill(winner, _window_places(winner.shape[1:4], window, stride, padding, dilation, image), positions)


def adaptive_max_pool_positions(winner: np.ndarray, image: tuple[int, ...], positions: np.ndarray) -> None:
    """Fill positions with the places of the maxima in the image (D, H, W), from the winners of an adaptive maximum."""
    _fill(winner, _adaptive_places(winner.shape[1:4], image), positions)
