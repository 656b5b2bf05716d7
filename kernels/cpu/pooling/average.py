"""The mean of every window, plain or with a Gaussian's weights, and its gradient; `pool.py` defines them.

Arrays: x (N, D, H, W, C), window (T, R, S), y (N, O, P, Q, C).
"""

from functools import lru_cache
from math import prod

import numpy as np

from fastcnn.kernels.cpu.elementwise.strided import subsample
from fastcnn.kernels.cpu.pooling.window_code import EACH, MEAN, PLACE, SUM, WEIGH
from fastcnn.kernels.cpu.pooling.window_loop import sweep
from fastcnn.kernels.cpu.pooling.window_tables import Axis, Tables, adaptive_axis, tables, window_axis
from fastcnn.kernels.problem import Padding, Triple
from fastcnn.kernels.sampling import gaussian_weights

Plan = tuple[int, Tables]


def _window_axes(image, output, window, stride, padding, count_include_pad, divisor) -> list[Axis]:
    """Return the axes of windows; an output's value is its share of the number to divide by."""
    axes: list[Axis] = []
    for size, outputs, taps, step, pads in zip(image, output, window, stride, padding, strict=True):
        before, after = pads if count_include_pad else (0, 0)
        starts = [o * step - pads[0] for o in range(outputs)]
        counts = [float(max(1, min(start + taps, size + after) - max(start, -before))) for start in starts]
        if divisor:
            counts = [1.0 if axes else float(divisor)] * outputs
        axes.append(window_axis(size, outputs, taps, step, pads[0])._replace(values=counts))
    return axes


def _adaptive_axes(image, output) -> list[Axis]:
    return list(map(adaptive_axis, image, output))


@lru_cache(maxsize=256)
def _forward(axes, C, *geometry) -> Plan:
    found = axes(*geometry)
    divides = any(value != 1 for axis in found for value in axis.values)
    return MEAN if divides else SUM, tables(found, C, codes=False)


@lru_cache(maxsize=256)
def _backward(axes, C, *geometry) -> Plan:
    """Return the mode and tables of a gradient.

    Windows side by side write their pixels. Overlapping ones are gathered, and divided once where all divide by the
    same number, else one by one.
    """
    found = axes(*geometry)
    if all(axis.tiles() for axis in found):
        return PLACE, tables(found, C, codes=False)
    if all(len(set(axis.values)) <= 1 for axis in found):
        back = [axis.transpose(max(axis.values, default=1.0)) for axis in found]
        return MEAN if any(value != 1 for axis in back for value in axis.values) else SUM, tables(back, C, codes=False)
    return EACH, tables([_valued(axis).transpose() for axis in found], C, codes=False)


def _valued(axis: Axis) -> Axis:
    """Return the axis with an output's value on each of its meetings."""
    valued = zip(axis.meetings, axis.values, strict=True)
    return axis._replace(meetings=[[(pixel, value) for pixel, _ in met] for met, value in valued])


def _inside(x, stride, y) -> bool:
    """Say whether every window begins inside the image."""
    axes = zip(x.shape[1:4], stride, y.shape[1:4], strict=True)
    return all((outputs - 1) * step < size for size, step, outputs in axes)


def avg_pool_forward(
    x: np.ndarray,
    window: Triple,
    stride: Triple,
    padding: Padding,
    count_include_pad: bool,
    divisor: int,
    y: np.ndarray,
) -> None:
    """Fill y with the sum of every window over its number of pixels, or over `divisor` if not 0.

    The pixels inside the padded image count (count_include_pad), or those inside the image itself;
    those past the padded image never do.
    """
    if prod(window) == 1 and divisor in (0, 1) and not any(map(any, padding)) and _inside(x, stride, y):
        subsample(x, stride, y)
        return
    geometry = x.shape[1:4], y.shape[1:4], window, stride, padding, count_include_pad, divisor
    sweep(*_forward(_window_axes, x.shape[4], *geometry), x, y)


def avg_pool_backward_input(
    dy: np.ndarray,
    window: Triple,
    stride: Triple,
    padding: Padding,
    count_include_pad: bool,
    divisor: int,
    dx: np.ndarray,
) -> None:
    """Fill dx: every pixel collects dy over the divisor from the windows that hold it."""
    geometry = dx.shape[1:4], dy.shape[1:4], window, stride, padding, count_include_pad, divisor
    sweep(*_backward(_window_axes, dx.shape[4], *geometry), dy, dx)


def adaptive_avg_pool_forward(x: np.ndarray, y: np.ndarray) -> None:
    """Fill y with the means of adaptive windows."""
    sweep(*_forward(_adaptive_axes, x.shape[4], x.shape[1:4], y.shape[1:4]), x, y)


def adaptive_avg_pool_backward_input(dy: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx: every pixel collects dy over the window's pixels from the windows that hold it."""
    sweep(*_backward(_adaptive_axes, dx.shape[4], dx.shape[1:4], dy.shape[1:4]), dy, dx)


@lru_cache(maxsize=256)
def _gaussian(transposed, C, image, output, window, stride, padding, sigma) -> Tables:
    axes = []
    for size, outputs, taps, step, (before, _), width in zip(
        image, output, window, stride, padding, sigma, strict=True
    ):
        axis, weights = window_axis(size, outputs, taps, step, before), gaussian_weights(taps, width)
        weighed = [[(pixel, float(weights[int(tap)])) for pixel, tap in met] for met in axis.meetings]
        sums = [sum(weight for _, weight in met) for met in weighed]
        shares = [[(i, weight / total) for i, weight in met] for met, total in zip(weighed, sums, strict=True)]
        axis = axis._replace(meetings=shares)
        axes.append(axis.transpose() if transposed else axis)
    return tables(axes, C, codes=False)


def gaussian_pool_forward(
    x: np.ndarray, window: Triple, stride: Triple, padding: Padding, sigma: tuple[float, float, float], y: np.ndarray
) -> None:
    """Fill y with the weighted mean of every window, over its pixels inside the image."""
    geometry = x.shape[1:4], y.shape[1:4], window, stride, padding, sigma
    sweep(WEIGH, _gaussian(False, x.shape[4], *geometry), x, y)


def gaussian_pool_backward_input(
    dy: np.ndarray, window: Triple, stride: Triple, padding: Padding, sigma: tuple[float, float, float], dx: np.ndarray
) -> None:
    """Fill dx: every pixel collects dy from the windows that hold it, by its weight in each."""
    geometry = dx.shape[1:4], dy.shape[1:4], window, stride, padding, sigma
    sweep(WEIGH, _gaussian(True, dx.shape[4], *geometry), dy, dx)
