"""The gradients of normalization over groups of channels; `norm.py` is the way forward, `reference/norm.py` defines."""

import math

import numpy as np

from fastcnn.kernels.cpu.normalization.chunks import (
    SMALL,
    UNBOUNDED,
    enough_images,
    fold,
    mirrored,
    set_factors,
    sum_products,
    widen,
    workspace,
)
from fastcnn.kernels.cpu.normalization.column_code import call_gradient, call_sums, plan
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

UNTOLD, BY_X, BY_Y = 0, 1, 2  # what tells which of dy the clip let pass: nothing (all), x, or y


@jit(inner=True)
def mask_run(dy, y, at, count, low, high):
    """Set those of `count` elements of dy from `at` to 0 whose y lies at a bound."""
    for i in range(at, at + count):
        is_cut = (y[np.uintp(i)] <= low) | (y[np.uintp(i)] >= high)
        dy[np.uintp(i)] = dy.dtype.type(0) if is_cut else dy[np.uintp(i)]


@jit(inner=True)
def measure_gradient(task, thread, n, code, x, dy, gamma, beta, mean, variance, eps, after, cuts, parts):
    """Fill the parts of one chunk of image n: each channel's sums of dy and dy * (x - shift), dy behind the clip."""
    (_, L, C), (pixels, chunks, W) = x.shape, cuts
    first = task * pixels
    count, at = min(pixels, L - first) * C, (n * L + first) * C
    wide, part, (y, how, bounds) = np.empty((5, W), x.dtype), parts[n * chunks + task], after
    set_factors(gamma, beta, eps, mean[n], variance[n], wide)
    wide[3:] = 0
    if how == BY_Y:
        mask_run(dy.reshape(-1), y.reshape(-1), at, count, bounds[0], bounds[1])
    begin, made, limits, total = at * x.itemsize, wide.ctypes.data, bounds.ctypes.data, wide[3].ctypes.data
    sums = code.product_within if how == BY_X else code.product
    given, along = dy.ctypes.data + begin, wide[4].ctypes.data
    call_sums(sums, x.ctypes.data + begin, given, count, W, made, limits, total, along)
    fold(wide[3], C, part[0])
    fold(wide[4], C, part[1])
    if any_not_finite(part[0]) or any_not_finite(part[1]) or any_above(variance[n], LARGE):
        for c in range(C):
            g = c // (C // mean.shape[1])
            scale = gamma[c] / math.sqrt(variance[n, g] + eps)
            affine, shift = (mean[n, g], scale, np.float64(beta[c])), x.dtype.type(mean[n, g])
            flat = x.reshape(-1), dy.reshape(-1), at + c, count // C, C
            part[0, c], part[1, c] = product_wide(*flat, affine, shift, how == BY_X, bounds[0], bounds[1])


@jit(inner=True)
def join_gradient(n, thread, gamma, beta, mean, variance, eps, constant, L, cuts, parts, factors):
    """Gather image n's sums of dy and dy * xhat in its first part, and fill the factors of its wide rows.

    dx = dy * scale - ((x - shift) * slope + offset), where clip let (x - shift) * scale + lift pass
    """
    (_, chunks, _), C, G, kind = cuts, gamma.size, mean.shape[1], factors.dtype.type
    E, own, made = C // G, parts[n * chunks], factors[n]
    given, along = own[0], own[1]
    for chunk in range(1, chunks):
        part, products = parts[n * chunks + chunk, 0], parts[n * chunks + chunk, 1]
        for c in range(C):
            given[np.uintp(c)] += part[np.uintp(c)]
            along[np.uintp(c)] += products[np.uintp(c)]
    set_factors(gamma, beta, eps, mean[n], variance[n], made)
    slopes, offsets = made[3], made[4]
    for g in range(G):
        shift, inverse = kind(mean[n, g]), 1 / math.sqrt(variance[n, g] + eps)
        rest = mean[n, g] - np.float64(shift)
        for c in range(g * E, g * E + E):
            along[np.uintp(c)] = (along[np.uintp(c)] - rest * given[np.uintp(c)]) * inverse
        plain, tilted = sum_products(gamma, given, g * E, E), sum_products(gamma, along, g * E, E)
        share_of = 0.0 if constant else inverse / (L * E)
        slope = tilted * inverse * share_of
        for c in range(g * E, g * E + E):
            slopes[np.uintp(c)] = slope
            offsets[np.uintp(c)] = plain * share_of - rest * slope
    for i in range(3, 5):
        widen(made[i], C)


@jit(inner=True)
def gradient_chunk(task, thread, n, threads, code, x, dy, after, cuts, factors, exact, sums, dx):
    """Fill one chunk of image n of dx, a thread's last one first."""
    (_, L, C), (pixels, chunks, W) = x.shape, cuts
    first = mirrored(task, chunks, threads) * pixels
    begin, count = (n * L + first) * C * x.itemsize, min(pixels, L - first) * C
    _, how, bounds = after
    # Behind constant statistics a NaN in x is none of the gradient's, and the fast loop multiplies it by 0.
    spoiled = exact[5] and any_not_finite(sums[1])
    if spoiled or any_above(exact[3], LARGE_BACK) or any_wide_sum(sums[0]):
        flat = x.reshape(-1), dy.reshape(-1), dx.reshape(-1), begin // x.itemsize, count // C, L
        gradient_wide(*flat, *exact, sums, how == BY_X, bounds[0], bounds[1])
        return
    gradient, limits = code.gradient_within if how == BY_X else code.gradient, bounds.ctypes.data
    given, out = dy.ctypes.data + begin, dx.ctypes.data + begin
    call_gradient(gradient, x.ctypes.data + begin, given, out, factors[n].ctypes.data, limits, count, W)


@jit(inner=True)
def gradient_image(
    n, thread, code, x, dy, gamma, beta, mean, variance, eps, constant, wanted, after, cuts, parts, factors, dx
):
    """Take image n through all steps of the way back."""
    for task in range(cuts[1]):
        measure_gradient(task, thread, n, code, x, dy, gamma, beta, mean, variance, eps, after, cuts, parts)
    join_gradient(n, thread, gamma, beta, mean, variance, eps, constant, x.shape[1], cuts, parts, factors)
    exact, sums = (gamma, beta, mean[n], variance[n], eps, constant), parts[n * cuts[1]]
    for task in range(cuts[1] if wanted else 0):
        gradient_chunk(task, thread, n, 1, code, x, dy, after, cuts, factors, exact, sums, dx)


@jit
def normalize_backward(
    team,
    code,
    x,
    dy,
    gamma,
    beta,
    mean,
    variance,
    eps,
    constant,
    wanted,
    summed,
    given,
    after,
    cuts,
    parts,
    factors,
    dx,
    dgamma,
    dbeta,
):
    """Do `group_norm_backward`; with `summed` (of one image), `given` are the sums, if they are finite."""
    (N, L, C), (pixels, chunks, W) = x.shape, cuts
    how = gamma, beta, mean, variance, eps
    if summed:
        if any_not_finite(given.reshape(-1)):
            summed = False
        else:
            parts[0] = given
    joined = pixels, 1 if summed else chunks, W
    if enough_images(N, team[0]):
        share(team, N, gradient_image, (code, x, dy, *how, constant, wanted, after, cuts, parts, factors, dx))
    else:
        for n in range(N):
            if not summed:
                share(team, chunks, measure_gradient, (n, code, x, dy, *how, after, cuts, parts))
            join_gradient(n, 0, *how, constant, L, joined, parts, factors)
            exact = gamma, beta, mean[n], variance[n], eps, constant
            rest = after, cuts, factors, exact, parts[n * chunks], dx
            share(team, chunks if wanted else 0, gradient_chunk, (n, team[0], code, x, dy, *rest))
    sums = np.zeros((2, C), np.float64)
    for n in range(N):
        for row in range(2):
            for c in range(C):
                sums[row, c] += parts[n * chunks, row, c]
    for c in range(C):
        dbeta[c] = sums[0, c]
        dgamma[c] = sums[1, c]


def group_norm_backward(
    x, dy, gamma, mean, variance, groups, eps, constant, dx, dgamma, dbeta, beta=None, y=None, bounds=UNBOUNDED,
    sums=None,
):  # fmt: skip
    """Fill dx (unless it is None), dgamma and dbeta; `constant` statistics do not depend on x.

    Behind `bounds` the gradient is dy where they let the value pass, as they do NaN: told by y, if it is given, and
    then left in dy, which is the residual's gradient; else by x, with `beta`. `sums` (2, C), of a single image whose
    channels are groups of their own, are those of the gradient behind the bounds and of it times x - shift, where
    somebody took them already, as `gradient_sums` does; those that overflowed are taken anew.
    """
    (N, _, C), wanted = x.shape, dx is not None
    if x.size == 0:
        dgamma[...], dbeta[...] = 0, 0
        return
    cuts, code = plan(x, dy, dx) if wanted else plan(x, dy)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    told = BY_Y if y is not None else UNTOLD if beta is None else BY_X
    after = x if y is None else y.reshape(x.shape), told, np.array(bounds, x.dtype)
    how = gamma, gamma if beta is None else beta, mean, variance, float(eps), bool(constant), wanted
    after = sums is not None, parts[0] if sums is None else sums, after
    out = dx if wanted else x, dgamma, dbeta
    call_parallel(x.size > SMALL, normalize_backward, code, x, dy, *how, *after, cuts, parts, factors, *out)


@jit
def sum_gradient(team, code, x, dy, gamma, beta, mean, variance, eps, after, cuts, parts, sums):
    """Do `gradient_sums`."""
    share(team, cuts[1], measure_gradient, (0, code, x, dy, gamma, beta, mean, variance, eps, after, cuts, parts))
    sums[:] = 0
    for chunk in range(cuts[1]):
        for row in range(2):
            for c in range(sums.shape[1]):
                sums[row, np.uintp(c)] += parts[chunk, row, np.uintp(c)]


def gradient_sums(norm, dy, sums):
    """Fill sums (2, C) of what lies behind a normalization's clip of its gradient dy, and of that times x - shift.

    `norm` = (x, gamma, beta, mean, variance, eps, bounds), and the shift is the mean in the dtype of x.
    """
    x, gamma, beta, mean, variance, eps, bounds = norm
    x, dy = (a.reshape(1, -1, gamma.size) for a in (x, dy))
    cuts, code = plan(x, dy)
    parts, _ = workspace(1, cuts[1], gamma.size, cuts[2], x.dtype)
    after = x, UNTOLD if bounds == UNBOUNDED else BY_X, np.array(bounds, x.dtype)
    how = gamma, beta, mean, variance, float(eps), after, cuts, parts, sums
    call_parallel(x.size > SMALL, sum_gradient, code, x, dy, *how)
