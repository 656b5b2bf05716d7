"""The gradient of a convolution of many small groups by its weights: products of x and dy lane by lane, summed.

    dw[t, r, s, j, k] = sum over n, o, p, q of x[n, o * stride + t * dilation - before, ..., j of k's group] dy[..., k]

A task takes one block of channels through a chunk of all bands of output rows: the sums of as many rows of taps as
registers hold run over a band, whose x and dy are read in place. The bands are dealt into chunks by the shape alone and
the chunks' sums added in order: the same bits for any number of threads.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu.convolution.depthwise.code import Pattern, call_gradients, gradients_code, most_sums
from fastcnn.kernels.cpu.convolution.depthwise.forward import Met, lanes_of, segments_of
from fastcnn.kernels.cpu.reduction.pixels import sum_panels
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import MIN_TASKS, SERIAL_FLOPS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.tile import Tiles, zero_bytes
from fastcnn.kernels.problem import ConvProblem, Triple

BLOCK_VECTORS = 8  # of output channels of a task, at most
BAND_BYTES = 128 * 1024  # of one vector's source, which is read for all rows of taps that registers hold
REPEATED_BAND_BYTES = 16 * 1024  # where it is read again for each channel of a group
MOST_OUTPUTS = 8  # side by side: more would leave too few registers for what is loaded ahead


class LanewiseGradient(NamedTuple):
    """Everything the kernel needs, as integers and tables."""

    reduce: int  # channels of a group of x
    taps: Triple
    most: int  # rows of taps whose sums registers hold
    step: int  # rows of x between rows of outputs
    dilation: int  # and between rows of taps
    units_block: int  # of a task; a unit is as many vectors of channels as the pattern of lanes is long:
    units_blocks: int
    period: int
    unit_in: int  # channels of x that a unit meets
    segments: np.ndarray  # (segments, 5): first output, column, tiles, columns between, outputs
    code: np.ndarray  # (segments, vectors of a unit, rows of taps + 1): addresses
    bands: np.ndarray  # (bands, 5): first output row, rows, first tap, taps, source row that they meet first
    depths: np.ndarray  # (outputs, taps): the source's slice, or -1
    chunks: int
    tasks: int
    parallel: bool


def _bands(heights: list[Met], most: int) -> list[tuple[int, int, int, int, int]]:
    """Return (first row, rows, first tap, taps, source row) of runs of up to `most` rows that meet the same taps."""
    bands: list[tuple[int, int, int, int, int]] = []
    for p, met in enumerate(heights):
        if not met:
            continue
        (tap, row), taps = met[0], len(met)
        if bands and bands[-1][0] + bands[-1][1] == p and bands[-1][2:4] == (tap, taps) and bands[-1][1] < most:
            bands[-1] = (bands[-1][0], bands[-1][1] + 1, *bands[-1][2:])
        else:
            bands.append((p, 1, tap, taps, row))
    return bands


@lru_cache(maxsize=1024)
def plan_gradient(problem: ConvProblem, lanes: int, dtype: np.dtype) -> LanewiseGradient:
    """Plan the gradient by weights from x and dy."""
    (source, target, filters, stride, _, dilation, _) = problem
    reduce, out, (depths, heights, widths), period, units, unit_in, ragged = lanes_of(problem, False, lanes)
    band_bytes = BAND_BYTES if reduce == 1 else REPEATED_BAND_BYTES
    bands = _bands(heights, max(1, band_bytes // (source[3] * lanes * dtype.itemsize * stride[1])))
    taps = blocks_of(filters[2], most_sums())[0]
    most = max(1, most_sums() // taps)
    heights_used = {after - tap for band in bands for tap, after in _parts(band[3], most)}
    segments, code = [], []
    for first in range(0, filters[2], taps):
        part = [tuple(pair for pair in met if first <= pair[0] < first + taps) for met in widths]
        for s in segments_of(part, MOST_OUTPUTS, 1):
            if not any(s.outputs):
                continue
            pattern = Pattern(s.outputs, reduce, out, ragged)
            segments.append((s.first, s.column, s.tiles, s.step, len(s.outputs)))
            code.append(
                [
                    [gradients_code(pattern, G, u, dtype) if G in heights_used else 0 for G in range(most + 1)]
                    for u in range(period)
                ]
            )
    # Many chunks have many sums to add: where these would outweigh x, tasks take fewer channels instead.
    most_chunks = max(1, int(np.prod(source)) // (4 * reduce * int(np.prod(filters)) * target[4]))
    blocks = max(-(-units * period // BLOCK_VECTORS), min(units, -(-MIN_TASKS // most_chunks)))
    held = blocks_of(units, units // blocks)[0]
    units_blocks = -(-units // held)
    chunks = max(1, min(source[0] * target[1] * len(bands), most_chunks, -(-MIN_TASKS // units_blocks)))
    slices = np.full((target[1], filters[0]), -1, np.int64)
    for o, met in enumerate(depths):
        for tap, d in met:
            slices[o, tap] = d
    return LanewiseGradient(
        reduce=reduce,
        taps=filters,
        most=most,
        step=stride[1],
        dilation=dilation[1],
        units_block=held,
        units_blocks=units_blocks,
        period=period,
        unit_in=unit_in,
        segments=np.array(segments, np.int64).reshape(-1, 5),
        code=np.array(code, np.int64).reshape(-1, period, most + 1),
        bands=np.array(bands, np.int64).reshape(-1, 5),
        depths=slices,
        chunks=chunks,
        tasks=chunks * units_blocks,
        parallel=2 * int(np.prod(target)) * int(np.prod(filters)) * reduce > SERIAL_FLOPS,
    )


def _parts(count: int, most: int) -> list[tuple[int, int]]:
    """Return the ends of equal parts of at most `most`."""
    parts = -(-count // most)
    return [(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


@jit(inner=True)
def _task(task, thread, lanes, plan, x, dy, partials):
    """Sum one chunk of bands for one block of channels into its partial (vectors, taps, lanes)."""
    reduce, period, segments, bands, depths = plan.reduce, plan.period, plan.segments, plan.bands, plan.depths
    (taps_d, taps_h, taps_w), code, chunks = plan.taps, plan.code, plan.chunks
    (_, D, H, W, C), (N, O, P, Q, K) = x.shape, dy.shape
    chunk, unit = task // plan.units_blocks, task % plan.units_blocks * plan.units_block
    partial = partials[chunk]
    # Addresses are taken once: a look at an array in the loops would count its references.
    source, gradient, sums, size = x.ctypes.data, dy.ctypes.data, partial.ctypes.data, x.itemsize
    first, last = unit * period, min((unit + plan.units_block) * period, (K + lanes - 1) // lanes)
    tap_row, tap = taps_w * reduce * lanes, reduce * lanes
    vector = taps_d * taps_h * tap_row
    zero_bytes(sums + size * first * vector, size * (last - first) * vector)
    areas = N * O * bands.shape[0]
    for area in range(chunk * areas // chunks, (chunk + 1) * areas // chunks):
        band, rest = area % bands.shape[0], area // bands.shape[0]
        o, n = rest % O, rest // O
        p, rows, first_tap, taps, h = to_fixed_tuple(bands[band], 5)
        parts = (taps + plan.most - 1) // plan.most
        for v in range(first, last):
            u, channel = v % period, v // period * plan.unit_in
            for t in range(taps_d):
                for part in range(parts if depths[o, t] >= 0 else 0):
                    r, after = taps * part // parts, taps * (part + 1) // parts
                    plane = ((n * D + depths[o, t]) * H + h + r * plan.dilation) * W
                    place = sums + size * (v * vector + (t * taps_h + first_tap + r) * tap_row)
                    for j in range(reduce):
                        for s in range(segments.shape[0]):
                            call_gradients(
                                code[s, u, after - r], source + size * ((plane + segments[s, 1]) * C + channel + j), C,
                                segments[s, 3] * C, plan.step * W * C, plan.dilation * W * C,
                                gradient + size * ((((n * O + o) * P + p) * Q + segments[s, 0]) * K + v * lanes), K,
                                segments[s, 4] * K, Q * K, K - v * lanes, rows, segments[s, 2],
                                place + size * j * lanes, tap, tap_row,
                            )  # fmt: skip


@jit
def _tasks(team, lanes, plan, x, dy, partials):
    share(team, plan.tasks, _task, (lanes, plan, x, dy, partials))


def lanewise_gradient(tiles: Tiles, x: np.ndarray, dy: np.ndarray, problem: ConvProblem, dw: np.ndarray) -> None:
    """Fill dw (T, R, S, C / groups, K) from x (N, D, H, W, C) and dy (N, O, P, Q, K)."""
    dtype, lanes = x.dtype, tiles.lanes
    vectors, rows = -(-dy.shape[4] // lanes), dw.size // dw.shape[4]
    plan = plan_gradient(problem, lanes, dtype)
    held = plan.chunks * vectors * rows * lanes
    partial = scratch("partial", held, dtype)[:held].reshape(plan.chunks, vectors, rows, lanes)
    call_parallel(plan.parallel, _tasks, lanes, plan, x, dy, partial)
    call_parallel(plan.parallel, sum_panels, partial, vectors, dw.reshape(-1, dw.shape[4]))
