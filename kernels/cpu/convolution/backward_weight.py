"""The gradient of a convolution by its weights: a product of x and dy summed over the pixels of all images.

    dw[t, r, s, c, k] = sum over n, o, p, q of x[n, o * stride + t * dilation - before, ..., c] * dy[n, o, p, q, k]

A tile's rows are (t, r, s, c), its lanes k, and its sum runs over a block of pixels whose x (padded) and dy (cut into
panels, padded to whole vectors) are first copied into L2. Where there are few output channels, a vector holds those of
several pixels side by side (`merge`), and the rows are as many taps more; where there are very few, the lanes run along
(s, c) instead (`patch_run`). The blocks are dealt into chunks by the shape alone; each chunk sums into its own array,
and the arrays are added in order: the same bits for any number of threads.
"""

from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.axes import Axis, forward_axis, sampled
from fastcnn.kernels.cpu.convolution.copy_padded import block_start, copy_padded
from fastcnn.kernels.cpu.convolution.direct_plan import SOURCE_BYTES, line_table, merged_pixels, runs_of
from fastcnn.kernels.cpu.convolution.pointwise_backward_weight import applies, pointwise_gradient
from fastcnn.kernels.cpu.reduction.pixels import sum_merged, sum_panels, sum_patches
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import MIN_TASKS, SERIAL_FLOPS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.tile import (
    DOT_CHANNELS,
    MAX_PATCH_ROWS,
    MAX_PATCH_VECTORS,
    MAX_VECTORS,
    Tiles,
    call_copy,
    call_patches,
    call_tile,
    zero_bytes,
)
from fastcnn.kernels.problem import ConvProblem, Triple

BLOCK_PIXELS = 224  # of one tile call: dy's panel (28 KiB of float32) and the x it meets share L1
CHUNK_PIXELS = 1500  # fewer cost more for writing and adding up a chunk's sums than a twentieth of its products
WORKING_BYTES = 800 * 1024  # of a task's sums, its block of x and dy, and the next block: they should stay in L2
ALL_PARTIAL_BYTES = 32 * 1024 * 1024  # of the sums of all chunks


class Padded(NamedTuple):
    """How the x that a block of outputs meets is copied, with its padding; three numbers: slices, rows, columns."""

    block: Triple  # images, rows and columns of outputs
    wide: int  # columns, filled up to whole vectors of merged pixels
    start: Triple  # where the taps of the first output begin in x
    step: Triple  # from an output to the next, in pixels that are taken
    skip: Triple  # every so many pixels of x are
    extent: Triple  # of an output's taps
    image_pitch: int  # of the copy
    pitch: Triple  # of its slices, rows and pixels


class Product(NamedTuple):
    """Everything the kernel needs, as integers and tables of offsets in elements.

    dw is cut into regions (a group, some of its input channels, some panels of its output channels), the pixels into
    blocks, and the blocks into chunks; a task sums one region over one chunk.
    """

    group_channels: int
    group_filters: int
    channel_block: int  # input channels of a region
    channel_blocks: int
    panels: int  # of a group's output channels
    panel_blocks: int
    taps: int
    padded: Padded
    blocks: Triple  # of images, rows and columns
    x_lines: int  # of `lines`
    merge: int
    patch_run: int
    direct: bool  # one chunk: its sums are dw
    rows: np.ndarray  # (2, tap and channel): offset in the padded x of dw's rows; row 1: for the last input channels
    sum_rows: np.ndarray  # the same in the sums
    patch_rows: np.ndarray  # offsets of the runs of (tap, channel) there: dw's rows where its lanes run along them
    patch_sums: np.ndarray  # and in the sums
    pixels: np.ndarray  # offset in the padded x of every pixel of a block: where its patch begins
    x_batch: np.ndarray  # offset in the padded x of every (image, output row) of a block
    lines: np.ndarray  # offsets in bytes of the cache lines of a block's x, then of its dy, from their first
    scratch_x: int
    scratch_dy: int
    sums: tuple[int, int, int, int]  # shape of the sums: chunks, panels, rows of dw, lanes
    tasks: int
    parallel: bool


class Region(NamedTuple):
    """What one task sums."""

    group: int
    chunk: int
    channel: int  # the first of `channels` of the group's input
    channels: int
    panel: int  # the first of `panels`
    panels: int


def _pixel_pitch(channels: int, itemsize: int) -> int:
    """Elements between pixels of the padded x: an odd number of cache lines where whole lines would alias in L1."""
    line = 64 // itemsize
    if channels % (4 * line) == 0:
        return channels + line
    return channels


def _source_pixels(axes: tuple[Axis, Axis, Axis], rows: int, columns: int) -> int:
    """Return the pixels of the padded x that rows x columns outputs meet."""
    depth, height, width = axes
    return depth.extent * ((rows - 1) * height.step + height.extent) * ((columns - 1) * width.step + width.extent)


def _block(N: int, axes: tuple[Axis, Axis, Axis], pixels: int, pixel_bytes: int) -> Triple:
    """Return (images, rows, columns) of a block: at most `pixels` outputs whose padded x fits SOURCE_BYTES."""
    _, height, width = axes

    def source(rows: int, columns: int) -> int:
        return _source_pixels(axes, rows, columns) * pixel_bytes

    columns = width.outputs
    while columns > 1 and (columns > pixels or source(1, columns) > SOURCE_BYTES):
        columns = -(-columns // 2)
    rows = max(1, min(height.outputs, pixels // columns))
    while rows > 1 and source(rows, columns) > SOURCE_BYTES:
        rows -= 1
    images = 1
    if rows == height.outputs and columns == width.outputs:
        images = max(1, min(N, pixels // (rows * columns), SOURCE_BYTES // source(rows, columns)))
    return blocks_of(N, images)[0], blocks_of(height.outputs, rows)[0], blocks_of(width.outputs, columns)[0]


def _channel_block(
    N: int, axes: tuple[Axis, Axis, Axis], merge: int, channels: int, K: int, lanes: int, itemsize: int
) -> int:
    """Return how many input channels a task takes: all, or so few that the x of a whole block of pixels fits."""
    whole = _block(N, axes, BLOCK_PIXELS * merge, _pixel_pitch(channels, itemsize) * itemsize)
    if merge > 1 or (K <= DOT_CHANNELS and prod(whole) >= BLOCK_PIXELS // 4):
        return channels
    images, rows, columns = _block(N, axes, BLOCK_PIXELS, itemsize)
    fitting = SOURCE_BYTES // (images * _source_pixels(axes, rows, columns) * itemsize)
    number = -(-channels // max(fitting, 2 * lanes))
    return min(channels, -(-channels // (number * lanes)) * lanes)


def _padded(axes: tuple[Axis, Axis, Axis], skips: Triple, block: Triple, merge: int, pixel_pitch: int) -> Padded:
    """Return how the x of a block is copied, `pixel_pitch` elements between pixels."""
    (_, rows, columns), (depth, height, width) = block, axes
    wide = -(-columns // merge) * merge
    row_pitch = ((wide - 1) * width.step + width.extent) * pixel_pitch
    pitch = ((rows - 1) * height.step + height.extent) * row_pitch
    start, step, extent = zip(*((axis.start, axis.step, axis.extent) for axis in axes), strict=True)
    return Padded(block, wide, start, step, skips, extent, depth.extent * pitch, (pitch, row_pitch, pixel_pitch))


def _patch_rows(
    axes: tuple[Axis, Axis, Axis], pitch: Triple, C: int, K: int, taps: int, merge: int, lanes: int
) -> tuple[np.ndarray, int]:
    """Return the offsets of the runs of (tap, channel) in the padded x, and their length: 0 if lanes are channels.

    In cycles a pixel: unaligned loads allow one multiply-add a cycle; a tile of one vector takes 0.6 a row.
    """
    rows, run = runs_of(axes, pitch, C, 1)
    if pitch[2] != C and run > C:
        rows, run = (rows[:, None] + np.arange(len(axes[2].taps)) * pitch[2]).ravel(), C
    tile_cycles = taps * C / merge * (0.6 if merge * K <= lanes else 1.0)
    return rows, run if K * rows.size * -(-run // lanes) < 0.9 * tile_cycles else 0


def _panel_blocks(padded: Padded, axes: tuple[Axis, Axis, Axis], panels: int, panel: int, itemsize: int) -> int:
    """Return into how many parts the panels, of `panel` elements of sums and dy, are cut.

    Those of a part, the x of its block and that of the next stay in L2.
    """
    images, rows, columns = padded.block
    block_bytes = images * _source_pixels(axes, rows, columns) * padded.pitch[2] * itemsize
    return -(-panels // max(1, (WORKING_BYTES - 2 * block_bytes) // (panel * itemsize)))


@lru_cache(maxsize=1024)
def plan_product(problem: ConvProblem, lanes: int, itemsize: int) -> Product:
    """Plan the gradient by weights (*filter, C / groups, K) from x and dy."""
    (source, target, filters, stride, padding, dilation, groups) = problem
    N, C, K = source[0], source[4], target[4]
    group_channels, group_filters, block_lanes = C // groups, K // groups, 2 * lanes
    whole_axes = [forward_axis(filters[i], stride[i], padding[i][0], dilation[i], target[i + 1]) for i in range(3)]
    axes, skips = zip(*(sampled(axis) for axis in whole_axes), strict=True)
    depth, height, width = axes
    whole_rows = groups == 1 and width.offsets == tuple(range(filters[2]))
    merge = merged_pixels(width, K, filters[2] if whole_rows else 0, width.outputs, lanes)
    channel_block = _channel_block(N, axes, merge, group_channels, K, lanes, itemsize)
    channel_blocks = -(-group_channels // channel_block)
    pitch_w = _pixel_pitch(channel_block, itemsize)
    block = images, rows, columns = _block(N, axes, BLOCK_PIXELS * merge, pitch_w * itemsize)
    padded = _padded(axes, skips, block, merge, pitch_w)
    blocks = -(-N // images), -(-height.outputs // rows), -(-width.outputs // columns)
    panels, steps = -(-group_filters // block_lanes), images * rows * padded.wide // merge
    places = width.offsets if merge == 1 else range(filters[2] + (merge - 1) * width.step)
    taps = np.array([np.dot(padded.pitch, place) for place in product(depth.offsets, height.offsets, places)])
    patch_rows, patch_run = _patch_rows(axes, padded.pitch, C, K, taps.size, merge, lanes)
    patch_run = patch_run if channel_block == C and columns == width.outputs else 0
    panel_blocks = _panel_blocks(padded, axes, panels, (taps.size * channel_block + 2 * steps) * block_lanes, itemsize)
    regions, sums = groups * channel_blocks * panel_blocks, (groups * panels, taps.size * group_channels, block_lanes)
    pixels, most = prod(target[:4]), ALL_PARTIAL_BYTES // (prod(sums) * itemsize)
    chunks = max(1, min(prod(blocks) * depth.outputs, -(-MIN_TASKS // regions), pixels // CHUNK_PIXELS, most))
    direct = chunks == 1 and merge == 1 and patch_run == 0
    held = -(-panels // panel_blocks) * block_lanes
    lines, x_lines = _block_lines(source, target, padded, channel_block, min(group_filters, held), steps, itemsize)
    batch = np.add.outer(
        np.arange(images) * padded.image_pitch, np.arange(rows) * height.step * padded.pitch[1]
    ).ravel()
    last_channels, pitch = group_channels - (channel_blocks - 1) * channel_block, K if direct else block_lanes
    return Product(
        group_channels=group_channels,
        group_filters=group_filters,
        channel_block=channel_block,
        channel_blocks=channel_blocks,
        panels=panels,
        panel_blocks=panel_blocks,
        taps=taps.size,
        padded=padded,
        blocks=blocks,
        x_lines=x_lines,
        merge=merge,
        patch_run=patch_run,
        direct=direct,
        rows=_row_table(taps, 1, channel_block, last_channels),
        sum_rows=_row_table(np.arange(taps.size) * group_channels * pitch, pitch, channel_block, last_channels),
        patch_rows=patch_rows,
        patch_sums=np.arange(patch_rows.size) * patch_run,
        pixels=np.add.outer(batch, np.arange(columns) * width.step * pitch_w).ravel(),
        x_batch=batch,
        lines=lines,
        scratch_x=images * padded.image_pitch,
        scratch_dy=held * steps,
        sums=(chunks, *sums),
        tasks=chunks * regions,
        parallel=2 * pixels * K * taps.size * group_channels > SERIAL_FLOPS,
    )


def _block_lines(
    source: tuple[int, ...], target: tuple[int, ...], padded: Padded, channels: int, filters: int, steps: int,
    itemsize: int,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Return the offsets of the cache lines of a block's x, then of its dy, and how many those of x are."""
    (images, rows, columns), (_, step_h, step_w), (depth, high, across) = padded.block, padded.step, padded.extent
    box = images, depth, (rows - 1) * step_h + high, (padded.wide - 1) * step_w + across
    x_lines = line_table(source, box, padded.skip, channels, steps, itemsize)
    dy_lines = line_table(target, (images, 1, rows, columns), (1, 1, 1), filters, steps, itemsize)
    return np.concatenate([x_lines, dy_lines, np.zeros(steps, np.int64)]), x_lines.size


def _row_table(taps: np.ndarray, step: int, channels: int, last_channels: int) -> np.ndarray:
    """Return the offsets of (tap, channel), `step` between channels: for a block of channels, and for the last."""
    table = np.zeros((2, taps.size * channels), np.int64)
    for i, count in enumerate((channels, last_channels)):
        table[i, : taps.size * count] = (taps[:, None] + np.arange(count) * step).ravel()
    return table


@jit(inner=True)
def _pack_dy(copy, dy, place, sizes, channels, panels, merge, block, packed):
    """Fill packed (panels, pixels / merge, block lanes) from a block of dy: some channels, (the first, how many).

    Lanes past the last channel are zero.
    """
    _, O, P, Q, K = dy.shape
    (n, o, p, q), (images, rows, columns), (k0, filters) = place, sizes, channels
    vectors, size = (columns + merge - 1) // merge, dy.itemsize
    whole = columns // merge
    for panel in range(panels):
        k = panel * block
        wide = min(block, merge * filters - k)
        for i in range(images):
            for h in range(rows):
                pixel = (((n + i) * O + o) * P + p + h) * Q + q
                source = dy.ctypes.data + size * (pixel * K + k0 + k)
                target = packed.ctypes.data + size * ((panel * images + i) * rows + h) * vectors * block
                call_copy(copy, source, merge * K, target, whole, wide)
                if whole < vectors:
                    call_copy(copy, source + size * whole * merge * K, 0, target + size * whole * block, 1,
                              (columns - whole * merge) * K)  # fmt: skip


@jit(inner=True, inline=True)
def _add_patches(tiles, plan, dy, place, sizes, k, base, scales, target):
    """Add to one channel's dw the patches of a block of pixels, each times its dy.

    base is the address of the block's padded x; target (runs of taps * run,).
    """
    (n, o, p, _), (images, rows, _) = place, sizes
    columns, runs, size, group = dy.shape[3], plan.patch_rows.size, dy.itemsize, MAX_PATCH_VECTORS * tiles.lanes
    patch_rows, sum_rows = plan.patch_rows.ctypes.data, plan.patch_sums.ctypes.data
    count = 0
    for i in range(images):
        for h in range(rows):
            for w in range(columns):
                scales[count] = dy[n + i, o, p + h, w, k]
                count += 1
    for first in range(0, runs, MAX_PATCH_ROWS):
        height = min(MAX_PATCH_ROWS, runs - first)
        for j in range(0, plan.patch_run, group):
            length = min(group, plan.patch_run - j)
            vectors = (length + tiles.lanes - 1) // tiles.lanes
            call_patches(tiles.patches[height, vectors], target.ctypes.data + size * j, sum_rows + 8 * first,
                         base + size * j, patch_rows + 8 * first, plan.pixels.ctypes.data, scales.ctypes.data, count,
                         length - (vectors - 1) * tiles.lanes)  # fmt: skip


@jit(inner=True, inline=True)
def _region(plan, groups, task):
    """Return what a task sums."""
    i, rest = task % plan.panel_blocks, task // plan.panel_blocks
    channel, rest = rest % plan.channel_blocks * plan.channel_block, rest // plan.channel_blocks
    panel, after = i * plan.panels // plan.panel_blocks, (i + 1) * plan.panels // plan.panel_blocks
    channels = min(plan.channel_block, plan.group_channels - channel)
    return Region(rest % groups, rest // groups, channel, channels, panel, after - panel)


@jit(inner=True, inline=True)
def _place(plan, index, dy):
    """Return (image, slice, row, column) of the first output of block `index`, and its (images, rows, columns)."""
    N, O, P, Q, _ = dy.shape
    (images, rows, columns), (_, rows_blocks, columns_blocks) = plan.padded.block, plan.blocks
    n, o, p, q = block_start(index, O, rows_blocks, rows, columns_blocks, columns)
    n *= images
    return (n, o, p, q), (min(images, N - n), min(rows, P - p), min(columns, Q - q))


@jit(inner=True, inline=True)
def _first_pixel(padded, place):
    """Return (image, slice, row, column) of the first pixel of x that a block meets."""
    (n, o, p, q), (d, h, w) = place, padded.start
    (step_d, step_h, step_w), (skip_d, skip_h, skip_w) = padded.step, padded.skip
    return n, d + o * step_d * skip_d, h + p * step_h * skip_h, w + q * step_w * skip_w


@jit(inner=True, inline=True)
def _copy_x(padded, merge, copy, x, place, sizes, channel, channels, a):
    """Copy the pixels of x that a block meets to the address a, with their padding."""
    (images, rows, columns), (n, d, h, w) = sizes, _first_pixel(padded, place)
    (_, step_h, step_w), (extent_d, extent_h, extent_w) = padded.step, padded.extent
    wide = (columns + merge - 1) // merge * merge
    box = extent_d, (rows - 1) * step_h + extent_h, (wide - 1) * step_w + extent_w, channels
    for i in range(images):
        to = a + x.itemsize * i * padded.image_pitch
        copy_padded(copy, x, (n + i, d, h, w, channel), padded.skip, box, padded.pitch, to)


@jit(inner=True, inline=True)
def _next_block(plan, x, dy, index, end, channel, filter_):
    """Return what is prefetched while a block is summed: the line to begin with, addresses of the next x and dy."""
    (_, D, H, W, C), (_, O, P, Q, K), size = x.shape, dy.shape, x.itemsize
    if index + 1 >= end:
        return plan.lines.size, x.ctypes.data, dy.ctypes.data
    place, _ = _place(plan, index + 1, dy)
    (n, o, p, q), (_, d, h, w) = place, _first_pixel(plan.padded, place)
    x_next = x.ctypes.data + size * ((((n * D + d) * H + h) * W + w) * C + channel)
    return 0, x_next, dy.ctypes.data + size * ((((n * O + o) * P + p) * Q + q) * K + filter_)


@jit(inner=True, inline=True)
def _multiply(tiles, plan, region, sizes, a, packed, target, panel_pitch, accumulate, ahead):
    """Add the products of a block's x, at the address a, and dy to the sums at the address target."""
    (images, rows, columns), (cursor, x_next, dy_next) = sizes, ahead
    lanes, size, block, edge = (
        tiles.lanes,
        packed.itemsize,
        2 * tiles.lanes,
        np.int64(region.channels < plan.channel_block),
    )
    x_rows, sum_rows = plan.rows[edge].ctypes.data, plan.sum_rows[edge].ctypes.data
    batch, lines, last = plan.x_batch.ctypes.data, plan.lines.ctypes.data, plan.lines.size
    (most_images, most_rows, _), merge = plan.padded.block, plan.merge
    steps, x_step = (columns + merge - 1) // merge, merge * plan.padded.step[2] * plan.padded.pitch[2]
    most_steps = most_images * most_rows * (plan.padded.wide // merge)
    dw_rows = plan.taps * region.channels
    needed = (dw_rows + tiles.rows - 1) // tiles.rows
    for panel in range(region.panels):
        filters = min(block, merge * (plan.group_filters - region.panel * block) - panel * block)
        vectors = (filters + lanes - 1) // lanes
        tail = filters - (vectors - 1) * lanes if plan.direct else lanes
        for i in range(needed):
            m, after = dw_rows * i // needed, dw_rows * (i + 1) // needed
            call_tile(
                tiles.addresses[after - m, vectors], a, x_rows + 8 * m, batch, x_step,
                packed.ctypes.data + size * panel * images * rows * steps * block, steps * block, block,
                target + size * panel * panel_pitch, sum_rows + 8 * m, steps, images * rows, 0, tail, accumulate, 0,
                x_next if cursor < plan.x_lines else dy_next, lines + 8 * min(cursor, last - 1),
                np.int64(cursor < last - most_steps),
            )  # fmt: skip
            cursor += steps * images * rows


@jit(inner=True)
def _product_task(task, thread, tiles, plan, x, dy, buffers, sums):
    """Sum one chunk of blocks for one region of dw."""
    K, size, block = dy.shape[4], x.itemsize, 2 * tiles.lanes
    groups = K // plan.group_filters
    region = _region(plan, groups, task)
    k0, channel = region.panel * block, region.group * plan.group_channels + region.channel
    filter_ = region.group * plan.group_filters + k0
    a, packed = buffers[thread].ctypes.data, buffers[thread, plan.scratch_x :]
    if plan.direct:
        base, panel_pitch = region.channel * K + filter_, block
    else:
        panel_pitch = plan.taps * plan.group_channels * block
        base = (region.chunk * groups + region.group) * plan.panels + region.panel
        base = base * panel_pitch + region.channel * block
    blocks = plan.blocks[0] * dy.shape[1] * plan.blocks[1] * plan.blocks[2]
    begin, end = region.chunk * blocks // plan.sums[0], (region.chunk + 1) * blocks // plan.sums[0]
    patch_sums = plan.patch_rows.size * plan.patch_run  # of an output channel, where lanes run along patches
    by_patches = sums[base : base + plan.group_filters * patch_sums]
    zero_bytes(by_patches.ctypes.data, size * by_patches.size)
    for index in range(begin, end):
        place, sizes = _place(plan, index, dy)
        _copy_x(plan.padded, plan.merge, tiles.addresses[1, 0], x, place, sizes, channel, region.channels, a)
        if plan.patch_run > 0:
            for k in range(plan.group_filters):
                _add_patches(tiles, plan, dy, place, sizes, k, a, packed, by_patches[k * patch_sums :])
            continue
        _pack_dy(tiles.addresses[0, MAX_VECTORS], dy, place, sizes, (filter_, plan.group_filters - k0), region.panels,
                 plan.merge, block, packed)  # fmt: skip
        ahead = _next_block(plan, x, dy, index, end, channel, filter_)
        target = sums.ctypes.data + size * base
        _multiply(tiles, plan, region, sizes, a, packed, target, panel_pitch, np.int64(index > begin), ahead)


@jit
def _product_tasks(team, tiles, plan, x, dy, buffers, sums):
    share(team, plan.tasks, _product_task, (tiles, plan, x, dy, buffers, sums))


def weight_gradient(tiles: Tiles, x: np.ndarray, dy: np.ndarray, problem: ConvProblem, dw: np.ndarray) -> None:
    """Fill dw (T, R, S, C / groups, K) from x (N, D, H, W, C) and dy (N, O, P, Q, K)."""
    if applies(problem, tiles.rows, x.itemsize):
        pointwise_gradient(tiles, x, dy, problem, dw.reshape(dw.shape[3:]))
        return
    plan = plan_product(problem, tiles.lanes, x.itemsize)
    dtype, size = x.dtype, int(np.prod(plan.sums))
    threads = threads_for(plan.parallel)
    held = plan.scratch_x + plan.scratch_dy
    buffers = scratch("source", threads * held, dtype)[: threads * held].reshape(threads, held)
    sums = dw.reshape(-1) if plan.direct else scratch("partial", size, dtype)[:size]
    call_parallel(plan.parallel, _product_tasks, tiles, plan, x, dy, buffers, sums)
    if plan.direct:
        return
    rows, parts = dw.reshape(-1, dw.shape[4]), sums.reshape(plan.sums)
    if plan.patch_run:
        call_parallel(plan.parallel, sum_patches, sums.reshape(plan.sums[0], -1), rows)
    elif plan.merge > 1:
        call_parallel(plan.parallel, sum_merged, parts[:, 0], dw.shape[2], dw.shape[3], plan.padded.step[2], plan.merge,
                      rows)  # fmt: skip
    else:
        call_parallel(plan.parallel, sum_panels, parts, plan.sums[1] // problem.groups, rows)
