"""The gradients of normalization over groups of channels; `norm.py` is the way forward, `reference/norm.py` defines."""

import math

import numpy as np

from fastcnn.kernels.cpu.channel_code import call_gradient, call_sums, plan
from fastcnn.kernels.cpu.channel_sums import (
    SMALL,
    enough_images,
    fold,
    mirrored,
    sum_products,
    widen,
    workspace,
)
from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel


@jit(inner=True)
def measure_gradient(task, thread, n, code, x, dy, mean, cuts, parts):
    """Fill the parts of one chunk of image n: each channel's sums of dy and dy * (x - shift)."""
    (_, L, C), (pixels, chunks, W), G = x.shape, cuts, mean.shape[1]
    first = task * pixels
    count, at, E = min(pixels, L - first) * C, (n * L + first) * C, C // G
    wide, part = np.empty((3, W), x.dtype), parts[n * chunks + task]
    for g in range(G):
        wide[0, g * E : g * E + E] = mean[n, g]
    widen(wide[0], C)
    wide[1:] = 0
    places = wide[0].ctypes.data, wide[1].ctypes.data, wide[2].ctypes.data
    begin = at * x.itemsize
    call_sums(code.product, x.ctypes.data + begin, dy.ctypes.data + begin, count, W, places[0], places[1], places[2])
    fold(wide[1], C, part[0])
    fold(wide[2], C, part[1])


@jit(inner=True)
def join_gradient(n, thread, gamma, mean, variance, eps, constant, L, cuts, parts, factors):
    """Gather image n's sums of dy and dy * xhat in its first part, and fill the factors of its wide rows.

    dx = dy * scale - ((x - shift) * slope + offset)
    """
    (_, chunks, _), C, G, kind = cuts, gamma.size, mean.shape[1], factors.dtype.type
    E, own, made = C // G, parts[n * chunks], factors[n]
    given, along = own[0], own[1]
    for chunk in range(1, chunks):
        part, products = parts[n * chunks + chunk, 0], parts[n * chunks + chunk, 1]
        for c in range(C):
            given[np.uintp(c)] += part[np.uintp(c)]
            along[np.uintp(c)] += products[np.uintp(c)]
    shifts, scales, slopes, offsets = made[0], made[1], made[2], made[3]
    for g in range(G):
        shift, inverse = kind(mean[n, g]), 1 / math.sqrt(variance[n, g] + eps)
        rest = mean[n, g] - np.float64(shift)
        for c in range(g * E, g * E + E):
            along[np.uintp(c)] = (along[np.uintp(c)] - rest * given[np.uintp(c)]) * inverse
        plain, tilted = sum_products(gamma, given, g * E, E), sum_products(gamma, along, g * E, E)
        share_of = 0.0 if constant else inverse / (L * E)
        slope = tilted * inverse * share_of
        for c in range(g * E, g * E + E):
            shifts[np.uintp(c)] = shift
            scales[np.uintp(c)] = gamma[np.uintp(c)] * inverse
            slopes[np.uintp(c)] = slope
            offsets[np.uintp(c)] = plain * share_of - rest * slope
    for i in range(4):
        widen(made[i], C)


@jit(inner=True)
def gradient_chunk(task, thread, n, threads, code, x, dy, cuts, factors, dx):
    """Fill one chunk of image n of dx, a thread's last one first."""
    (_, L, C), (pixels, chunks, W) = x.shape, cuts
    first = mirrored(task, chunks, threads) * pixels
    begin, count = (n * L + first) * C * x.itemsize, min(pixels, L - first) * C
    given, out = dy.ctypes.data + begin, dx.ctypes.data + begin
    call_gradient(code.gradient, x.ctypes.data + begin, given, out, factors[n].ctypes.data, count, W)


@jit(inner=True)
def gradient_image(n, thread, code, x, dy, gamma, mean, variance, eps, constant, wanted, cuts, parts, factors, dx):
    """Take image n through all steps of the way back."""
    for task in range(cuts[1]):
        measure_gradient(task, thread, n, code, x, dy, mean, cuts, parts)
    join_gradient(n, thread, gamma, mean, variance, eps, constant, x.shape[1], cuts, parts, factors)
    for task in range(cuts[1] if wanted else 0):
        gradient_chunk(task, thread, n, 1, code, x, dy, cuts, factors, dx)


@jit
def normalize_backward(
    team, code, x, dy, gamma, mean, variance, eps, constant, wanted, cuts, parts, factors, dx, dgamma, dbeta
):
    """Do `group_norm_backward`."""
    (N, L, C), chunks = x.shape, cuts[1]
    how = gamma, mean, variance, eps, constant
    if enough_images(N, team[0]):
        share(team, N, gradient_image, (code, x, dy, *how, wanted, cuts, parts, factors, dx))
    else:
        for n in range(N):
            share(team, chunks, measure_gradient, (n, code, x, dy, mean, cuts, parts))
            join_gradient(n, 0, *how, L, cuts, parts, factors)
            share(team, chunks if wanted else 0, gradient_chunk, (n, team[0], code, x, dy, cuts, factors, dx))
    sums = np.zeros((2, C), np.float64)
    for n in range(N):
        given, along = parts[n * chunks, 0], parts[n * chunks, 1]
        for c in range(C):
            sums[0, c] += given[c]
            sums[1, c] += along[c]
    for c in range(C):
        dbeta[c] = sums[0, c]
        dgamma[c] = sums[1, c]


def group_norm_backward(x, dy, gamma, mean, variance, groups, eps, constant, dx, dgamma, dbeta):
    """Fill dx (unless it is None), dgamma and dbeta; `constant` statistics do not depend on x."""
    (N, _, C), wanted = x.shape, dx is not None
    if x.size == 0:
        dgamma[...], dbeta[...] = 0, 0
        return
    cuts, code = plan(x, dy, dx) if wanted else plan(x, dy)
    parts, factors = workspace(N, cuts[1], C, cuts[2], x.dtype)
    how = gamma, mean, variance, float(eps), bool(constant), wanted, cuts, parts, factors
    call_parallel(x.size > SMALL, normalize_backward, code, x, dy, *how, dx if wanted else x, dgamma, dbeta)
