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
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu.convolution.axes import Axis, Padding, Triple, forward_axis, sampled
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

BLOCK_PIXELS = 224  # of one tile call: dy's panel (28 KiB of float32) and the x it meets share L1
CHUNK_PIXELS = 1500  # fewer cost more for writing and adding up a chunk's sums than a twentieth of its products
WORKING_BYTES = 800 * 1024  # of a task's sums, its block of x and dy, and the next block: they should stay in L2
ALL_PARTIAL_BYTES = 32 * 1024 * 1024  # of the sums of all chunks


class Product(NamedTuple):
    """Everything the kernel needs, as integers and tables of offsets in elements.

    dw is cut into regions (a group, some of its input channels, some panels of its output channels), the pixels into
    blocks, and the blocks into chunks; a task sums one region over one chunk.
    """

    numbers: np.ndarray  # in the order of PRODUCT_NUMBERS
    merge: int
    merge_step: int  # pixels of the padded x between the pixels that share a vector
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


PRODUCT_NUMBERS = (
    "group_channels group_filters channel_block channel_blocks panels panel_blocks taps chunks images_block "
    "image_blocks rows_block rows_blocks columns_block columns_blocks start_d start_h start_w step_d step_h step_w "
    "skip_d skip_h skip_w extent_d extent_h extent_w pitch_n pitch_d pitch_h pitch_w scratch_x merge patch_run direct "
    "x_lines"
).split()


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


def _channel_block(N: int, axes: tuple[Axis, Axis, Axis], pixels: int, channels: int, lanes: int, itemsize: int) -> int:
    """Return how many input channels a task takes, so that the x of a whole block of pixels fits SOURCE_BYTES."""
    images, rows, columns = _block(N, axes, pixels, itemsize)
    fitting = SOURCE_BYTES // (images * _source_pixels(axes, rows, columns) * itemsize)
    number = -(-channels // max(fitting, 2 * lanes))
    return min(channels, -(-channels // (number * lanes)) * lanes)


@lru_cache(maxsize=1024)
def plan_product(
    source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, lanes: int, itemsize: int,
) -> Product:  # fmt: skip
    """Plan the gradient by weights (*filters, C / groups, K) from x of shape `source` and dy of shape `target`."""
    N, C, K = source[0], source[4], target[4]
    group_channels, group_filters, block_lanes = C // groups, K // groups, 2 * lanes
    whole_axes = [forward_axis(filters[i], stride[i], padding[i][0], dilation[i], target[i + 1]) for i in range(3)]
    axes, skips = zip(*(sampled(axis) for axis in whole_axes), strict=True)
    depth, height, width = axes
    whole_rows = groups == 1 and width.offsets == tuple(range(filters[2]))
    merge = merged_pixels(width, K, filters[2] if whole_rows else 0, width.outputs, lanes)
    channel_block = group_channels
    whole = _block(N, axes, BLOCK_PIXELS * merge, _pixel_pitch(group_channels, itemsize) * itemsize)
    if merge == 1 and (K > DOT_CHANNELS or prod(whole) < BLOCK_PIXELS // 4):
        channel_block = _channel_block(N, axes, BLOCK_PIXELS, group_channels, lanes, itemsize)
    channel_blocks = -(-group_channels // channel_block)
    pitch_w = _pixel_pitch(channel_block, itemsize)
    images, rows, columns = _block(N, axes, BLOCK_PIXELS * merge, pitch_w * itemsize)
    image_blocks, rows_blocks, columns_blocks = (
        -(-N // images),
        -(-height.outputs // rows),
        -(-width.outputs // columns),
    )
    wide = -(-columns // merge) * merge
    pitch_h = ((wide - 1) * width.step + width.extent) * pitch_w
    pitch_d = ((rows - 1) * height.step + height.extent) * pitch_h
    pitch_n = depth.extent * pitch_d
    scratch_x = images * pitch_n
    panels = -(-group_filters // block_lanes)
    places = width.offsets if merge == 1 else range(filters[2] + (merge - 1) * width.step)
    taps = [d * pitch_d + h * pitch_h + w * pitch_w for d, h, w in product(depth.offsets, height.offsets, places)]
    patch_rows, patch_run = runs_of(axes, (pitch_d, pitch_h, pitch_w), C, 1)
    if pitch_w != C and patch_run > C:
        patch_rows, patch_run = (patch_rows[:, None] + np.arange(filters[2]) * pitch_w).ravel(), C
    # In cycles a pixel: unaligned loads allow one multiply-add a cycle; a tile of one vector takes 0.6 a row.
    patch_cycles = K * patch_rows.size * -(-patch_run // lanes)
    tile_cycles = len(taps) * C / merge * (0.6 if merge * K <= lanes else 1.0)
    patches = channel_block == C and patch_cycles < 0.9 * tile_cycles and columns == width.outputs
    block_bytes = images * _source_pixels(axes, rows, columns) * pitch_w * itemsize
    panel_bytes = (len(taps) * channel_block + 2 * images * rows * wide // merge) * block_lanes * itemsize
    panel_blocks = -(-panels // max(1, (WORKING_BYTES - 2 * block_bytes) // panel_bytes))
    regions = groups * channel_blocks * panel_blocks
    blocks = image_blocks * depth.outputs * rows_blocks * columns_blocks
    sums = groups * panels * len(taps) * group_channels * block_lanes
    pixels = int(np.prod(target[:4]))
    chunks = max(
        1, min(blocks, -(-MIN_TASKS // regions), pixels // CHUNK_PIXELS, ALL_PARTIAL_BYTES // (sums * itemsize))
    )
    direct = chunks == 1 and merge == 1 and not patches
    steps = images * rows * wide // merge
    box = (depth.extent, (rows - 1) * height.step + height.extent, (wide - 1) * width.step + width.extent)
    x_lines = line_table(source, (images, *box), skips, channel_block, steps, itemsize)
    filters_taken = min(group_filters, -(-panels // panel_blocks) * block_lanes)
    dy_lines = line_table(target, (images, 1, rows, columns), (1, 1, 1), filters_taken, steps, itemsize)
    values = dict(
        group_channels=group_channels, group_filters=group_filters, channel_block=channel_block,
        channel_blocks=channel_blocks, panels=panels, panel_blocks=panel_blocks, taps=len(taps), chunks=chunks,
        images_block=images, image_blocks=image_blocks, rows_block=rows,
        rows_blocks=rows_blocks, columns_block=columns, columns_blocks=columns_blocks,
        start_d=depth.start, start_h=height.start, start_w=width.start,
        step_d=depth.step, step_h=height.step, step_w=width.step, skip_d=skips[0], skip_h=skips[1], skip_w=skips[2],
        extent_d=depth.extent, extent_h=height.extent, extent_w=width.extent,
        pitch_n=pitch_n, pitch_d=pitch_d, pitch_h=pitch_h, pitch_w=pitch_w, scratch_x=scratch_x, merge=merge,
        patch_run=patch_run if patches else 0, direct=int(direct), x_lines=x_lines.size,
    )  # fmt: skip
    batch = [n * pitch_n + p * height.step * pitch_h for n in range(images) for p in range(rows)]
    last_channels = group_channels - (channel_blocks - 1) * channel_block
    pitch = K if direct else block_lanes
    return Product(
        np.array([values[name] for name in PRODUCT_NUMBERS], np.int64),
        merge,
        width.step,
        values["patch_run"],
        direct,
        _row_table(np.array(taps), 1, channel_block, last_channels),
        _row_table(np.arange(len(taps)) * group_channels * pitch, pitch, channel_block, last_channels),
        patch_rows,
        np.arange(patch_rows.size) * patch_run,
        (np.array(batch)[:, None] + np.arange(columns) * width.step * pitch_w).ravel(),
        np.array(batch, np.int64),
        np.concatenate([x_lines, dy_lines, np.zeros(steps, np.int64)]),
        scratch_x,
        -(-panels // panel_blocks) * images * rows * wide // merge * block_lanes,
        (chunks, groups * panels, len(taps) * group_channels, block_lanes),
        chunks * regions,
        2 * pixels * K * len(taps) * group_channels > SERIAL_FLOPS,
    )


def _row_table(taps: np.ndarray, step: int, channels: int, last_channels: int) -> np.ndarray:
    """Return the offsets of (tap, channel), `step` between channels: for a block of channels, and for the last."""
    table = np.zeros((2, taps.size * channels), np.int64)
    for i, count in enumerate((channels, last_channels)):
        table[i, : taps.size * count] = (taps[:, None] + np.arange(count) * step).ravel()
    return table


@jit(inner=True)
def _pack_dy(addresses, dy, n, images, o, p, rows, q, columns, k0, filters, panels, merge, block, packed):
    """Fill packed (panels, pixels / merge, block lanes) from a block of dy, its `filters` channels from k0 on.

    Lanes past the last channel are zero.
    """
    _, O, P, Q, K = dy.shape
    vectors, size = (columns + merge - 1) // merge, dy.itemsize
    whole, copy = columns // merge, addresses[0, MAX_VECTORS]
    for panel in range(panels):
        k = panel * block
        channels = min(block, merge * filters - k)
        for i in range(images):
            for h in range(rows):
                pixel = (((n + i) * O + o) * P + p + h) * Q + q
                source = dy.ctypes.data + size * (pixel * K + k0 + k)
                target = packed.ctypes.data + size * ((panel * images + i) * rows + h) * vectors * block
                call_copy(copy, source, merge * K, target, whole, channels)
                if whole < vectors:
                    call_copy(copy, source + size * whole * merge * K, 0, target + size * whole * block, 1,
                              (columns - whole * merge) * K)  # fmt: skip


@jit(inner=True)
def _add_patches(functions, lanes, dy, n, images, o, p, rows, k, base, patch_rows, sum_rows, run, pixels, scales,
                 target):  # fmt: skip
    """Add to one channel's dw the patches of a block of pixels, each times its dy.

    base is the address of the block's padded x; target (runs of taps * run,).
    """
    columns, runs, size, group = dy.shape[3], patch_rows.size, dy.itemsize, MAX_PATCH_VECTORS * lanes
    count = 0
    for i in range(images):
        for h in range(rows):
            for w in range(columns):
                scales[count] = dy[n + i, o, p + h, w, k]
                count += 1
    for first in range(0, runs, MAX_PATCH_ROWS):
        height = min(MAX_PATCH_ROWS, runs - first)
        for j in range(0, run, group):
            length = min(group, run - j)
            vectors = (length + lanes - 1) // lanes
            call_patches(functions[height, vectors], target.ctypes.data + size * j,
                         sum_rows.ctypes.data + 8 * first, base + size * j, patch_rows.ctypes.data + 8 * first,
                         pixels.ctypes.data, scales.ctypes.data, count, length - (vectors - 1) * lanes)  # fmt: skip


@jit(inner=True)
def _product_task(task, thread, addresses, functions, lanes, x, dy, numbers, rows_table, sum_rows, x_batch, patch_rows,
                  patch_sums, pixels, lines, buffers, sums):  # fmt: skip
    """Sum one chunk of blocks for one region of dw."""
    (group_channels, group_filters, channel_block, channel_blocks, panels, panel_blocks, taps, chunks, images_block,
     image_blocks, rows_block, rows_blocks, columns_block, columns_blocks, start_d, start_h, start_w, step_d, step_h,
     step_w, skip_d, skip_h, skip_w, extent_d, extent_h, extent_w, pitch_n, pitch_d, pitch_h, pitch_w, scratch_x,
     merge, patch_run, direct, x_lines) = to_fixed_tuple(numbers, 35)  # fmt: skip
    N, O, P, Q, K = dy.shape
    _, D, H, W, C = x.shape
    size, tile_rows, block = x.itemsize, addresses.shape[0] - 1, 2 * lanes
    most_steps = images_block * rows_block * ((columns_block + merge - 1) // merge)
    first_panel, rest = task % panel_blocks, task // panel_blocks
    c0, rest = rest % channel_blocks * channel_block, rest // channel_blocks
    g, chunk = rest % (K // group_filters), rest // (K // group_filters)
    after = (first_panel + 1) * panels // panel_blocks
    first_panel = first_panel * panels // panel_blocks
    channels, k0 = min(channel_block, group_channels - c0), first_panel * block
    edge = np.int64(channels < channel_block)
    dw_rows = taps * channels
    needed = (dw_rows + tile_rows - 1) // tile_rows
    padded, packed = buffers[thread, :scratch_x], buffers[thread, scratch_x:]
    if direct:
        base, panel_pitch = c0 * K + g * group_filters + k0, block
    else:
        panel_pitch = taps * group_channels * block
        base = ((chunk * (K // group_filters) + g) * panels + first_panel) * panel_pitch + c0 * block
    blocks = image_blocks * O * rows_blocks * columns_blocks
    begin, end = chunk * blocks // chunks, (chunk + 1) * blocks // chunks
    by_patches = sums[base : base + group_filters * patch_rows.size * patch_run]
    zero_bytes(by_patches.ctypes.data, size * by_patches.size)
    for index in range(begin, end):
        n, o, p, q = block_start(index, O, rows_blocks, rows_block, columns_blocks, columns_block)
        n *= images_block
        images, rows, columns = min(images_block, N - n), min(rows_block, P - p), min(columns_block, Q - q)
        a = padded.ctypes.data
        for i in range(images):
            copy_padded(addresses[1, 0], x, (n + i, start_d + o * step_d * skip_d, start_h + p * step_h * skip_h,
                        start_w + q * step_w * skip_w, g * group_channels + c0), (skip_d, skip_h, skip_w), (extent_d,
                        (rows - 1) * step_h + extent_h,
                        ((columns + merge - 1) // merge * merge - 1) * step_w + extent_w, channels), (pitch_d, pitch_h,
                        pitch_w), a + size * i * pitch_n)  # fmt: skip
        if patch_run > 0:
            for k in range(group_filters):
                _add_patches(functions, lanes, dy, n, images, o, p, rows, k, a, patch_rows,
                             patch_sums, patch_run, pixels, packed,
                             by_patches[k * patch_rows.size * patch_run :])  # fmt: skip
            continue
        _pack_dy(addresses, dy, n, images, o, p, rows, q, columns, g * group_filters + k0, group_filters - k0,
                 after - first_panel, merge, block, packed)  # fmt: skip
        steps = (columns + merge - 1) // merge
        cursor, x_next, dy_next = lines.size, x.ctypes.data, dy.ctypes.data
        if index + 1 < end:
            n, o, p, q = block_start(index + 1, O, rows_blocks, rows_block, columns_blocks, columns_block)
            n *= images_block
            pixel = (n * D + start_d + o * step_d * skip_d) * H + start_h + p * step_h * skip_h
            x_next += size * ((pixel * W + start_w + q * step_w * skip_w) * C + g * group_channels + c0)
            dy_next += size * ((((n * O + o) * P + p) * Q + q) * K + g * group_filters + k0)
            cursor = 0
        for panel in range(after - first_panel):
            filters = min(block, merge * (group_filters - k0) - panel * block)
            vectors = (filters + lanes - 1) // lanes
            for i in range(needed):
                m, m_after = dw_rows * i // needed, dw_rows * (i + 1) // needed
                call_tile(
                    addresses[m_after - m, vectors], a, rows_table[edge].ctypes.data + 8 * m,
                    x_batch.ctypes.data, merge * step_w * pitch_w,
                    packed.ctypes.data + size * panel * images * rows * steps * block, steps * block, block,
                    sums.ctypes.data + size * (base + panel * panel_pitch), sum_rows[edge].ctypes.data + 8 * m, steps,
                    images * rows, 0, filters - (vectors - 1) * lanes if direct else lanes, np.int64(index > begin), 0,
                    x_next if cursor < x_lines else dy_next, lines.ctypes.data + 8 * min(cursor, lines.size - 1),
                    np.int64(cursor < lines.size - most_steps),
                )  # fmt: skip
                cursor += steps * images * rows


@jit
def _product_tasks(team, tasks, addresses, functions, lanes, x, dy, numbers, rows_table, sum_rows, x_batch,
                   patch_rows, patch_sums, pixels, lines, buffers, sums):  # fmt: skip
    share(team, tasks, _product_task, (addresses, functions, lanes, x, dy, numbers, rows_table, sum_rows, x_batch,
                                       patch_rows, patch_sums, pixels, lines, buffers, sums))  # fmt: skip


def weight_gradient(
    tiles: Tiles, x: np.ndarray, dy: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    dw: np.ndarray,
) -> None:  # fmt: skip
    """Fill dw (T, R, S, C / groups, K) from x (N, D, H, W, C) and dy (N, O, P, Q, K)."""
    if applies(x.shape, dy.shape, dw.shape[:3], padding, stride, tiles.rows, x.itemsize):
        pointwise_gradient(tiles, x, dy, stride, groups, dw.reshape(dw.shape[3:]))
        return
    plan = plan_product(x.shape, dy.shape, dw.shape[:3], stride, padding, dilation, groups, tiles.lanes, x.itemsize)
    dtype, size = x.dtype, int(np.prod(plan.sums))
    threads = threads_for(plan.parallel)
    held = plan.scratch_x + plan.scratch_dy
    buffers = scratch("source", threads * held, dtype)[: threads * held].reshape(threads, held)
    sums = dw.reshape(-1) if plan.direct else scratch("partial", size, dtype)[:size]
    call_parallel(plan.parallel, _product_tasks, plan.tasks, tiles.addresses, tiles.patches, tiles.lanes, x, dy,
                  plan.numbers, plan.rows, plan.sum_rows, plan.x_batch, plan.patch_rows, plan.patch_sums,
                  plan.pixels, plan.lines, buffers, sums)  # fmt: skip
    if plan.direct:
        return
    rows, parts = dw.reshape(-1, dw.shape[4]), sums.reshape(plan.sums)
    if plan.patch_run:
        call_parallel(plan.parallel, sum_patches, sums.reshape(plan.sums[0], -1), rows)
    elif plan.merge > 1:
        call_parallel(plan.parallel, sum_merged, parts[:, 0], dw.shape[2], dw.shape[3], plan.merge_step, plan.merge,
                      rows)  # fmt: skip
    else:
        call_parallel(plan.parallel, sum_panels, parts, plan.sums[1] // groups, rows)
