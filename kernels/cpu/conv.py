"""Convolution in 1, 2 and 3 dimensions: cross-correlation, channels last, all passes through the register tile.

    x (N, D, H, W, C)   w (T, R, S, C / groups, K)   b (K,)   y (N, O, P, Q, K)

    y[n, o, p, q, k] = b[k] + sum over t, r, s, c of
        x[n, o * stride + t * dilation - before, ..., c] * w[t, r, s, c, k]

No im2col: a row of taps (s, c) is contiguous in a channels-last image, so an output pixel is a sum of a few contiguous
runs. Signals and images come with leading axes of length 1.

`algorithm` is "direct" (the sums of the definition), "winograd" (3x3 and 5x5 at stride 1 in float32) or "auto": the one
that is faster for the shape. How each runs is in a file or folder of `convolution/`; `convolution/select.py` chooses:

    direct          the register tile; its weight gradient is a product over pixels (`backward_weight.py`)
    depthwise/      a channel a lane, where groups hold few channels
    winograd/       small transforms
    scatter         pixel by pixel (GEMM and col2im), where the tile would mostly meet padding or idle lanes
    small_output    few output pixels are the rows of a matrix product, which reads the filter once
"""

from collections.abc import Callable

import numpy as np

from fastcnn.kernels.cpu.activation import add_epilogue
from fastcnn.kernels.cpu.convolution import small_output, statistics
from fastcnn.kernels.cpu.convolution.backward_weight import weight_gradient
from fastcnn.kernels.cpu.convolution.depthwise.backward_weight import lanewise_gradient
from fastcnn.kernels.cpu.convolution.depthwise.forward import lanewise
from fastcnn.kernels.cpu.convolution.direct import gather_all
from fastcnn.kernels.cpu.convolution.scatter import scatter
from fastcnn.kernels.cpu.convolution.select import DIRECT, algorithm_of, measured_blocks
from fastcnn.kernels.cpu.convolution.winograd.backward_weight import winograd_weight_gradient
from fastcnn.kernels.cpu.convolution.winograd.forward import winograd
from fastcnn.kernels.cpu.normalization.chunks import UNBOUNDED
from fastcnn.kernels.cpu.normalization.groups_backward import gradient_sums
from fastcnn.kernels.cpu.reduction.pixels import sum_pixels
from fastcnn.kernels.cpu.runtime.workspace import keeps
from fastcnn.kernels.cpu.simd.tile import tiles
from fastcnn.kernels.problem import ConvProblem

# By algorithm: (tiles, source, w, b, problem, transposed, epilogue, target), and (tiles, x, dy, problem, dw).
APPLY: dict[str, Callable[..., None]] = {
    "direct": gather_all, "depthwise": lanewise, "winograd": winograd, "scatter": scatter,
}  # fmt: skip
SUM: dict[str, Callable[..., None]] = {
    "direct": weight_gradient, "depthwise": lanewise_gradient, "winograd": winograd_weight_gradient,
}  # fmt: skip


def conv_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, problem: ConvProblem, epilogue: int, y: np.ndarray,
    algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y with the convolution of x by w, plus b, after an epilogue (see `simd/epilogue.py`)."""
    if y.size == 0:
        return
    if algorithm in DIRECT and small_output.suits(problem) and not keeps(w):
        small_output.convolve(x, w, b, problem, epilogue, y)
        return
    used = algorithm_of("forward", problem, x.dtype, algorithm)
    APPLY[used](tiles(x.dtype), x, w, b, problem, False, epilogue, y)


def conv_measured_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, problem: ConvProblem, shift: np.ndarray, eps: float,
    y: np.ndarray, mean: np.ndarray, variance: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y as `conv_forward`, and the mean and biased variance (1, K) of its channels, in float64.

    `shift` (K,) are numbers near the means, such as running ones: the closer, the less is lost. `eps` will be added to
    the variance.
    """
    if y.size == 0:
        mean[...], variance[...] = 0, 0
        return
    blocks = measured_blocks("forward", problem, x.dtype, algorithm)
    sums, pitch, epilogue = statistics.begin(b, shift, blocks)
    if blocks:
        conv_forward(x, w, sums, problem, epilogue, y, algorithm)
    else:
        conv_forward(x, w, b, problem, 0, y, algorithm)
    statistics.join(y, sums, pitch, shift, eps, mean, variance)


def conv_backward_input(
    dy: np.ndarray, w: np.ndarray, problem: ConvProblem, dx: np.ndarray, algorithm: str = "auto", epilogue: int = 0
) -> None:
    """Fill dx, the gradient by x, after an epilogue: one gather from dy for each phase of the stride."""
    conv_adjoint(dy, w, None, problem, epilogue, dx, algorithm)


def conv_measured_backward_input(
    dy: np.ndarray, w: np.ndarray, problem: ConvProblem, norm: statistics.Norm, dx: np.ndarray, sums: np.ndarray,
    algorithm: str = "auto", total: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Fill dx as `conv_backward_input`, plus `total` if there is one, and sums (2, C), float64, for `norm`'s way back.

    These are the sums over the pixels of g and of g * (x - shift), where g is dx behind the clip of the normalization
    `norm` = (x, gamma, beta, mean, variance, eps, bounds), whose gradient dx is, and the shift its mean in the dtype of
    x: what `group_norm_backward` takes as its `sums`.
    """
    if dx.size == 0:
        sums.fill(0)
        return
    blocks = measured_blocks("backward_input", problem, dy.dtype, algorithm, total is not None)
    if blocks:
        held, pitch, epilogue = statistics.begin_back(norm, dx, total, blocks)
        conv_adjoint(dy, w, held, problem, epilogue, dx, algorithm)
        statistics.join_back(held, pitch, sums)
        return
    conv_adjoint(dy, w, None, problem, 0 if total is None else add_epilogue(total, dx, UNBOUNDED), dx, algorithm)
    gradient_sums(norm, dx, sums)


def conv_adjoint(
    dy: np.ndarray, w: np.ndarray, b: np.ndarray | None, problem: ConvProblem, epilogue: int, dx: np.ndarray,
    algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill dx with the transpose of the convolution by w, applied to dy, plus b (C,), after an epilogue."""
    if dx.size == 0:
        return
    used = algorithm_of("backward_input", problem, dy.dtype, algorithm)
    APPLY[used](tiles(dy.dtype), dy, w, b, problem, True, epilogue, dx)


def conv_backward_weight(
    x: np.ndarray, dy: np.ndarray, problem: ConvProblem, dw: np.ndarray, algorithm: str = "auto"
) -> None:
    """Fill dw, the gradient by w: products of x and dy summed over all pixels, in a fixed order."""
    if dy.size == 0:
        dw.fill(0)
        return
    used = algorithm_of("backward_weight", problem, x.dtype, algorithm)
    SUM[used](tiles(x.dtype), x, dy, problem, dw)


def conv_backward_bias(dy: np.ndarray, db: np.ndarray) -> None:
    """Fill db (K,) with the sum of dy over all axes but the last."""
    sum_pixels(dy.reshape(-1, db.size), db)
