"""Convolution as a scatter: each source pixel meets the whole filter, and the products are added where they belong.

    z[m, t, r, s, k] = sum over c of source[m, c] * w[t, r, s, c, k]
    target[m * stride + (t, r, s) * dilation - before, k] += z[m, t, r, s, k]

This is the gradient by the input as the definition of the forward pass transposes it (and, with the filter turned
around, the forward pass at stride 1). The gather of `direct.py` stores every output once, but where a large filter
meets a small map most of what it multiplies is padding, and where outputs have few channels most lanes idle. Here
nothing but pixels is multiplied, and the lanes run along (t, r, s, k) without a gap; the price is a block of products
z, which stays in L2, and its addition. Tasks are images, or bands of an image's target rows (which compute the z of the
source rows they share anew), so each output has one writer and one order.
"""

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.direct_plan import Gather
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import LINE, MIN_TASKS, SERIAL_FLOPS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import packed, scratch
from fastcnn.kernels.cpu.simd.epilogue import finish, in_memory
from fastcnn.kernels.cpu.simd.epilogue_code import clip_run
from fastcnn.kernels.cpu.simd.tile import (
    MAX_PATCH_ROWS,
    MAX_PATCH_VECTORS,
    Tiles,
    call_copy_rows,
    call_patches,
    call_tile,
    call_transpose,
    zero_bytes,
)
from fastcnn.kernels.problem import ConvProblem, Triple

PRODUCT_BYTES = 192 * 1024  # of a block of products: with the weights' panel and the target's rows they stay in L2
FEW_PIXELS = 28  # two tiles: a task of fewer takes several images
# In cycles of one thread, measured: of a tile beside its steps and for one of its pixels; of the addition of a vector;
# of a call that adds some rows; of a kernel's start (packing the weights, two threads waiting for each other).
TILE_CYCLES, VECTOR_CYCLES, PATCH_CYCLES, KERNEL_CYCLES = 6, 5, 40, 150_000
BAND_OVERLAP = 6  # a band of target rows is at least so many times as high as what it shares with the next


class Scatter(NamedTuple):
    """Everything the kernel needs, as integers and tables."""

    groups: int
    channels: tuple[int, int]  # of a group: in the source, in the target
    panels: int  # of one group's (tap, channel) lanes
    runs: int  # of products of one row of taps that lie side by side in the target: one, or each tap's own
    taps: Triple
    stride: Triple
    before: Triple  # padding
    dilation: Triple
    source: tuple[int, int, int, int]  # images, slices, rows, columns
    target: Triple  # slices, rows, columns
    images_block: int  # of a task
    bands: int  # of target rows, into which an image is cut
    band_rows: int
    pixels_block: int  # of the source
    tables: np.ndarray  # one after the other: offset of each pixel of a block in the source, and in z; of each row of
    # taps in the target, and in a pixel's z; in bytes, of the cache lines of the next block's pixels
    held: int  # elements of z, after a cache line that begins with a one
    tasks: int
    parallel: bool
    cycles: float  # an estimate, to compare with a gather's


@lru_cache(maxsize=1024)
def plan_scatter(problem: ConvProblem, transposed: bool, lanes: int, tile_rows: int, itemsize: int) -> Scatter:
    """Plan the scatter of an input gradient, or of a forward pass at stride 1 as one with the filter rotated."""
    (_, _, filters, stride, padding, dilation, groups) = problem
    (N, D, H, W, C), (_, O, P, Q, K) = problem.ends(transposed)
    before = [pair[0] for pair in padding]
    if not transposed:
        before = [(filters[i] - 1) * dilation[i] - before[i] for i in range(3)]
    reduce, out, block = C // groups, K // groups, 2 * lanes
    panels = -(-prod(filters) * out // block)
    pitch = groups * panels * block
    image = D * H * W
    images = max(1, min(-(-FEW_PIXELS // image), -(-N // 8)))
    extent = (filters[1] - 1) * dilation[1] + 1
    band = P
    if D == O == images == 1:
        shared = max(0, extent - stride[1])
        band = min(P, max(BAND_OVERLAP * shared, stride[1], -(-P * N // MIN_TASKS)))
    band, bands = blocks_of(P, band)
    pixels = max(1, PRODUCT_BYTES // (pitch * itemsize) // tile_rows) * tile_rows
    pixels = blocks_of(images * image if bands == 1 else -(-image // bands), min(pixels, 16 * tile_rows))[0]
    whole = groups == 1 and dilation[2] == 1
    run, runs = (filters[2] * out, 1) if whole else (out, filters[2])
    flops = 2 * N * image * prod(filters) * K * reduce
    lines = np.arange(0, pixels * C * itemsize, LINE)
    calls = groups * runs * filters[0] * -(-filters[1] // MAX_PATCH_ROWS) * -(-run // (MAX_PATCH_VECTORS * lanes))
    vectors = groups * runs * filters[0] * filters[1] * -(-run // lanes)
    tile = groups * panels * (reduce + TILE_CYCLES)
    cycles = N * image * (tile + VECTOR_CYCLES * vectors + PATCH_CYCLES * calls) * (1 + (bands > 1) / BAND_OVERLAP)
    return Scatter(
        groups=groups,
        channels=(reduce, out),
        panels=panels,
        runs=runs,
        taps=filters,
        stride=stride,
        before=(before[0], before[1], before[2]),
        dilation=dilation,
        source=(N, D, H, W),
        target=(O, P, Q),
        images_block=images,
        bands=bands,
        band_rows=band,
        pixels_block=pixels,
        tables=np.concatenate(
            [
                np.arange(pixels) * C,
                np.arange(pixels) * pitch,
                np.arange(filters[1]) * dilation[1] * Q * K,
                np.arange(filters[1]) * filters[2] * out,
                lines,
                np.zeros(reduce, np.int64),
            ]
        ),
        held=pixels * pitch + LINE // itemsize,
        tasks=-(-N // images) * bands,
        parallel=flops > SERIAL_FLOPS,
        cycles=KERNEL_CYCLES + cycles,
    )


def gather_cycles(plans: tuple[Gather, ...], target: tuple[int, ...], lanes: int) -> float:
    """Estimate the cycles of gathers into an array of shape `target`, padding and idle lanes included."""
    K, cycles = target[4], KERNEL_CYCLES * float(len(plans))
    for plan in plans:
        outputs = target[0] * plan.outputs
        steps = plan.batch.size * plan.run
        if plan.dot:
            cycles += outputs * K * (15 + plan.batch.size * (-(-plan.run // lanes) / 2 + 3))
            continue
        out = K // plan.groups * plan.merge
        panels = plan.groups * (out // (2 * lanes) + (0.6 if 0 < out % (2 * lanes) <= lanes else out % (2 * lanes) > 0))
        cycles += outputs / plan.merge * panels * (steps + TILE_CYCLES)
    return cycles


@jit(inner=True)
def _pack_panel(panel, thread, transpose, w, groups, transposed, block, packed):
    """Fill one panel: for each reduced channel, `block` lanes of (tap, channel), zeros past the last."""
    taps, C, K = w.shape
    reduce, out = (K // groups, C) if transposed else (C, K // groups)
    panels = (taps * out + block - 1) // block
    g, first = panel // panels, panel % panels * block
    target = packed[panel * reduce * block :][: reduce * block].reshape(reduce, block)
    wide, lanes = min(block, taps * out - first), block // 2
    if transposed:
        for k in range(0, block, lanes):
            source = w.ctypes.data + w.itemsize * (min(first + k, taps * C - 1) * K + g * reduce)
            call_transpose(transpose, source, K, target.ctypes.data + w.itemsize * k, block,
                           max(0, min(lanes, wide - k)), reduce)  # fmt: skip
        return
    k = 0
    while k < wide:
        tap, channel = (first + k) // out, (first + k) % out
        after = min(wide, k + out - channel)
        for c in range(reduce):
            for j in range(k, after):
                target[c, j] = w[taps - 1 - tap, c, g * out + channel + j - k]
        k = after
    for c in range(reduce):
        target[c, wide:] = 0


@jit
def _pack(team, panels, transpose, w, groups, transposed, block, packed):
    share(team, panels, _pack_panel, (transpose, w, groups, transposed, block, packed))


@jit(inner=True, inline=True)
def _add_row(tiles, plan, one, z, pitch, place, columns, rows, to_taps, target):
    """Add the products of some pixels of a source row, `pitch` bytes apart from the address z on.

    place: image, slice and row; columns: the first and the one after the last. Only some `rows`, from the first to the
    one after the last, of the target are added to. one and to_taps are addresses, of the number and of the tables of
    taps.
    """
    (n, d, p), (q_first, q_after), (h_first, h_after) = place, columns, rows
    (taps_d, taps_h, taps_w), (stride_d, stride_h, stride_w), (O, P, Q) = plan.taps, plan.stride, plan.target
    (before_d, before_h, before_w), (dilation_d, dilation_h, dilation_w) = plan.before, plan.dilation
    out, lanes, size, group = plan.channels[1], tiles.lanes, target.itemsize, MAX_PATCH_VECTORS * tiles.lanes
    K, from_taps = plan.groups * out, to_taps + 8 * taps_h
    h = p * stride_h - before_h
    r_first = max(0, (h_first - h + dilation_h - 1) // dilation_h)
    r_after = min(taps_h, (h_after - h + dilation_h - 1) // dilation_h)
    for t in range(taps_d):
        o = d * stride_d - before_d + t * dilation_d
        if o < 0 or o >= O:
            continue
        for g in range(plan.groups):
            for j in range(plan.runs):
                row = target.ctypes.data + size * ((((n * O + o) * P + h) * Q) * K + g * out)
                products = z + size * (g * plan.panels * 2 * lanes + t * taps_h * taps_w * out)
                for q in range(q_first, q_after):
                    w = q * stride_w - before_w
                    # All taps of a row side by side, those beyond the edges cut off, or one tap after the other.
                    first = max(0, -w) if plan.runs == 1 else j
                    after = min(taps_w, Q - w) if plan.runs == 1 else j + 1
                    column = w + first * dilation_w
                    if column < 0 or column >= Q or first >= after:
                        continue
                    length = (after - first) * out
                    to, at = row + size * column * K, products + pitch * (q - q_first) + size * first * out
                    for r in range(r_first, r_after, MAX_PATCH_ROWS):
                        height = min(MAX_PATCH_ROWS, r_after - r)
                        for k in range(0, length, group):
                            count = min(group, length - k)
                            vectors = (count + lanes - 1) // lanes
                            call_patches(tiles.patches[height, vectors], to + size * k, to_taps + 8 * r, at + size * k,
                                         from_taps + 8 * r, from_taps, one, 1,
                                         count - (vectors - 1) * lanes)  # fmt: skip


@jit(inner=True, inline=True)
def _begin(plan, copy, bias, images, rows, target):
    """Fill some rows of some images of the target with the bias, or zero: from the first to the one after the last."""
    O, P, Q = plan.target
    K, size, (first, after), own = plan.groups * plan.channels[1], target.itemsize, images, (rows[1] - rows[0]) * Q
    for slice_ in range(first * O, after * O):
        at = target.ctypes.data + size * (slice_ * P + rows[0]) * Q * K
        if bias.size == 0:
            zero_bytes(at, size * own * K)
        else:
            call_copy_rows(copy, bias.ctypes.data, 0, at, K, own, K)


@jit(inner=True, inline=True)
def _finish(plan, epilogue, images, rows, target):
    """Clamp these rows of the target, and apply the epilogue's function."""
    O, P, Q = plan.target
    K, size, (first, after), own = plan.groups * plan.channels[1], target.itemsize, images, (rows[1] - rows[0]) * Q
    for slice_ in range(first * O, after * O):
        at = (slice_ * P + rows[0]) * Q * K
        clip_run(target, at, at + own * K, epilogue)
        finish(epilogue, target.ctypes.data + size * at, 1, 0, 1, own * K, own * K, size)


@jit(inner=True, inline=True)
def _source_pixels(plan, images, rows):
    """Return the first source pixel that meets these rows of the target, and the one after the last."""
    (_, D, H, W), (first, after), (h_first, h_after) = plan.source, images, rows
    if plan.bands == 1:
        return first * D * H * W, after * D * H * W
    taps, stride, before, dilation = plan.taps[1], plan.stride[1], plan.before[1], plan.dilation[1]
    p_first = max(0, (h_first + before - (taps - 1) * dilation + stride - 1) // stride)
    p_after = min(H, (h_after - 1 + before) // stride + 1)
    return (first * H + p_first) * W, (first * H + p_after) * W


@jit(inner=True, inline=True)
def _multiply(tiles, plan, source, packed, first, pixels, end, z):
    """Fill z, an address, with the products of `pixels` pixels of the source; prefetch those that follow, up to end."""
    (taps_d, taps_h, taps_w), (reduce_channels, out), size = plan.taps, plan.channels, source.itemsize
    lanes, block, C, source_rows = tiles.lanes, 2 * tiles.lanes, plan.groups * reduce_channels, plan.tables.ctypes.data
    product_rows, zero = source_rows + 8 * plan.pixels_block, source_rows + 16 * plan.pixels_block
    lines, lanes_needed = zero + 16 * taps_h, taps_d * taps_h * taps_w * out
    needed = (pixels + tiles.rows - 1) // tiles.rows
    fetch = source.ctypes.data + size * (first + pixels) * C
    cursor, last = 0, min(plan.pixels_block, end - first - pixels) * C * size // LINE
    for panel in range(plan.groups * plan.panels):
        a = source.ctypes.data + size * (first * C + panel // plan.panels * reduce_channels)
        vectors = 1 + np.int64(lanes_needed - panel % plan.panels * block > lanes)
        for i in range(needed):
            m, after = pixels * i // needed, pixels * (i + 1) // needed
            call_tile(
                tiles.addresses[after - m, vectors], a, source_rows + 8 * m, zero, 1,
                packed.ctypes.data + size * panel * reduce_channels * block, 0, block, z + size * panel * block,
                product_rows + 8 * m, reduce_channels, 1, 0, lanes, 0, 0, fetch,
                lines + 8 * max(0, min(cursor, last - reduce_channels)), np.int64(cursor + reduce_channels <= last),
            )  # fmt: skip
            cursor += reduce_channels


@jit(inner=True)
def _scatter_task(task, thread, tiles, plan, source, packed, bias, epilogue, buffers, target):
    """Fill the target's rows of one block of images, or of one band of an image."""
    (N, D, H, W), size = plan.source, source.itemsize
    n, h = task // plan.bands * plan.images_block, task % plan.bands * plan.band_rows
    images, rows = (n, min(N, n + plan.images_block)), (h, min(plan.target[1], h + plan.band_rows))
    _begin(plan, tiles.addresses[1, 0], bias, images, rows, target)
    begin, end = _source_pixels(plan, images, rows)
    one = buffers.ctypes.data + buffers.strides[0] * thread
    buffers[thread, 0] = 1
    z, pitch = one + LINE, size * plan.groups * plan.panels * 2 * tiles.lanes
    taps = plan.tables.ctypes.data + 16 * plan.pixels_block
    for first in range(begin, end, plan.pixels_block):
        pixels = min(plan.pixels_block, end - first)
        _multiply(tiles, plan, source, packed, first, pixels, end, z)
        m = 0
        while m < pixels:
            q, rest = (first + m) % W, (first + m) // W
            p, rest = rest % H, rest // H
            after = min(pixels, m + W - q)
            place = rest // D, rest % D, p
            _add_row(tiles, plan, one, z + pitch * m, pitch, place, (q, q + after - m), rows, taps, target)
            m = after
    _finish(plan, epilogue, images, rows, target)


@jit
def _scatter_tasks(team, tiles, plan, source, packed, bias, epilogue, buffers, target):
    share(team, plan.tasks, _scatter_task, (tiles, plan, source, packed, bias, epilogue, buffers, target))


def scatter(
    tiles: Tiles, source: np.ndarray, w: np.ndarray, bias: np.ndarray | None, problem: ConvProblem, transposed: bool,
    epilogue: int, target: np.ndarray,
) -> None:  # fmt: skip
    """Fill target with the scattered products of source and the filter w (T, R, S, C / groups, K).

    `transposed` is the gradient by the input; else the filter is turned around for a forward pass at stride 1.
    """
    dtype, block, groups = source.dtype, 2 * tiles.lanes, problem.groups
    plan = plan_scatter(problem, transposed, tiles.lanes, tiles.rows, source.itemsize)
    flat = w.reshape(-1, w.shape[3], w.shape[4])
    reduce = source.shape[4] // groups
    panels = packed("weights", w, groups * plan.panels * reduce * block, dtype)
    call_parallel(plan.parallel, _pack, groups * plan.panels, tiles.addresses[0, 0], flat, groups, transposed, block,
                  panels, packs=w)  # fmt: skip
    threads = threads_for(plan.parallel)
    buffers = scratch("source", threads * plan.held, dtype)[: threads * plan.held].reshape(threads, plan.held)
    given = np.empty(0, dtype) if bias is None else bias
    call_parallel(plan.parallel, _scatter_tasks, tiles, plan, source.reshape(-1), panels, given, in_memory(epilogue),
                  buffers, target.reshape(-1))  # fmt: skip
