"""Normalization by mean and variance, of channels or groups of channels: the definition is in `reference/norm.py`.

Rows (layer normalization) are in `normalization/rows.py`.

Arrays: x, y, dy, dx (N, L, C), groups G, mean and variance (N, G) in float64, gamma and beta (C,).

The pixels of an image are cut into chunks. The first 1 / SAMPLE of a chunk's pixels give a rough mean of each channel,
and all of them the exact sums around it, so that nothing cancels where the mean is large beside the deviation. Whatever
the pixels are, where the mean of s out of n is off by d, these alone add s * d**2 or more to the squares around the
true mean, so those around the rough mean are at most 1 + n / s times as large. The chunks' means and squares are joined
in float64 (Chan, Golub, LeVeque 1983), around the first of them, so that what is constant has no deviation whatever its
size. Sums that leave the dtype's range are taken anew in float64 (`normalization/wide.py`). Where there are images
enough for all threads, one task takes an image through all steps; else threads share the steps of one image after the
other. Chunks and their order depend on the shape alone, so both ways give the same bits.

What follows the normalization goes along: y = clip(normalized x + residual, low, high), a sum and ReLU or ReLU6 in one.

A row of few channels is too short for vectors: several pixels are taken as one wide row of W = C * copies elements.
"""

import math
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.normalization.chunks import (
    UNBOUNDED,
    enough_images,
    mirrored,
    set_factors,
    workspace,
)
from fastcnn.kernels.cpu.normalization.column_code import ChannelCode, call_scale, plan
from fastcnn.kernels.cpu.normalization.groups_backward import group_norm_backward
from fastcnn.kernels.cpu.normalization.rows import layer_norm_backward, layer_norm_forward
from fastcnn.kernels.cpu.normalization.statistics import FOLDED, join_chunks, measure_chunk
from fastcnn.kernels.cpu.normalization.wide import LARGE, any_above, scale_wide
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.runtime.workspace import keep

__all__ = [
    "fixed_norm_forward", "fold_norm", "group_norm_backward", "group_norm_forward", "layer_norm_backward",
    "layer_norm_forward", "update_running",
]  # fmt: skip


class Norm(NamedTuple):
    """What the tasks of a normalization share."""

    code: ChannelCode
    x: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    eps: float
    cuts: tuple[int, int, int]  # pixels of a chunk, chunks, elements of a wide row
    parts: np.ndarray
    factors: np.ndarray
    after: tuple[np.ndarray, bool, np.ndarray]  # residual, whether there is one, bounds
    y: np.ndarray


@jit(inner=True)
def scale_chunk(task, thread, n, threads, job):
    """Fill one chunk of image n of y; a thread's last chunk comes first, for its caches still hold the end of x."""
    (_, L, C), (pixels, chunks, W) = job.x.shape, job.cuts
    first = mirrored(task, chunks, threads) * pixels
    if any_above(job.variance[n], LARGE):
        scale_wide(n, job, (n * L + first) * C, min(pixels, L - first))
        return
    begin, count = (n * L + first) * C * job.x.itemsize, min(pixels, L - first) * C
    (residual, adds, bounds), place = job.after, job.factors[n].ctypes.data
    made, added, limits = job.y.ctypes.data + begin, residual.ctypes.data + begin, bounds.ctypes.data
    code = job.code.scale_add if adds else job.code.scale
    call_scale(code, job.x.ctypes.data + begin, added, made, place, limits, count, W)


@jit(inner=True)
def join_image(n, job):
    """Fill the statistics of image n from those of its chunks, and the factors of its wide rows."""
    (_, L, C), mean, variance = job.x.shape, job.mean, job.variance
    join_chunks(n, C, L, job.cuts, job.parts, mean, variance)
    set_factors(job.gamma, job.beta, job.eps, mean[n], variance[n], job.factors[n])


@jit(inner=True)
def normalize_image(n, thread, job):
    """Take image n through all steps."""
    for task in range(job.cuts[1]):
        measure_chunk(task, thread, n, job.code, job.x, job.cuts, job.parts)
    join_image(n, job)
    for task in range(job.cuts[1]):
        scale_chunk(task, thread, n, 1, job)


@jit
def normalize(team, fields):
    """Do `group_norm_forward`."""
    job, threads = Norm(*fields), team[0]
    N, chunks = job.x.shape[0], job.cuts[1]
    if enough_images(N, threads):
        share(team, N, normalize_image, (job,))
        return
    for n in range(N):
        share(team, chunks, measure_chunk, (n, job.code, job.x, job.cuts, job.parts))
        join_image(n, job)
        share(team, chunks, scale_chunk, (n, threads, job))


@jit
def scale_all(team, fields):
    """Do `fixed_norm_forward`."""
    job = Norm(*fields)
    set_factors(job.gamma, job.beta, job.eps, job.mean[0], job.variance[0], job.factors[0])
    share(team, job.cuts[1], scale_chunk, (0, team[0], job))


def after_norm(
    x: np.ndarray, residual: np.ndarray | None, bounds: tuple[float, float]
) -> tuple[np.ndarray, bool, np.ndarray]:
    """Return what follows the normalization of x as kernels take it: (residual, whether there is one, bounds)."""
    return x if residual is None else residual.reshape(x.shape), residual is not None, np.array(bounds, x.dtype)


def group_norm_forward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    groups: int,
    eps: float,
    y: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    residual: np.ndarray | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> None:
    """Fill y, and the mean and biased variance of every group of every image.

    y is the normalized x, plus `residual` (of any shape of as many elements) if there is one, brought between `bounds`.
    """
    N, _, C = x.shape
    if x.size == 0:
        mean[...], variance[...] = 0, 0
        return
    cuts, code = plan(x, y) if residual is None else plan(x, residual, y)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    how = mean, variance, float(eps), cuts, parts, factors, after_norm(x, residual, bounds), y
    call_parallel(x.size > SERIAL_ELEMENTS, normalize, (code, x, gamma, beta, *how))


def fixed_norm_forward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    eps: float,
    y: np.ndarray,
    residual: np.ndarray | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> None:
    """Fill y (M, C) by statistics (C,) that are given: inference from running means; the rest as above."""
    if x.size == 0:
        return
    pixels, C = x.shape
    x, y = x.reshape(1, pixels, C), y.reshape(1, pixels, C)
    cuts, code = plan(x, y) if residual is None else plan(x, residual, y)
    parts, factors = workspace(1, 0, C, cuts[2], x.dtype)
    given = mean.reshape(1, C), variance.reshape(1, C)
    how = *given, float(eps), cuts, parts, factors, after_norm(x, residual, bounds), y
    call_parallel(x.size > SERIAL_ELEMENTS, scale_all, (code, x, gamma, beta, *how))


@jit(inner=True)
def _fold_rows(task, thread, w, b, gamma, beta, mean, variance, eps, folded, bias):
    K, T = gamma.size, w.shape[0]
    scale = np.empty(K, w.dtype)
    for k in range(K):
        exact = gamma[k] / math.sqrt(np.float64(variance[k]) + eps)
        scale[k] = exact
        if task == 0:
            bias[k] = ((np.float64(b[k]) if b.size > 0 else 0.0) - np.float64(mean[k])) * exact + beta[k]
    for t in range(task * FOLDED, min(T, task * FOLDED + FOLDED)):
        for k in range(K):
            folded[np.uintp(t), np.uintp(k)] = w[np.uintp(t), np.uintp(k)] * scale[np.uintp(k)]


@jit
def _fold(team, w, b, gamma, beta, mean, variance, eps, folded, bias):
    tasks = (w.shape[0] + FOLDED - 1) // FOLDED
    share(team, tasks, _fold_rows, (w, b, gamma, beta, mean, variance, eps, folded, bias))


def fold_norm(
    w: np.ndarray,
    b: np.ndarray | None,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    eps: float,
    folded: np.ndarray,
    bias: np.ndarray,
) -> None:
    """Fill `folded` (T, K) and `bias` (K,): filters w (T, K) plus b, and the normalization after them, as one map.

    gamma * (w x + b - mean) / sqrt(variance + eps) + beta = folded x + bias
    """
    given = np.empty(0, w.dtype) if b is None else b
    call_parallel(
        w.size > SERIAL_ELEMENTS, _fold, w, given, gamma, beta, mean, variance, float(eps), folded, bias, packs=w
    )
    keep(w, folded, bias)


@jit
def _move(mean, variance, unbiased, momentum, batches, running_mean, running_var):
    N, C = mean.shape
    batches[0] += 1
    momentum = 1 / batches[0] if momentum < 0 else momentum
    for c in range(C):
        centre, spread = 0.0, 0.0
        for n in range(N):
            centre += mean[n, c]
            spread += variance[n, c]
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * (centre / N)
        running_var[c] = (1 - momentum) * running_var[c] + momentum * (spread / N * unbiased)


def update_running(
    mean: np.ndarray,
    variance: np.ndarray,
    count: int,
    momentum: float | None,
    batches: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
) -> None:
    """Move running statistics (C,) by `momentum` towards those of a batch (N, C), the images' average; count batches.

    Without a momentum (None) they become the averages of all batches. The variance is taken unbiased, by the factor
    count / (count - 1) for the `count` numbers of each mean.
    """
    given = -1.0 if momentum is None else float(momentum)
    call_serial(_move, mean, variance, count / max(count - 1, 1), given, batches, running_mean, running_var)
