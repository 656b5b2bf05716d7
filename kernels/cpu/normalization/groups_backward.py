"""The gradients of normalization over groups of channels; `norm.py` is the way forward, `reference/norm.py` defines."""

import math
from typing import NamedTuple, TypeAlias

import numpy as np

from fastcnn.kernels.cpu.normalization.chunks import (
    UNBOUNDED,
    enough_images,
    fold,
    mirrored,
    set_factors,
    sum_products,
    widen,
    workspace,
)
from fastcnn.kernels.cpu.normalization.column_code import ChannelCode, call_gradient, call_sums, plan
from fastcnn.kernels.cpu.normalization.wide import (
    LARGE,
    LARGE_BACK,
    any_above,
    any_not_finite,
    any_wide_sum,
    gradient_wide,
    product_wide,
)
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS

UNTOLD, BY_X, BY_Y = 0, 1, 2  # what tells which of dy the clip let pass: nothing (all), x, or y


class Backward(NamedTuple):
    """What the tasks of a normalization's way back share."""

    code: ChannelCode
    x: np.ndarray
    dy: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    eps: float
    constant: bool
    y: np.ndarray
    told: int
    bounds: np.ndarray
    cuts: tuple[int, int, int]  # pixels of a chunk, chunks, elements of a wide row
    parts: np.ndarray
    factors: np.ndarray
    dx: np.ndarray


@jit(inner=True)
def mask_run(dy, y, at, count, low, high):
    """Set those of `count` elements of dy from `at` to 0 whose y lies at a bound."""
    for i in range(at, at + count):
        is_cut = (y[np.uintp(i)] <= low) | (y[np.uintp(i)] >= high)
        dy[np.uintp(i)] = dy.dtype.type(0) if is_cut else dy[np.uintp(i)]


@jit(inner=True)
def measure_gradient(task, thread, n, job):
    """Fill the parts of one chunk of image n: each channel's sums of dy and dy * (x - shift), dy behind the clip."""
    (_, L, C), (pixels, chunks, W), x, dy, bounds = job.x.shape, job.cuts, job.x, job.dy, job.bounds
    gamma, beta, mean, variance = job.gamma, job.beta, job.mean, job.variance
    first = task * pixels
    count, at = min(pixels, L - first) * C, (n * L + first) * C
    wide, part = np.empty((5, W), x.dtype), job.parts[n * chunks + task]
    set_factors(gamma, beta, job.eps, mean[n], variance[n], wide)
    wide[3:] = 0
    if job.told == BY_Y:
        mask_run(dy.reshape(-1), job.y.reshape(-1), at, count, bounds[0], bounds[1])
    begin, made, limits, total = at * x.itemsize, wide.ctypes.data, bounds.ctypes.data, wide[3].ctypes.data
    sums = job.code.product_within if job.told == BY_X else job.code.product
    given, along = dy.ctypes.data + begin, wide[4].ctypes.data
    call_sums(sums, x.ctypes.data + begin, given, count, W, made, limits, total, along)
    fold(wide[3], C, part[0])
    fold(wide[4], C, part[1])
    if any_not_finite(part[0]) or any_not_finite(part[1]) or any_above(variance[n], LARGE):
        for c in range(C):
            g = c // (C // mean.shape[1])
            scale = gamma[c] / math.sqrt(variance[n, g] + job.eps)
            affine, shift = (mean[n, g], scale, np.float64(beta[c])), x.dtype.type(mean[n, g])
            flat = x.reshape(-1), dy.reshape(-1), at + c, count // C, C
            part[0, c], part[1, c] = product_wide(*flat, affine, shift, job.told == BY_X, bounds[0], bounds[1])


@jit(inner=True)
def join_gradient(n, job, joined):
    """Gather image n's sums of dy and dy * xhat in its first part, and fill the factors of its wide rows.

    The parts of `joined` chunks are gathered: of one, where that has the sums of all.

    dx = dy * scale - ((x - shift) * slope + offset), where clip let (x - shift) * scale + lift pass
    """
    parts, gamma, mean, variance, chunks, L = job.parts, job.gamma, job.mean, job.variance, job.cuts[1], job.x.shape[1]
    C, G, kind, eps, made = gamma.size, mean.shape[1], job.factors.dtype.type, job.eps, job.factors[n]
    E, given, along = C // G, parts[n * chunks, 0], parts[n * chunks, 1]
    for chunk in range(1, joined):
        part, products = parts[n * chunks + chunk, 0], parts[n * chunks + chunk, 1]
        for c in range(C):
            given[np.uintp(c)] += part[np.uintp(c)]
            along[np.uintp(c)] += products[np.uintp(c)]
    set_factors(gamma, job.beta, eps, mean[n], variance[n], made)
    slopes, offsets = made[3], made[4]
    for g in range(G):
        shift, inverse = kind(mean[n, g]), 1 / math.sqrt(variance[n, g] + eps)
        rest = mean[n, g] - np.float64(shift)
        for c in range(g * E, g * E + E):
            along[np.uintp(c)] = (along[np.uintp(c)] - rest * given[np.uintp(c)]) * inverse
        plain, tilted = sum_products(gamma, given, g * E, E), sum_products(gamma, along, g * E, E)
        share_of = 0.0 if job.constant else inverse / (L * E)
        slope = tilted * inverse * share_of
        for c in range(g * E, g * E + E):
            slopes[np.uintp(c)] = slope
            offsets[np.uintp(c)] = plain * share_of - rest * slope
    for i in range(3, 5):
        widen(made[i], C)


@jit(inner=True)
def gradient_chunk(task, thread, n, threads, job):
    """Fill one chunk of image n of dx, a thread's last one first."""
    (_, L, C), (pixels, chunks, W), x, sums = job.x.shape, job.cuts, job.x, job.parts[n * job.cuts[1]]
    first = mirrored(task, chunks, threads) * pixels
    begin, count = (n * L + first) * C * x.itemsize, min(pixels, L - first) * C
    # Behind constant statistics a NaN in x is none of the gradient's, and the fast loop multiplies it by 0.
    spoiled = job.constant and any_not_finite(sums[1])
    if spoiled or any_above(job.variance[n], LARGE_BACK) or any_wide_sum(sums[0]):
        gradient_wide(n, job, begin // x.itemsize, count // C, sums, job.told == BY_X)
        return
    gradient, limits = job.code.gradient_within if job.told == BY_X else job.code.gradient, job.bounds.ctypes.data
    given, out = job.dy.ctypes.data + begin, job.dx.ctypes.data + begin
    call_gradient(gradient, x.ctypes.data + begin, given, out, job.factors[n].ctypes.data, limits, count, W)


@jit(inner=True)
def gradient_image(n, thread, job, wanted):
    """Take image n through all steps of the way back."""
    for task in range(job.cuts[1]):
        measure_gradient(task, thread, n, job)
    join_gradient(n, job, job.cuts[1])
    for task in range(job.cuts[1] if wanted else 0):
        gradient_chunk(task, thread, n, 1, job)


@jit
def normalize_backward(team, fields, wanted, summed, given, dgamma, dbeta):
    """Do `group_norm_backward`; with `summed` (of one image), `given` are the sums, if they are finite."""
    job = Backward(*fields)
    (N, _, C), chunks, parts = job.x.shape, job.cuts[1], job.parts
    if summed:
        if any_not_finite(given.reshape(-1)):
            summed = False
        else:
            parts[0] = given
    if enough_images(N, team[0]):
        share(team, N, gradient_image, (job, wanted))
    else:
        for n in range(N):
            if not summed:
                share(team, chunks, measure_gradient, (n, job))
            join_gradient(n, job, 1 if summed else chunks)
            share(team, chunks if wanted else 0, gradient_chunk, (n, team[0], job))
    sums = np.zeros((2, C), np.float64)
    for n in range(N):
        for row in range(2):
            for c in range(C):
                sums[row, c] += parts[n * chunks, row, c]
    for c in range(C):
        dbeta[c] = sums[0, c]
        dgamma[c] = sums[1, c]


Behind: TypeAlias = tuple[np.ndarray | None, np.ndarray | None, tuple[float, float], np.ndarray | None]
NOTHING: Behind = (None, None, UNBOUNDED, None)


def group_norm_backward(
    x: np.ndarray,
    dy: np.ndarray,
    gamma: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    groups: int,
    eps: float,
    constant: bool,
    dx: np.ndarray | None,
    dgamma: np.ndarray,
    dbeta: np.ndarray,
    behind: Behind = NOTHING,
) -> None:
    """Fill dx (unless it is None), dgamma and dbeta; `constant` statistics do not depend on x.

    `behind` = (beta, y, bounds, sums) tells what follows the normalization: behind `bounds` the gradient is dy
    where they let the value pass, as they do NaN: told by y, if it is given, and then left in dy, which is the
    residual's gradient; else by x, with `beta`. `sums` (2, C), of a single image whose channels are groups of their
    own, are those of the gradient behind the bounds and of it times x - shift, where somebody took them already, as
    `gradient_sums` does; those that overflowed are taken anew.
    """
    (N, _, C), wanted, (beta, y, bounds, sums) = x.shape, dx is not None, behind
    if x.size == 0:
        dgamma[...], dbeta[...] = 0, 0
        return
    cuts, code = plan(x, dy, dx) if wanted else plan(x, dy)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    told = BY_Y if y is not None else UNTOLD if beta is None else BY_X
    after = x if y is None else y.reshape(x.shape), told, np.array(bounds, x.dtype)
    given = gamma, gamma if beta is None else beta, mean, variance, float(eps), bool(constant)
    fields = code, x, dy, *given, *after, cuts, parts, factors, dx if wanted else x
    summed = sums is not None, parts[0] if sums is None else sums
    call_parallel(x.size > SERIAL_ELEMENTS, normalize_backward, fields, wanted, *summed, dgamma, dbeta)


@jit
def sum_gradient(team, fields, sums):
    """Do `gradient_sums`."""
    job = Backward(*fields)
    share(team, job.cuts[1], measure_gradient, (0, job))
    sums[:] = 0
    for chunk in range(job.cuts[1]):
        for row in range(2):
            for c in range(sums.shape[1]):
                sums[row, np.uintp(c)] += job.parts[chunk, row, np.uintp(c)]


def gradient_sums(norm, dy, sums):
    """Fill sums (2, C) of what lies behind a normalization's clip of its gradient dy, and of that times x - shift.

    `norm` = (x, gamma, beta, mean, variance, eps, bounds), and the shift is the mean in the dtype of x.
    """
    x, gamma, beta, mean, variance, eps, bounds = norm
    x, dy = (a.reshape(1, -1, gamma.size) for a in (x, dy))
    cuts, code = plan(x, dy)
    parts, factors = workspace(1, cuts[1], gamma.size, cuts[2], x.dtype)
    after = x, UNTOLD if bounds == UNBOUNDED else BY_X, np.array(bounds, x.dtype)
    fields = code, x, dy, gamma, beta, mean, variance, float(eps), False, *after, cuts, parts, factors, x
    call_parallel(x.size > SERIAL_ELEMENTS, sum_gradient, fields, sums)
