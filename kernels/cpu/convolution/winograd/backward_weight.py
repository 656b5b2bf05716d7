"""The gradient by 3x3 or 5x5 weights at stride 1 by Winograd's transforms: sums of products of transformed patches.

    dw = G' [ sum over patches of (B' x B) * (A dy A') ] G

Where there are few channels, a task holds the sums of all points in L2 and takes one chunk of the patches, block after
block, through transforms and products; the chunks' sums are added in order. Else the patches are taken in groups whose
points lie in L3: first all are transformed, a row of patches a task; then each task sums, for some input channels and a
panel of output channels, all points over the group's patches in L2, and adds their transform to dw. The order of the
sums depends on nothing but the shape. Steps and source are those of `forward.py`.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.copy_padded import copy_padded
from fastcnn.kernels.cpu.convolution.winograd.forward import POINTS, Costs, odd_lines, slices_as_images, to_points
from fastcnn.kernels.cpu.convolution.winograd.gemm import call_sums, point_products
from fastcnn.kernels.cpu.convolution.winograd.transforms import call_to_points, call_weights, transforms
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import MIN_TASKS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.tile import Tiles, call_tile, zero_bytes

GROUP_BYTES = 8 * 1024 * 1024  # of the points of a group of patches
SUM_BYTES = 320 * 1024  # of a task's sums of all points, which should stay in L2
HELD_SUMS = 512 * 1024  # of the sums of all points, up to which every thread holds its own
HELD_BYTES = 128 * 1024  # of the points of a block of patches then, and half as many bytes as the sums that meet it
PARTIAL_BYTES = 6 * 1024 * 1024  # of the sums of all chunks
MIN_CHUNKS = 4  # of them: fewer leave threads without work
MIN_GROUP = 96  # patches: shorter sums cost more for loading and storing the products than they take
ERROR_BOUND = 2e-5  # root mean square, relative to the gradient's; normal data, up to 50,000 patches
COSTS = Costs(1.46, 300, 237, 0.33, 157_000, 1.23, 13.7, 0, 205_000)


class Groups(NamedTuple):
    """How the patches are cut and where their points lie; pitches in elements."""

    down: int  # patches down an image
    across: int
    rows: int  # rows of patches a group
    patch_pitch: int  # of x's points: from patch to patch
    v_pitch: int  # and from point to point
    y_pitch: int  # from point to point of dy's
    s_pitch: int  # from point to point of a task's sums
    channel_block: int  # input channels of a task
    channels: np.ndarray  # offset of a task's input channels in a patch's point
    sum_rows: np.ndarray  # and in the sums


@lru_cache(maxsize=512)
def plan_groups(
    N: int, P: int, Q: int, C: int, K: int, pixels: int, tile_rows: int, lanes: int, itemsize: int
) -> Groups:
    """Cut N outputs of P x Q pixels into groups of rows of patches of pixels x pixels."""
    down, across, block = -(-P // pixels), -(-Q // pixels), 2 * lanes
    most_patches = max(MIN_GROUP, GROUP_BYTES // (POINTS * (C + K) * itemsize))
    groups = -(-N * down // max(1, most_patches // across))
    rows, panels = -(-N * down // groups), -(-K // block)
    patches, patch_pitch = rows * across, odd_lines(C, itemsize)
    v_pitch, y_pitch = (odd_lines(n, itemsize) for n in (patches * patch_pitch, panels * patches * block))
    most = min(SUM_BYTES // (POINTS * block * itemsize), -(-C // -(-MIN_TASKS // (2 * panels))))
    channel_block = blocks_of(C, max(most, tile_rows))[0]
    channels = np.arange(channel_block)
    return Groups(down, across, rows, patch_pitch, v_pitch, y_pitch, odd_lines(channel_block * block, itemsize),
                  channel_block, channels, channels * block)  # fmt: skip


@jit(inner=True)
def _row(task, thread, first, copy, to_x, to_dy, x, c0, C, dy, k0, K, pixels, top, left, down, across, patch_pitch,
         v_pitch, y_pitch, patches, block, buffers, V, Y):  # fmt: skip
    """Transform one row of patches of x and dy, row `task` of the group that starts at row `first`."""
    index, buffer, size, lanes = first + task, buffers[thread].ctypes.data, x.itemsize, block // 2
    to_points(index * across, across, copy, to_x, x, c0, C, 6, pixels, top, left, down, across, patch_pitch,
              V.ctypes.data + size * task * across * patch_pitch, lanes, v_pitch, buffer)  # fmt: skip
    n, p, pitch = index // down, index % down * pixels, pixels * across * K
    copy_padded(copy, dy, (n, 0, p, 0, k0), (1, 1, 1), (1, pixels, pixels * across, K), (pixels * pitch, pitch, K),
                buffer)  # fmt: skip
    for j in range(across):
        for panel in range((K + block - 1) // block):
            call_to_points(to_dy, buffer + size * (pixels * j * K + panel * block), pitch, K,
                           Y.ctypes.data + size * (panel * patches + task * across + j) * block, y_pitch, lanes,
                           min(block, K - panel * block))  # fmt: skip


@jit(inner=True)
def _product(task, thread, addresses, transform, lanes, patch_pitch, v_pitch, y_pitch, s_pitch, patches, used, C, k0, K,
             panels, channel_block, rows, sum_rows, accumulate, V, Y, buffers, dw):  # fmt: skip
    """Add to dw what a group's patches give for some input channels and one panel of output channels."""
    size, tile_rows, block, sums = V.itemsize, addresses.shape[0] - 1, 2 * lanes, buffers[thread].ctypes.data
    c, panel = task // panels * channel_block, task % panels
    channels, filters = min(channel_block, C - c), min(block, K - panel * block)
    vectors, needed = (filters + lanes - 1) // lanes, (channels + tile_rows - 1) // tile_rows
    zero, columns = rows.ctypes.data, dw.shape[4]  # the first entry of rows is 0: the batch is one product
    for e in range(POINTS):
        for j in range(needed):
            m, after = channels * j // needed, channels * (j + 1) // needed
            call_tile(
                addresses[after - m, vectors], V.ctypes.data + size * (e * v_pitch + c), rows.ctypes.data + 8 * m, zero,
                patch_pitch, Y.ctypes.data + size * (e * y_pitch + panel * patches * block), 0, block,
                sums + size * e * s_pitch, sum_rows.ctypes.data + 8 * m, used, 1, 0, lanes, 0, 0, sums, zero, 0,
            )  # fmt: skip
    for i in range(channels):
        call_weights(transform, sums + size * i * block, s_pitch,
                     dw.ctypes.data + size * ((c + i) * columns + k0 + panel * block), C * columns, filters,
                     accumulate)  # fmt: skip


@jit
def _groups(team, addresses, codes, lanes, x, c0, C, dy, k0, K, pixels, top, left, down, across, rows_of_group,
            patch_pitch, v_pitch, y_pitch, s_pitch, channel_block, rows, sum_rows, buffers, V, Y, dw):  # fmt: skip
    """Take group after group of rows of patches: transform all, then add their products to dw (r * r, C, columns).

    V (36, patches, C) and Y (36, panels, patches, block) hold a group's points.
    """
    N, block = x.shape[0], 2 * lanes
    panels, patches, regions = (
        (K + block - 1) // block,
        rows_of_group * across,
        (C + channel_block - 1) // channel_block,
    )
    for first in range(0, N * down, rows_of_group):
        count = min(rows_of_group, N * down - first)
        share(team, count, _row, (first, addresses[1, 0], codes[0], codes[1], x, c0, C, dy, k0, K, pixels, top, left,
              down, across, patch_pitch, v_pitch, y_pitch, patches, block, buffers, V, Y))  # fmt: skip
        share(team, regions * panels, _product, (addresses, codes[2], lanes, patch_pitch, v_pitch, y_pitch, s_pitch,
              patches, count * across, C, k0, K, panels, channel_block, rows, sum_rows, np.int64(first > 0), V, Y,
                                                 buffers, dw))  # fmt: skip


class Chunks(NamedTuple):
    """How the patches are cut where a thread holds the sums of all points; pitches in elements."""

    down: int
    across: int
    block: int  # patches transformed at once
    chunks: int  # of blocks, each with sums of its own; 0 where those are too many to hold
    vector_pitch: int  # between vectors of channels of the points
    v_pitch: int  # between points of x, of dy, and of the sums
    y_pitch: int
    s_pitch: int
    s_row: int  # between input channels of the sums


@lru_cache(maxsize=512)
def plan_chunks(N: int, P: int, Q: int, C: int, K: int, pixels: int, lanes: int, itemsize: int) -> Chunks:
    """Cut N outputs of P x Q pixels into chunks of blocks of patches of pixels x pixels."""
    down, across, vectors_in, vectors_out = -(-P // pixels), -(-Q // pixels), -(-C // lanes), -(-K // lanes)
    patches, vectors, s_row = N * down * across, vectors_in + vectors_out, vectors_out * lanes
    points = HELD_BYTES + POINTS * C * s_row * itemsize // 2
    fitting = min(points // (POINTS * vectors * lanes * itemsize), max(MIN_GROUP // 2, patches // MIN_TASKS))
    block = fitting // across * across or blocks_of(across, fitting)[0]
    s_pitch = odd_lines(vectors_in * lanes * s_row, itemsize)
    sums = POINTS * s_pitch * itemsize
    chunks = min(patches // max(block, MIN_GROUP), MIN_TASKS, PARTIAL_BYTES // sums) if sums <= HELD_SUMS else 0
    v_pitch, y_pitch = (odd_lines(vectors * block * lanes, itemsize) for vectors in (vectors_in, vectors_out))
    return Chunks(down, across, block, chunks, block * lanes, v_pitch, y_pitch, s_pitch, s_row)


@jit(inner=True)
def _chunk(task, thread, copy, addresses, codes, lanes, x, c0, C, dy, k0, K, pixels, top, left, down, across, block,
           chunks, vector_pitch, v_pitch, y_pitch, s_pitch, s_row, buffers, partial):  # fmt: skip
    """Sum the products of all points over one chunk of blocks of patches."""
    size, N, V, S = x.itemsize, x.shape[0], buffers[thread].ctypes.data, partial[task].ctypes.data
    Y = V + size * POINTS * v_pitch
    source, patches = Y + size * POINTS * y_pitch, N * down * across
    blocks, panels = (patches + block - 1) // block, (K + 2 * lanes - 1) // (2 * lanes)
    zero_bytes(S, size * POINTS * s_pitch)
    ends = (0, task * blocks // chunks, (task + 1) * blocks // chunks)
    for first in range(ends[1] * block, min(ends[2] * block, patches), block):
        count = min(block, patches - first)
        to_points(first, count, copy, codes[0], x, c0, C, 6, pixels, top, left, down, across, lanes, V, vector_pitch,
                  v_pitch, source)  # fmt: skip
        to_points(first, count, copy, codes[1], dy, k0, K, pixels, pixels, 0, 0, down, across, lanes, Y, vector_pitch,
                  y_pitch, source)  # fmt: skip
        # Meanwhile the next block's x and dy are asked for.
        steps = POINTS * panels * ((C + lanes - 1) // lanes)
        fetch = x.ctypes.data + size * (x.size * (first + block) // patches
                                        + (6 - pixels - top) * x.shape[3] * x.shape[4])  # fmt: skip
        other = dy.ctypes.data + size * (dy.size * (first + block) // patches)
        fetch_step = size * x.size * block // patches // steps if x.shape[4] == C else 0
        other_step = size * dy.size * block // patches // steps if dy.shape[4] == K else 0
        for panel in range(panels):
            k = 2 * panel * lanes
            vectors = min(2, (K - k + lanes - 1) // lanes)
            c = 0
            while c < C:
                rows, smallest = lanes // vectors, max(1, lanes // vectors // 4)
                while rows > smallest and C - c <= rows // 2:
                    rows //= 2
                call_sums(
                    addresses[rows, vectors], V + size * (c // lanes * vector_pitch + c % lanes), v_pitch,
                    Y + size * 2 * panel * vector_pitch, y_pitch, vector_pitch, S + size * (c * s_row + k), s_pitch,
                    s_row, count, POINTS, fetch, fetch_step, other, other_step,
                )  # fmt: skip
                fetch += POINTS * fetch_step
                other += POINTS * other_step
                c += rows


@jit(inner=True)
def _add_channel(c, thread, transform, C, k0, K, s_pitch, s_row, partial, dw):
    """Fill dw's row of one input channel from the sums of all chunks, added in their order."""
    size, columns = dw.itemsize, dw.shape[4]
    for e in range(POINTS):
        total = partial[0, e * s_pitch + c * s_row :][:K]
        for chunk in range(1, partial.shape[0]):
            part = partial[chunk, e * s_pitch + c * s_row :][:K]
            for k in range(K):
                total[k] += part[k]
    call_weights(transform, partial.ctypes.data + size * c * s_row, s_pitch, dw.ctypes.data + size * (c * columns + k0),
                 C * columns, K, 0)  # fmt: skip


@jit
def _chunks(team, chunks, copy, addresses, codes, lanes, x, c0, C, dy, k0, K, pixels, top, left, down, across, block,
            vector_pitch, v_pitch, y_pitch, s_pitch, s_row, buffers, partial, dw):  # fmt: skip
    share(team, chunks, _chunk, (copy, addresses, codes, lanes, x, c0, C, dy, k0, K, pixels, top, left, down, across,
                                 block, chunks, vector_pitch, v_pitch, y_pitch, s_pitch, s_row, buffers,
                                 partial))  # fmt: skip
    share(team, C, _add_channel, (codes[2], C, k0, K, s_pitch, s_row, partial, dw))


def _by_chunks(
    tiles: Tiles, plan: Chunks, x: np.ndarray, dy: np.ndarray, top: int, left: int, groups: int, dw: np.ndarray
) -> None:
    """Fill dw where the sums of all points are few enough for every thread to hold its own."""
    C, K, taps = x.shape[4] // groups, dy.shape[4] // groups, dw.shape[1]
    code, pixels, dtype = transforms(x.dtype, taps), 7 - taps, x.dtype
    run = pixels * min(plan.block, plan.across)
    held = POINTS * (plan.v_pitch + plan.y_pitch) + max(6 * (run + 6) * C, pixels * (run + pixels) * K)
    threads, size = threads_for(True), plan.chunks * POINTS * plan.s_pitch
    buffers = scratch("source", threads * held, dtype)[: threads * held].reshape(threads, held)
    partial = scratch("partial", size, dtype)[:size].reshape(plan.chunks, -1)
    codes = np.array([code.input, code.gradient, code.weights])
    for group in range(groups):
        call_parallel(True, _chunks, plan.chunks, tiles.addresses[1, 0], point_products(dtype).sums, codes,
                      tiles.lanes, x, group * C, C, dy, group * K, K, pixels, top, left, plan.down, plan.across,
                      plan.block, plan.vector_pitch, plan.v_pitch, plan.y_pitch, plan.s_pitch, plan.s_row, buffers,
                      partial, dw)  # fmt: skip


def winograd_weight_gradient(
    tiles: Tiles, x: np.ndarray, dy: np.ndarray, top: int, left: int, groups: int, dw: np.ndarray
) -> None:
    """Fill dw (1, r, r, C / groups, K) from x (N, O, H, W, C), padded by top and left zeros, and dy (N, O, P, Q, K)."""
    x, dy = slices_as_images(x), slices_as_images(dy)
    C, K, taps = x.shape[4] // groups, dy.shape[4] // groups, dw.shape[1]
    code, pixels = transforms(x.dtype, taps), 7 - taps
    held = plan_chunks(x.shape[0], dy.shape[2], dy.shape[3], C, K, pixels, tiles.lanes, x.itemsize)
    if held.chunks >= MIN_CHUNKS:
        _by_chunks(tiles, held, x, dy, top, left, groups, dw)
        return
    plan = plan_groups(x.shape[0], dy.shape[2], dy.shape[3], C, K, pixels, tiles.rows, tiles.lanes, x.itemsize)
    V = scratch("points", POINTS * plan.v_pitch, x.dtype)
    Y = scratch("gradient points", POINTS * plan.y_pitch, x.dtype)
    held = max(6 * (pixels * plan.across + 6) * C, pixels**2 * plan.across * K, POINTS * plan.s_pitch)
    threads = threads_for(True)
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    codes = np.array([code.input, code.gradient, code.weights])
    for group in range(groups):
        call_parallel(True, _groups, tiles.addresses, codes, tiles.lanes, x, group * C, C, dy, group * K, K, pixels,
                      top, left, plan.down, plan.across, plan.rows, plan.patch_pitch, plan.v_pitch, plan.y_pitch,
                      plan.s_pitch, plan.channel_block, plan.channels, plan.sum_rows, buffers, V, Y, dw)  # fmt: skip
