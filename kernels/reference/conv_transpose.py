"""Transposed convolution as its definition reads: every input pixel lays its filter on the output.

    x (N, D, H, W, C)   w (T, R, S, K / groups, C)   b (K,)   y (N, O, P, Q, K)

    y[n, i, j, l, k] = b[k] + sum over o, t, c with o * stride + t * dilation - pad = i along the
        depth, height and width alike, of x[n, o, p, q, c] * w[t, r, s, k, c],

where stride, dilation and pad are those of the axis and c runs over the channels of k's group.
This is the transpose, as a matrix, of the convolution from K to C channels with the same filter;
what the filters reach past y is dropped, and y where no filter reaches is the bias. `problem` is
that convolution's, from y to x.
Source: Zeiler et al. 2010; Dumoulin and Visin 2016.
"""

from fastcnn.kernels.problem import ConvProblem
from fastcnn.kernels.reference.conv import (
    conv_backward_bias,
    conv_backward_input,
    conv_backward_weight,
    conv_forward,
)
from fastcnn.kernels.reference.definition.windows import Array, Epilogue, apply_epilogue


def conv_transpose_forward(
    x: Array,
    w: Array,
    b: Array | None,
    problem: ConvProblem,
    epilogue: Epilogue,
    y: Array,
    algorithm: str = "auto",
) -> None:
    """Fill y with the transposed convolution of x, plus bias, and apply the epilogue; sums are direct."""
    conv_backward_input(x, w, problem, y)
    if b is not None:
        y += b
    apply_epilogue(epilogue, y)


def conv_transpose_backward_input(
    dy: Array,
    w: Array,
    problem: ConvProblem,
    dx: Array,
    algorithm: str = "auto",
) -> None:
    """Fill dx: every pixel collects w * dy from where it laid its filter, which is the convolution of dy."""
    conv_forward(dy, w, None, problem, False, dx)


def conv_transpose_backward_weight(
    x: Array,
    dy: Array,
    problem: ConvProblem,
    dw: Array,
    algorithm: str = "auto",
) -> None:
    """Fill dw: every weight collects dy * x over the positions that it was laid on, as in the convolution of dy."""
    conv_backward_weight(dy, x, problem, dw)


def conv_transpose_backward_bias(dy: Array, db: Array) -> None:
    """Fill db with the sum of dy over images and positions."""
    conv_backward_bias(dy, db)
