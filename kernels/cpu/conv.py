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

import numpy as np

from fastcnn.kernels.cpu.activation import add_epilogue
from fastcnn.kernels.cpu.convolution import scatter, small_output, statistics
from fastcnn.kernels.cpu.convolution.axes import Padding, Triple
from fastcnn.kernels.cpu.convolution.backward_weight import weight_gradient
from fastcnn.kernels.cpu.convolution.depthwise import forward as depthwise
from fastcnn.kernels.cpu.convolution.depthwise.backward_weight import lanewise_gradient
from fastcnn.kernels.cpu.convolution.direct import clear, gather
from fastcnn.kernels.cpu.convolution.direct_plan import forward_gather, input_gradient_gathers
from fastcnn.kernels.cpu.convolution.select import DIRECT, algorithm_of, measured_blocks, scatter_plan
from fastcnn.kernels.cpu.convolution.winograd import backward_weight
from fastcnn.kernels.cpu.convolution.winograd import forward as winograd
from fastcnn.kernels.cpu.normalization.chunks import UNBOUNDED
from fastcnn.kernels.cpu.normalization.groups_backward import gradient_sums
from fastcnn.kernels.cpu.reduction.pixels import sum_pixels
from fastcnn.kernels.cpu.runtime.workspace import keeps
from fastcnn.kernels.cpu.simd.tile import tiles


def conv_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    epilogue: int, y: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y with the convolution of x by w, plus b, after an epilogue (see `simd/epilogue.py`)."""
    if y.size == 0:
        return
    block, filters = tiles(x.dtype), w.shape[:3]
    how = (x.shape, y.shape, filters, stride, padding, dilation, groups)
    if algorithm in DIRECT and small_output.suits(*how) and not keeps(w):
        small_output.convolve(x, w, b, stride, padding, dilation, epilogue, y)
        return
    used = algorithm_of("forward", *how, x.dtype, algorithm)
    if used == "depthwise":
        depthwise.lanewise(x, w, b, stride, padding, dilation, groups, block.lanes, False, epilogue, y)
        return
    if used == "winograd":
        winograd.winograd(block, x, w, b, padding[1][0], padding[2][0], groups, False, epilogue, y)
        return
    if used == "scatter":
        scattered = scatter_plan(False, *how, block.lanes, block.rows, x.itemsize)
        scatter.scatter(block, x, w, b, scattered, groups, False, epilogue, y)
        return
    plan = forward_gather(*how, block.lanes, block.rows, x.itemsize)
    gather(block, x, w, b, plan, False, epilogue, y)


def conv_measured_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    shift: np.ndarray, eps: float, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y as `conv_forward`, and the mean and biased variance (1, K) of its channels, in float64.

    `shift` (K,) are numbers near the means, such as running ones: the closer, the less is lost. `eps` will be added to
    the variance.
    """
    if y.size == 0:
        mean[...], variance[...] = 0, 0
        return
    how = stride, padding, dilation, groups
    blocks = measured_blocks("forward", x.shape, y.shape, w.shape[:3], *how, x.dtype, algorithm)
    sums, pitch, epilogue = statistics.begin(b, shift, blocks)
    if blocks:
        conv_forward(x, w, sums, *how, epilogue, y, algorithm)
    else:
        conv_forward(x, w, b, *how, 0, y, algorithm)
    statistics.join(y, sums, pitch, shift, eps, mean, variance)


def conv_backward_input(
    dy: np.ndarray, w: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, dx: np.ndarray,
    algorithm: str = "auto", epilogue: int = 0,
) -> None:  # fmt: skip
    """Fill dx, the gradient by x, after an epilogue: one gather from dy for each phase of the stride."""
    conv_adjoint(dy, w, None, stride, padding, dilation, groups, epilogue, dx, algorithm)


def conv_measured_backward_input(
    dy: np.ndarray, w: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    norm: statistics.Norm,
    dx: np.ndarray, sums: np.ndarray, algorithm: str = "auto", total: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Fill dx as `conv_backward_input`, plus `total` if there is one, and sums (2, C), float64, for `norm`'s way back.

    These are the sums over the pixels of g and of g * (x - shift), where g is dx behind the clip of the normalization
    `norm` = (x, gamma, beta, mean, variance, eps, bounds), whose gradient dx is, and the shift its mean in the dtype of
    x: what `group_norm_backward` takes as its `sums`.
    """
    if dx.size == 0:
        sums.fill(0)
        return
    how, adds = (stride, padding, dilation, groups), total is not None
    blocks = measured_blocks("backward_input", dy.shape, dx.shape, w.shape[:3], *how, dy.dtype, algorithm, adds)
    if blocks:
        held, pitch, epilogue = statistics.begin_back(norm, dx, total, blocks)
        conv_adjoint(dy, w, held, *how, epilogue, dx, algorithm)
        statistics.join_back(held, pitch, sums)
        return
    conv_adjoint(dy, w, None, *how, 0 if total is None else add_epilogue(total, dx, UNBOUNDED), dx, algorithm)
    gradient_sums(norm, dx, sums)


def conv_adjoint(
    dy: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Triple, padding: Padding, dilation: Triple,
    groups: int, epilogue: int, dx: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill dx with the transpose of the convolution by w, applied to dy, plus b (C,), after an epilogue."""
    if dx.size == 0:
        return
    block, filters = tiles(dy.dtype), w.shape[:3]
    how = (dy.shape, dx.shape, filters, stride, padding, dilation, groups)
    used = algorithm_of("backward_input", *how, dy.dtype, algorithm)
    if used == "depthwise":
        depthwise.lanewise(dy, w, b, stride, padding, dilation, groups, block.lanes, True, epilogue, dx)
        return
    if used == "winograd":
        last = filters[1] - 1
        winograd.winograd(block, dy, w, b, last - padding[1][0], last - padding[2][0], groups, True, epilogue, dx)
        return
    if used == "scatter":
        scattered = scatter_plan(True, *how, block.lanes, block.rows, dy.itemsize)
        scatter.scatter(block, dy, w, b, scattered, groups, True, epilogue, dx)
        return
    plans = input_gradient_gathers(*how, block.lanes, block.rows, dy.itemsize)
    meeting = [plan for plan in plans if b is not None or epilogue or plan.batch.size]
    if len(meeting) < len(plans):
        clear(dx)  # pixels that no tap meets, and the others between them
    first = 0
    for plan in meeting:
        own = b[first : first + plan.blocks] if b is not None and b.ndim == 2 else b  # the records of its blocks
        gather(block, dy, w, own, plan, True, epilogue, dx)
        first += plan.blocks


def conv_backward_weight(
    x: np.ndarray, dy: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, dw: np.ndarray,
    algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill dw, the gradient by w: products of x and dy summed over all pixels, in a fixed order."""
    if dy.size == 0:
        dw.fill(0)
        return
    how = (x.shape, dy.shape, dw.shape[:3], stride, padding, dilation, groups)
    used = algorithm_of("backward_weight", *how, x.dtype, algorithm)
    if used == "depthwise":
        lanewise_gradient(x, dy, stride, padding, dilation, groups, tiles(x.dtype).lanes, dw)
        return
    if used == "winograd":
        backward_weight.winograd_weight_gradient(tiles(x.dtype), x, dy, padding[1][0], padding[2][0], groups, dw)
        return
    weight_gradient(tiles(x.dtype), x, dy, stride, padding, dilation, groups, dw)


def conv_backward_bias(dy: np.ndarray, db: np.ndarray) -> None:
    """Fill db (K,) with the sum of dy over all axes but the last."""
    sum_pixels(dy.reshape(-1, db.size), db)
