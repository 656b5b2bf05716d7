"""Convolution as its definition reads: one matrix product per filter tap and group.

    x (N, D, H, W, C)   w (T, R, S, C / groups, K)   b (K,)   y (N, O, P, Q, K)

    y[n, o, p, q, k] = b[k] + sum over t, r, s, c of w[t, r, s, c, k]
        * x[n, i, j, l, c],   i = o * stride + t * dilation - pad along the depth, j and l alike,

where stride, dilation and pad are those of the axis, pixels outside the image are 0, and c runs
over the channels of k's group. This is cross-correlation, as all libraries mean convolution.
"""

from collections.abc import Iterator

import numpy as np

from fastcnn.kernels.problem import ConvProblem
from fastcnn.kernels.reference.definition.windows import (
    Array,
    Epilogue,
    apply_epilogue,
    each_tap,
    inside,
    pad,
    tap_view,
)
from fastcnn.kernels.reference.norm import Norm, Statistics, measure

POSITIONS = (0, 1, 2, 3)  # the axes of images and pixels: all but the channels


def each_group(C: int, K: int, groups: int) -> Iterator[tuple[slice, slice]]:
    """Yield the input channels and the output channels of every group."""
    for g in range(groups):
        yield (
            slice(g * C // groups, (g + 1) * C // groups),
            slice(g * K // groups, (g + 1) * K // groups),
        )


def conv_forward(
    x: Array,
    w: Array,
    b: Array | None,
    problem: ConvProblem,
    epilogue: Epilogue,
    y: Array,
    algorithm: str = "auto",
) -> None:
    """Fill y with the convolution of x, plus bias, and apply the epilogue; here all sums are direct."""
    padded = pad(x, problem.padding)
    y[...] = 0 if b is None else b
    for tap in each_tap(problem.filter):
        pixels = tap_view(padded, tap, y.shape[1:4], problem.stride, problem.dilation)
        for c, k in each_group(x.shape[4], y.shape[4], problem.groups):
            y[..., k] += pixels[..., c] @ w[tap][:, k]
    apply_epilogue(epilogue, y)


def conv_measured_forward(
    x: Array,
    w: Array,
    b: Array | None,
    problem: ConvProblem,
    shift: Array,
    eps: float,
    y: Array,
    mean: Statistics,
    variance: Statistics,
    algorithm: str = "auto",
) -> None:
    """Fill y as `conv_forward`, and the mean and biased variance (1, K) of its channels, in float64.

    `shift` (K,) are numbers near the means, and `eps` will be added to the variance: here nothing depends on them.
    """
    conv_forward(x, w, b, problem, False, y)
    measure(y.astype(np.float64), POSITIONS, mean, variance)


def conv_backward_input(
    dy: Array,
    w: Array,
    problem: ConvProblem,
    dx: Array,
    algorithm: str = "auto",
    epilogue: Epilogue = False,
) -> None:
    """Fill dx: every pixel collects w * dy from the outputs that it went into; and apply the epilogue."""
    padded = pad(np.zeros_like(dx), problem.padding)
    for tap in each_tap(problem.filter):
        pixels = tap_view(padded, tap, dy.shape[1:4], problem.stride, problem.dilation)
        for c, k in each_group(dx.shape[4], dy.shape[4], problem.groups):
            pixels[..., c] += dy[..., k] @ w[tap][:, k].T
    dx[...] = inside(padded, problem.padding, dx.shape)
    apply_epilogue(epilogue, dx)


def conv_measured_backward_input(
    dy: Array,
    w: Array,
    problem: ConvProblem,
    norm: Norm,
    dx: Array,
    sums: Statistics,
    algorithm: str = "auto",
    total: Array | None = None,
) -> None:
    """Fill dx as `conv_backward_input`, plus `total` if there is one, and sums (2, C), float64, for `norm`'s way back.

    These are the sums over the pixels of g and of g * (x - shift), where g is dx behind the clip of the normalization
    `norm` = (x, gamma, beta, mean, variance, eps, bounds), whose gradient dx is, and the shift its mean in the dtype of
    x: what `group_norm_backward` takes as its `sums`.
    """
    conv_backward_input(dy, w, problem, dx)
    if total is not None:
        dx += total
    x, gamma, beta, mean, variance, eps, (low, high) = norm
    x, given = x.reshape(-1, gamma.size), dx.reshape(-1, gamma.size)
    made = ((x - mean) / np.sqrt(variance + eps) * gamma + beta).astype(x.dtype)
    passed = np.where((made <= low) | (made >= high), 0, given)
    sums[0] = passed.sum(0, dtype=np.float64)
    sums[1] = (passed * (x - mean.astype(x.dtype))).sum(0, dtype=np.float64)


def conv_backward_weight(
    x: Array,
    dy: Array,
    problem: ConvProblem,
    dw: Array,
    algorithm: str = "auto",
) -> None:
    """Fill dw: every weight collects x * dy over the positions that it was laid on."""
    padded = pad(x, problem.padding)
    for tap in each_tap(problem.filter):
        pixels = tap_view(padded, tap, dy.shape[1:4], problem.stride, problem.dilation)
        for c, k in each_group(x.shape[4], dy.shape[4], problem.groups):
            dw[tap][:, k] = np.tensordot(pixels[..., c], dy[..., k], (POSITIONS, POSITIONS))


def conv_backward_bias(dy: Array, db: Array) -> None:
    """Fill db with the sum of dy over images and positions."""
    db[...] = dy.sum(axis=POSITIONS)
