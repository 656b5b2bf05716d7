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
from typing import NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.gather import copy_padded
from fastcnn.kernels.cpu.geometry import (
    MIN_TASKS,
    SERIAL_FLOPS,
    SOURCE_BYTES,
    Axis,
    Padding,
    Triple,
    blocks_of,
    forward_axis,
    merged_pixels,
    runs_of,
)
from fastcnn.kernels.cpu.reduce import sum_merged, sum_panels, sum_patches
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, threads_for
from fastcnn.kernels.cpu.tile import (
    MAX_PATCH_ROWS,
    MAX_PATCH_VECTORS,
    MAX_VECTORS,
    Tiles,
    call_copy,
    call_patches,
    call_tile,
    zero_bytes,
)
from fastcnn.kernels.cpu.workspace import scratch

BLOCK_PIXELS = 224  # of one tile call: dy's panel (28 KiB of float32) and the x it meets share L1
PARTIAL_BYTES = 320 * 1024  # of a task's own sums, which should stay in L2
ALL_PARTIAL_BYTES = 32 * 1024 * 1024  # of the sums of all chunks


class Product(NamedTuple):
    """Everything the kernel needs, as integers and tables of offsets in elements."""

    numbers: np.ndarray  # in the order of PRODUCT_NUMBERS
    merge: int
    patch_run: int
    rows: np.ndarray  # offset in the padded x of every (tap, channel): the rows of dw
    patch_rows: np.ndarray  # offsets of the runs of (tap, channel) there: dw's rows where its lanes run along them
    sum_rows: np.ndarray  # and in the sums
    pixels: np.ndarray  # offset in the padded x of every pixel of a block: where its patch begins
    x_batch: np.ndarray  # offset in the padded x of every (image, output row) of a block
    scratch_x: int
    scratch_dy: int
    partial: int  # elements of one chunk's sums
    tasks: int
    parallel: bool


PRODUCT_NUMBERS = (
    "groups reduce_channels out_channels panels chunks panel_chunks images_block image_blocks rows_block "
    "rows_blocks columns_block columns_blocks start_d start_h start_w step_d step_h step_w extent_d extent_h "
    "extent_w pitch_n pitch_d pitch_h pitch_w scratch_x merge patch_run"
).split()


def _pixel_pitch(channels: int, itemsize: int) -> int:
    """Elements between pixels of the padded x: an odd number of cache lines where whole lines would alias in L1."""
    line = 64 // itemsize
    if channels % (4 * line) == 0:
        return channels + line
    return channels


def _block(N: int, axes: tuple[Axis, Axis, Axis], pitch: int, merge: int, itemsize: int) -> Triple:
    """Return (images, rows, columns) of a block: BLOCK_PIXELS steps of the tile whose padded x fits SOURCE_BYTES."""
    depth, height, width = axes
    pixels = BLOCK_PIXELS * merge

    def source(rows: int, columns: int) -> int:
        high, wide = (rows - 1) * height.step + height.extent, (columns - 1) * width.step + width.extent
        return depth.extent * high * wide * pitch * itemsize

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


@lru_cache(maxsize=1024)
def plan_product(
    source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, lanes: int, itemsize: int,
) -> Product:  # fmt: skip
    """Plan the gradient by weights (*filters, C / groups, K) from x of shape `source` and dy of shape `target`."""
    N, C, K = source[0], source[4], target[4]
    axes = tuple(forward_axis(filters[i], stride[i], padding[i][0], dilation[i], target[i + 1]) for i in range(3))
    depth, height, width = axes
    pitch_w = _pixel_pitch(C, itemsize)
    whole_rows = groups == 1 and dilation[2] == 1
    merge = merged_pixels(width, K, filters[2] if whole_rows else 0, width.outputs, lanes)
    images, rows, columns = _block(N, axes, pitch_w, merge, itemsize)  # type: ignore[arg-type]
    image_blocks, rows_blocks, columns_blocks = (
        -(-N // images),
        -(-height.outputs // rows),
        -(-width.outputs // columns),
    )
    wide = -(-columns // merge) * merge
    pitch_h = ((wide - 1) * width.step + width.extent) * pitch_w
    pitch_d = ((rows - 1) * height.step + height.extent) * pitch_h
    pitch_n = depth.extent * pitch_d
    block_lanes = 2 * lanes
    panels = groups * -(-(K // groups) // block_lanes)
    places = width.offsets if merge == 1 else range(filters[2] + (merge - 1) * width.step)
    offsets = [
        d * pitch_d + h * pitch_h + w * pitch_w + c
        for d, h, w, c in product(depth.offsets, height.offsets, places, range(C // groups))
    ]
    patch_rows, patch_run = runs_of(axes, (pitch_d, pitch_h, pitch_w), C, 1)
    if pitch_w != C and patch_run > C:
        patch_rows, patch_run = (patch_rows[:, None] + np.arange(filters[2]) * pitch_w).ravel(), C
    # In cycles a pixel: unaligned loads allow one multiply-add a cycle; a tile of one vector takes 0.6 a row.
    patch_cycles = K * patch_rows.size * -(-patch_run // lanes)
    tile_cycles = len(offsets) / merge * (0.6 if merge * K <= lanes else 1.0)
    patches = groups == 1 and patch_cycles < 0.9 * tile_cycles and columns == width.outputs
    blocks = image_blocks * depth.outputs * rows_blocks * columns_blocks
    partial = panels * len(offsets) * block_lanes
    panel_chunks = min(panels, -(-partial * itemsize // PARTIAL_BYTES))
    chunks = min(blocks, -(-MIN_TASKS // panel_chunks), max(1, ALL_PARTIAL_BYTES // (partial * itemsize)))
    panel_chunks = min(panels, max(panel_chunks, -(-MIN_TASKS // (2 * chunks))))
    panels_held = -(-panels // panel_chunks)
    values = dict(
        groups=groups, reduce_channels=C // groups, out_channels=K // groups, panels=panels, chunks=chunks,
        panel_chunks=panel_chunks, images_block=images, image_blocks=image_blocks, rows_block=rows,
        rows_blocks=rows_blocks, columns_block=columns, columns_blocks=columns_blocks,
        start_d=depth.start, start_h=height.start, start_w=width.start,
        step_d=depth.step, step_h=height.step, step_w=width.step,
        extent_d=depth.extent, extent_h=height.extent, extent_w=width.extent,
        pitch_n=pitch_n, pitch_d=pitch_d, pitch_h=pitch_h, pitch_w=pitch_w, scratch_x=images * pitch_n, merge=merge,
        patch_run=patch_run if patches else 0,
    )  # fmt: skip
    batch = [n * pitch_n + p * height.step * pitch_h for n in range(images) for p in range(rows)]
    flops = 2 * int(np.prod(target)) * int(np.prod(filters)) * C // groups
    return Product(
        np.array([values[name] for name in PRODUCT_NUMBERS], np.int64),
        merge,
        values["patch_run"],
        np.array(offsets, np.int64),
        patch_rows,
        np.arange(patch_rows.size) * patch_run,
        (np.array(batch)[:, None] + np.arange(columns) * width.step * pitch_w).ravel(),
        np.array(batch, np.int64),
        images * pitch_n,
        panels_held * images * rows * wide // merge * block_lanes,
        partial,
        chunks * panel_chunks,
        flops > SERIAL_FLOPS,
    )


@jit(inner=True)
def _pack_dy(addresses, dy, n, images, o, p, rows, q, columns, first, panels, panels_per_group, out_channels, merge,
             block, packed):  # fmt: skip
    """Fill packed (panels, pixels / merge, block lanes) from a block of dy, zeros past a group's last channel."""
    _, O, P, Q, K = dy.shape
    vectors, size = (columns + merge - 1) // merge, dy.itemsize
    whole, copy = columns // merge, addresses[0, MAX_VECTORS]
    for panel in range(panels):
        g, k = (first + panel) // panels_per_group, (first + panel) % panels_per_group * block
        channels = min(block, merge * out_channels - k)
        for i in range(images):
            for h in range(rows):
                pixel = (((n + i) * O + o) * P + p + h) * Q + q
                source = dy.ctypes.data + size * (pixel * K + g * out_channels + k)
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
def _product_task(task, thread, addresses, functions, lanes, x, dy, numbers, rows_table, x_batch, c_rows, patch_rows,
                  sum_rows, pixels, buffers, sums):  # fmt: skip
    """Sum one chunk of blocks for one chunk of panels into sums (chunks, panels, rows of dw, block lanes)."""
    (groups, reduce_channels, out_channels, panels, chunks, panel_chunks, images_block, image_blocks, rows_block,
     rows_blocks, columns_block, columns_blocks, start_d, start_h, start_w, step_d, step_h, step_w, extent_d, extent_h,
     extent_w, pitch_n, pitch_d, pitch_h, pitch_w, scratch_x, merge, patch_run,
     ) = to_fixed_tuple(numbers, 28)  # fmt: skip
    N, O, P, Q, _ = dy.shape
    itemsize, tile_rows, block = x.itemsize, addresses.shape[0] - 1, 2 * lanes
    chunk, panel_chunk = task // panel_chunks, task % panel_chunks
    buffer, partial = buffers[thread], sums[chunk]
    first = panel_chunk * panels // panel_chunks
    count = (panel_chunk + 1) * panels // panel_chunks - first
    blocks = image_blocks * O * rows_blocks * columns_blocks
    dw_rows = rows_table.size
    tiles_needed = (dw_rows + tile_rows - 1) // tile_rows
    padded, packed = buffer[:scratch_x], buffer[scratch_x:]
    begin = chunk * blocks // chunks
    by_patches = partial.reshape(partial.size)[: out_channels * patch_rows.size * patch_run]
    zero_bytes(by_patches.ctypes.data, itemsize * by_patches.size)
    for index in range(begin, (chunk + 1) * blocks // chunks):
        q_block, rest = index % columns_blocks, index // columns_blocks
        p_block, rest = rest % rows_blocks, rest // rows_blocks
        o, n = rest % O, rest // O * images_block
        p, q = p_block * rows_block, q_block * columns_block
        images, rows, columns = min(images_block, N - n), min(rows_block, P - p), min(columns_block, Q - q)
        for i in range(images):
            copy_padded(x, n + i, start_d + o * step_d, start_h + p * step_h, start_w + q * step_w, extent_d,
                        (rows - 1) * step_h + extent_h,
                        ((columns + merge - 1) // merge * merge - 1) * step_w + extent_w, pitch_d, pitch_h, pitch_w,
                        padded.ctypes.data + itemsize * i * pitch_n)  # fmt: skip
        if patch_run > 0:
            for k in range(out_channels):
                _add_patches(functions, lanes, dy, n, images, o, p, rows, k, padded.ctypes.data, patch_rows, sum_rows,
                             patch_run, pixels, packed, by_patches[k * patch_rows.size * patch_run :])  # fmt: skip
            continue
        _pack_dy(addresses, dy, n, images, o, p, rows, q, columns, first, count, panels // groups, out_channels, merge,
                 block, packed)  # fmt: skip
        steps = (columns + merge - 1) // merge
        for panel in range(first, first + count):
            g, k = panel // (panels // groups), panel % (panels // groups) * block
            vectors = (min(block, merge * out_channels - k) + lanes - 1) // lanes
            for i in range(tiles_needed):
                m, after = dw_rows * i // tiles_needed, dw_rows * (i + 1) // tiles_needed
                call_tile(
                    addresses[after - m, vectors], padded.ctypes.data + itemsize * g * reduce_channels,
                    rows_table.ctypes.data + 8 * m, x_batch.ctypes.data, merge * step_w * pitch_w,
                    packed.ctypes.data + itemsize * (panel - first) * images * rows * steps * block, steps * block,
                    block, partial.ctypes.data + itemsize * panel * dw_rows * block, c_rows.ctypes.data + 8 * m,
                    steps, images * rows, 0, lanes, np.int64(index > begin), 0,
                )  # fmt: skip


@jit
def _product_tasks(team, tasks, addresses, functions, lanes, x, dy, numbers, rows_table, x_batch, c_rows, patch_rows,
                   sum_rows, pixels, buffers, sums):  # fmt: skip
    share(team, tasks, _product_task, (addresses, functions, lanes, x, dy, numbers, rows_table, x_batch, c_rows,
                                          patch_rows, sum_rows, pixels, buffers, sums))  # fmt: skip


def weight_gradient(
    tiles: Tiles, x: np.ndarray, dy: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    dw: np.ndarray,
) -> None:  # fmt: skip
    """Fill dw (T, R, S, C / groups, K) from x (N, D, H, W, C) and dy (N, O, P, Q, K)."""
    plan = plan_product(x.shape, dy.shape, dw.shape[:3], stride, padding, dilation, groups, tiles.lanes, x.itemsize)
    dtype, block = x.dtype, 2 * tiles.lanes
    panels, chunks, dw_rows = int(plan.numbers[3]), int(plan.numbers[4]), plan.rows.size
    threads = threads_for(plan.parallel)
    held = plan.scratch_x + plan.scratch_dy
    buffers = scratch("source", threads * held, dtype)[: threads * held].reshape(threads, held)
    partial = scratch("partial", chunks * plan.partial, dtype)[: chunks * plan.partial]
    call_parallel(plan.parallel, _product_tasks, plan.tasks, tiles.addresses, tiles.patches, tiles.lanes, x, dy,
                  plan.numbers, plan.rows, plan.x_batch, np.arange(dw_rows) * block, plan.patch_rows, plan.sum_rows,
                  plan.pixels, buffers, partial.reshape(chunks, panels, dw_rows, block))  # fmt: skip
    rows, sums = dw.reshape(-1, dw.shape[4]), partial.reshape(chunks, panels, dw_rows, block)
    if plan.patch_run:
        call_parallel(plan.parallel, sum_patches, partial.reshape(chunks, -1), rows)
    elif plan.merge > 1:
        call_parallel(plan.parallel, sum_merged, sums[:, 0], dw.shape[2], dw.shape[3], stride[2], plan.merge, rows)
    else:
        call_parallel(plan.parallel, sum_panels, sums, panels // groups, rows)
