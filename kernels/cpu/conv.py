"""Convolution in 1, 2 and 3 dimensions: cross-correlation, channels last, all passes through the register tile.

    x (N, D, H, W, C)   w (T, R, S, C / groups, K)   b (K,)   y (N, O, P, Q, K)

    y[n, o, p, q, k] = b[k] + sum over t, r, s, c of
        x[n, o * stride + t * dilation - before, ..., c] * w[t, r, s, c, k]

No im2col: a row of taps (s, c) is contiguous in a channels-last image, so an output pixel is a sum of a few contiguous
runs. The three passes are gathers (`geometry.py`, `gather.py`) and a product over pixels (`weight_gradient.py`).
Signals and images come with leading axes of length 1.
"""

import numpy as np

from fastcnn.kernels.cpu.gather import gather
from fastcnn.kernels.cpu.geometry import Padding, Triple, forward_gather, input_gradient_gathers
from fastcnn.kernels.cpu.reduce import sum_pixels
from fastcnn.kernels.cpu.tile import tiles
from fastcnn.kernels.cpu.weight_gradient import weight_gradient


def conv_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    relu: bool, y: np.ndarray,
) -> None:  # fmt: skip
    """Fill y with the convolution of x by w, plus b, cut at zero where relu is set."""
    if y.size == 0:
        return
    block = tiles(x.dtype)
    plan = forward_gather(x.shape, y.shape, w.shape[:3], stride, padding, dilation, groups, block.lanes, block.rows,
                          x.itemsize)  # fmt: skip
    gather(block, x, w, b, plan, False, relu, y)


def conv_backward_input(
    dy: np.ndarray, w: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, dx: np.ndarray
) -> None:
    """Fill dx, the gradient by x: one gather from dy for each phase of the stride."""
    if dx.size == 0:
        return
    block = tiles(dy.dtype)
    plans = input_gradient_gathers(dy.shape, dx.shape, w.shape[:3], stride, padding, dilation, groups, block.lanes,
                                   block.rows, dy.itemsize)  # fmt: skip
    for plan in plans:
        gather(block, dy, w, None, plan, True, False, dx)


def conv_backward_weight(
    x: np.ndarray, dy: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, dw: np.ndarray
) -> None:
    """Fill dw, the gradient by w: products of x and dy summed over all pixels, in a fixed order."""
    if dy.size == 0:
        dw.fill(0)
        return
    weight_gradient(tiles(x.dtype), x, dy, stride, padding, dilation, groups, dw)


def conv_backward_bias(dy: np.ndarray, db: np.ndarray) -> None:
    """Fill db (K,) with the sum of dy over all axes but the last."""
    sum_pixels(dy.reshape(-1, db.size), db)
