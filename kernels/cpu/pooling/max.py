"""The maximum of every window and its gradient; `pool.py` defines both.

Arrays: x (N, D, H, W, C), window (T, R, S), y and winner (N, O, P, Q, C).
"""

from functools import lru_cache

import numpy as np

from fastcnn.kernels.cpu.pooling.window_code import MAX, PICK, PLACE_WINNERS
from fastcnn.kernels.cpu.pooling.window_loop import sweep
from fastcnn.kernels.cpu.pooling.window_tables import Axis, Tables, adaptive_axis, coded, tables, window_axis
from fastcnn.kernels.problem import Padding, Triple
from fastcnn.kernels.sampling import adaptive_window


def _window_axes(image, output, window, stride, padding, dilation) -> list[Axis]:
    befores = [before for before, _ in padding]
    return coded(list(map(window_axis, image, output, window, stride, befores, dilation)), window)


def _adaptive_axes(image, output) -> list[Axis]:
    return coded(list(map(adaptive_axis, image, output)), adaptive_window(image, output))


@lru_cache(maxsize=256)
def _forward(axes, C, *geometry) -> Tables:
    return tables(axes(*geometry), C, codes=True)


@lru_cache(maxsize=256)
def _backward(axes, C, *geometry) -> tuple[int, Tables]:
    """Return the mode and tables of a gradient: windows side by side write their pixels, others are gathered."""
    found = axes(*geometry)
    if all(axis.tiles() for axis in found):
        return PLACE_WINNERS, tables(found, C, codes=True)
    return PICK, tables([axis.transpose() for axis in found], C, codes=True)


def max_pool_forward(
    x: np.ndarray, window: Triple, stride: Triple, padding: Padding, dilation: Triple, y: np.ndarray, winner: np.ndarray
) -> None:
    """Fill y with the maxima and winner with the tap (t * R + r) * S + s of the first maximum.

    The last NaN of a window wins it, as in PyTorch. A window without a pixel of the image gives minus infinity
    and tap 0.
    """
    geometry = x.shape[1:4], y.shape[1:4], window, stride, padding, dilation
    sweep(MAX, _forward(_window_axes, x.shape[4], *geometry), x, y, winner)


def max_pool_backward_input(
    dy: np.ndarray,
    winner: np.ndarray,
    window: Triple,
    stride: Triple,
    padding: Padding,
    dilation: Triple,
    dx: np.ndarray,
) -> None:
    """Fill dx: every pixel collects dy from the windows that it won."""
    geometry = dx.shape[1:4], dy.shape[1:4], window, stride, padding, dilation
    sweep(*_backward(_window_axes, dx.shape[4], *geometry), dy, dx, winner)


def adaptive_max_pool_forward(x: np.ndarray, y: np.ndarray, winner: np.ndarray) -> None:
    """Fill y with the maxima of adaptive windows, and winner with taps as numbered in the largest of them."""
    sweep(MAX, _forward(_adaptive_axes, x.shape[4], x.shape[1:4], y.shape[1:4]), x, y, winner)


def adaptive_max_pool_backward_input(dy: np.ndarray, winner: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx: every pixel collects dy from the windows that it won."""
    sweep(*_backward(_adaptive_axes, dx.shape[4], dx.shape[1:4], dy.shape[1:4]), dy, dx, winner)
