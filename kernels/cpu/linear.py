"""The fully connected layer: a matrix product with bias, every row of x a pixel of a 1x1 convolution.

    x (N, F)   w (F, K)   b (K,)   y (N, K)        y = x w + b

All passes are those of `conv.py`; the rows take the place of image rows, the axis that is cut into tasks.
"""

import numpy as np

from fastcnn.kernels.cpu import conv
from fastcnn.kernels.cpu.matmul import outer, skinny_gemm
from fastcnn.kernels.cpu.reduction.pixels import sum_pixels
from fastcnn.kernels.problem import ConvProblem

ONE = (1, 1, 1)
UNPADDED = ((0, 0), (0, 0), (0, 0))


def _problem(x: np.ndarray, y: np.ndarray) -> ConvProblem:
    """Return the 1x1 convolution whose pixels are the rows."""
    (rows, inputs), outputs = x.shape, y.shape[1]
    return ConvProblem((1, 1, rows, 1, inputs), (1, 1, rows, 1, outputs), ONE, ONE, UNPADDED, ONE, 1)


def _rows(a: np.ndarray) -> np.ndarray:
    """View (N, F) as one image of N rows and one column."""
    return a.reshape(1, 1, a.shape[0], 1, a.shape[1])


def linear_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, epilogue: int, y: np.ndarray) -> None:
    """Fill y with x w + b, after an epilogue (1, or True, is ReLU; see `simd/epilogue.py`)."""
    if y.size and w.size and skinny_gemm.suits(x.shape[0]):
        skinny_gemm.product(x, skinny_gemm.dense_rows(*x.shape), w[None], False, b, epilogue, y)
        return
    conv.conv_forward(_rows(x), w[None, None, None], b, _problem(x, y), epilogue, _rows(y))


def linear_backward_input(dy: np.ndarray, w: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx with dy w'."""
    if dx.size and w.size and skinny_gemm.suits(dy.shape[0]):
        skinny_gemm.product(dy, skinny_gemm.dense_rows(*dy.shape), w[None], True, None, 0, dx)
        return
    conv.conv_backward_input(_rows(dy), w[None, None, None], _problem(dx, dy), _rows(dx))


def linear_backward_weight(x: np.ndarray, dy: np.ndarray, dw: np.ndarray) -> None:
    """Fill dw with x' dy."""
    if outer.suits(x.shape[0], dw):
        outer.outer_products(x, dy, dw)
        return
    conv.conv_backward_weight(_rows(x), _rows(dy), _problem(x, dy), dw[None, None, None])


def linear_backward_bias(dy: np.ndarray, db: np.ndarray) -> None:
    """Fill db with the column sums of dy."""
    sum_pixels(dy, db)
