"""Losses of the difference d = y - t, summed over all elements, and their gradients by y.

    squared error   sum of d^2                                                    gradient 2 d
    smooth L1       sum of d^2 / (2 beta) where |d| < beta, else |d| - beta / 2   gradient d / beta, else sign(d)

A beta of 0 is the absolute error, with gradient 0 where d is 0. Arrays y and t have one shape, any; total and scale are
(1,) in float64. Source: Girshick 2015 (smooth L1).
"""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array

Doubles = npt.NDArray[np.float64]


def squared_error_forward(y: Array, t: Array, total: Doubles) -> None:
    """Fill total with the sum of d^2."""
    total[0] = ((y.astype(np.float64) - t) ** 2).sum()


def squared_error_backward(y: Array, t: Array, scale: Doubles, dy: Array) -> None:
    """Fill dy with scale * 2 d."""
    dy[...] = 2 * float(scale[0]) * (y - t)


def smooth_l1_forward(y: Array, t: Array, beta: float, total: Doubles) -> None:
    """Fill total with the sum of the smooth absolute values of d."""
    size = np.abs(y.astype(np.float64) - t)
    square = size**2 / (2 * beta) if beta else size
    total[0] = np.where(size < beta, square, size - beta / 2).sum()


def smooth_l1_backward(y: Array, t: Array, beta: float, scale: Doubles, dy: Array) -> None:
    """Fill dy with scale times the slope."""
    d = y - t
    slope = d / beta if beta else d
    dy[...] = float(scale[0]) * np.where(np.abs(d) < beta, slope, np.sign(d))
