"""Transposed convolution in 1, 2 and 3 dimensions: the adjoint of convolution by its input, on the same kernels.

    x (N, D, H, W, C)   w (T, R, S, K / groups, C)   b (K,)   y (N, O, P, Q, K)

Its forward pass is the input gradient of the convolution from K to C channels that has this filter, one gather for each
phase of the stride, so no zeros are multiplied; its input gradient is that convolution's forward pass. `problem` is
that of this convolution, from y to x: the shape of y decides how far the output reaches past the last filter
(`output_padding`).
"""

import numpy as np

from fastcnn.kernels.cpu.conv import conv_adjoint, conv_backward_bias, conv_backward_weight, conv_forward
from fastcnn.kernels.problem import ConvProblem


def conv_transpose_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, problem: ConvProblem, epilogue: int, y: np.ndarray,
    algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y with the transposed convolution of x by w, plus b, after an epilogue."""
    conv_adjoint(x, w, b, problem, epilogue, y, algorithm)


def conv_transpose_backward_input(
    dy: np.ndarray, w: np.ndarray, problem: ConvProblem, dx: np.ndarray, algorithm: str = "auto"
) -> None:
    """Fill dx, the gradient by x: the convolution of dy by w."""
    conv_forward(dy, w, None, problem, 0, dx, algorithm)


def conv_transpose_backward_weight(
    x: np.ndarray, dy: np.ndarray, problem: ConvProblem, dw: np.ndarray, algorithm: str = "auto"
) -> None:
    """Fill dw, the gradient by w: that of the convolution from dy to x."""
    conv_backward_weight(dy, x, problem, dw, algorithm)


def conv_transpose_backward_bias(dy: np.ndarray, db: np.ndarray) -> None:
    """Fill db (K,) with the sum of dy over all axes but the last."""
    conv_backward_bias(dy, db)
