"""Convolutions with few output pixels, where packing the filter would take longer than the sums: a matrix product.

A row of the product is an output pixel, its parts are the pixels under the filter: the filter (taps, C, K) is read once
and as it lies (`skinny_gemm.py`). Padding is written out first, into scratch memory; the image is small.
"""

from functools import lru_cache
from itertools import product as every
from math import prod
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.matmul import skinny_gemm
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.tile import copy_bytes, zero_bytes
from fastcnn.kernels.problem import ConvProblem

FEWEST_WEIGHTS = 1 << 12  # a smaller filter is packed at once
PADDED_SHARE = 4  # of the filter's elements: a larger padded image costs more than the packing


class Pixels(NamedTuple):
    """The padded image's sizes (N, D, H, W, C), and where its pixels under the filter stand."""

    shape: tuple[int, ...]
    rows: skinny_gemm.Rows


@lru_cache(maxsize=256)
def plan_pixels(problem: ConvProblem) -> Pixels:
    """Return the plan of a convolution."""
    N, *image, C = problem.x
    sizes = [size + sum(pair) for size, pair in zip(image, problem.padding, strict=True)]
    pitches = np.array([prod(sizes[i + 1 :]) * C for i in range(3)])
    outputs = np.array(list(every(range(N), *map(range, problem.y[1:4]))), np.int64).reshape(-1, 4)
    taps = np.array(list(every(*map(range, problem.filter))), np.int64)
    places = outputs[:, 0] * (prod(sizes) * C) + outputs[:, 1:] * np.array(problem.stride) @ pitches
    return Pixels((N, *sizes, C), skinny_gemm.Rows(places, taps * np.array(problem.dilation) @ pitches))


@lru_cache(maxsize=1024)
def suits(problem: ConvProblem) -> bool:
    """Say whether a convolution has few enough pixels."""
    weights = prod(problem.filter) * problem.x[4] * problem.y[4]
    N, *image, C = problem.x
    padded = N * C * prod(size + sum(pair) for size, pair in zip(image, problem.padding, strict=True))
    few = skinny_gemm.suits(prod(problem.y[:4])) and padded * PADDED_SHARE <= weights * (1 + PADDED_SHARE)
    return problem.groups == 1 and few and weights >= FEWEST_WEIGHTS


@jit(inner=True)
def _pad_row(task, thread, x, before, padded):
    """Fill one row of the padded image."""
    (_, D, H, W, C), (_, E, G, V, _), size = x.shape, padded.shape, x.itemsize
    n, e, g = task // (E * G), task // G % E, task % G
    d, h = e - before[0], g - before[1]
    place = padded.ctypes.data + size * task * V * C
    if 0 <= d < D and 0 <= h < H:
        zero_bytes(place, size * before[2] * C)
        row = x.ctypes.data + size * ((n * D + d) * H + h) * W * C
        copy_bytes(place + size * before[2] * C, row, size * W * C)
        zero_bytes(place + size * (before[2] + W) * C, size * (V - before[2] - W) * C)
    else:
        zero_bytes(place, size * V * C)


@jit
def _pad(team, x, before, padded):
    N, E, G, _, _ = padded.shape
    share(team, N * E * G, _pad_row, (x, before, padded))


def convolve(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, problem: ConvProblem, epilogue: int, y: np.ndarray
) -> None:
    """Fill y (N, O, P, Q, K) with the convolution of x by w (T, R, S, C, K), plus b, after an epilogue."""
    plan = plan_pixels(problem)
    if plan.shape != x.shape:
        size = prod(plan.shape)
        padded = scratch("source", size, x.dtype)[:size].reshape(plan.shape)
        call_parallel(False, _pad, x, tuple(before for before, _ in problem.padding), padded)
        x = padded
    skinny_gemm.product(x, plan.rows, w.reshape(-1, *w.shape[3:]), False, b, epilogue, y.reshape(-1, y.shape[4]))
