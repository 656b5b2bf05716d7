"""Convolution, ReLU and max-pooling in one step: the three operations one after the other.

    x (N, D, H, W, C)   w (T, R, S, C, K)   b (K,)   y, winner, dy (N, O, P, Q, K)

`winner` is the window tap that won, or the number of taps where ReLU cut: there the gradient is zero.
"""

from math import prod

import numpy as np

from fastcnn.kernels.problem import ConvProblem, Padding, Triple
from fastcnn.kernels.reference import conv, pool

ONE: Triple = (1, 1, 1)
UNPADDED: Padding = ((0, 0), (0, 0), (0, 0))


MAX_TAPS = 255  # a winner is a byte, and one value says that none won


def suits(batch: int, image: int, filters: int, taps: int) -> bool:
    """Say whether a stage can be taken in one step."""
    return taps <= MAX_TAPS


def conv_pool_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    problem: ConvProblem,
    window: Triple,
    y: np.ndarray,
    winner: np.ndarray,
    algorithm: str = "auto",
) -> None:
    """Fill y with the pooled, rectified convolution of x by w plus b, and winner with the taps that won.

    `problem` is that of the convolution, before pooling.
    """
    full = np.empty(problem.y, x.dtype)
    conv.conv_forward(x, w, b, problem, False, full)
    pool.max_pool_forward(full, window, window, UNPADDED, ONE, y, winner)
    cut = y <= 0
    winner[cut] = prod(window)
    y[cut] = 0


def conv_pool_backward(
    x: np.ndarray,
    w: np.ndarray,
    dy: np.ndarray,
    winner: np.ndarray,
    problem: ConvProblem,
    window: Triple,
    dx: np.ndarray | None,
    dw: np.ndarray,
    db: np.ndarray | None,
) -> None:
    """Fill dw and (where they are given) db and dx from dy."""
    live = winner < prod(window)
    full = np.empty(problem.y, x.dtype)
    pool.max_pool_backward_input(
        np.where(live, dy, 0).astype(dy.dtype), np.where(live, winner, 0).astype(winner.dtype),
        window, window, UNPADDED, ONE, full,
    )  # fmt: skip
    conv.conv_backward_weight(x, full, problem, dw)
    if db is not None:
        conv.conv_backward_bias(full, db)
    if dx is not None:
        conv.conv_backward_input(full, w, problem, dx)
