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
from fastcnn.kernels.cpu.convolution.winograd.forward import (
    POINTS,
    Costs,
    Window,
    odd_lines,
    slices_as_images,
    to_points,
)
from fastcnn.kernels.cpu.convolution.winograd.gemm import call_sums, point_products
from fastcnn.kernels.cpu.convolution.winograd.transforms import call_to_points, call_weights, transforms
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import MIN_TASKS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.tile import Tiles, call_tile, zero_bytes
from fastcnn.kernels.problem import ConvProblem

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


class ByGroups(NamedTuple):
    """What is the same for all tasks of the gradient of one group's weights, patches taken in groups."""

    plan: Groups
    x: Window
    dy: Window
    addresses: np.ndarray  # of the tiles
    weights: int  # address of the transform from the sums of points
    lanes: int


@jit(inner=True)
def _row(task, thread, work, first, patches, x, dy, buffers, V, Y):
    """Transform one row of patches of x and dy, row `task` of the group that starts at row `first`."""
    plan, window, lanes, K = work.plan, work.dy, work.lanes, work.dy.channels
    index, buffer, size, block = first + task, buffers[thread].ctypes.data, x.itemsize, 2 * work.lanes
    to_points(work.x, index * plan.across, plan.across, x, V.ctypes.data + size * task * plan.across * plan.patch_pitch,
              (plan.patch_pitch, lanes, plan.v_pitch), buffer)  # fmt: skip
    n, p, wide = index // plan.down, index % plan.down * window.pixels, window.pixels * plan.across
    pitch = wide * K
    copy_padded(window.copy, dy, (n, 0, p, 0, window.channel), (1, 1, 1), (1, window.pixels, wide, K),
                (window.pixels * pitch, pitch, K), buffer)  # fmt: skip
    for j in range(plan.across):
        for panel in range((K + block - 1) // block):
            call_to_points(window.transform, buffer + size * (window.pixels * j * K + panel * block), pitch, K,
                           Y.ctypes.data + size * (panel * patches + task * plan.across + j) * block, plan.y_pitch,
                           lanes, min(block, K - panel * block))  # fmt: skip


@jit(inner=True)
def _product(task, thread, work, patches, used, accumulate, V, Y, buffers, dw):
    """Add to dw what a group's patches give for some input channels and one panel of output channels."""
    plan, lanes, size, sums = work.plan, work.lanes, V.itemsize, buffers[thread].ctypes.data
    C, K, tile_rows, block = work.x.channels, work.dy.channels, work.addresses.shape[0] - 1, 2 * work.lanes
    panels = (K + block - 1) // block
    c, panel = task // panels * plan.channel_block, task % panels
    channels, filters = min(plan.channel_block, C - c), min(block, K - panel * block)
    vectors, needed = (filters + lanes - 1) // lanes, (channels + tile_rows - 1) // tile_rows
    rows, sum_rows, columns = plan.channels.ctypes.data, plan.sum_rows.ctypes.data, dw.shape[4]
    zero = rows  # the first entry of rows is 0: the batch is one product
    for e in range(POINTS):
        for j in range(needed):
            m, after = channels * j // needed, channels * (j + 1) // needed
            call_tile(
                work.addresses[after - m, vectors], V.ctypes.data + size * (e * plan.v_pitch + c), rows + 8 * m, zero,
                plan.patch_pitch, Y.ctypes.data + size * (e * plan.y_pitch + panel * patches * block), 0, block,
                sums + size * e * plan.s_pitch, sum_rows + 8 * m, used, 1, 0, lanes, 0, 0, sums, zero, 0,
            )  # fmt: skip
    for i in range(channels):
        call_weights(work.weights, sums + size * i * block, plan.s_pitch,
                     dw.ctypes.data + size * ((c + i) * columns + work.dy.channel + panel * block), C * columns,
                     filters, accumulate)  # fmt: skip


@jit
def _groups(team, work, x, dy, buffers, V, Y, dw):
    """Take group after group of rows of patches: transform all, then add their products to dw (r * r, C, columns).

    V (36, patches, C) and Y (36, panels, patches, block) hold a group's points.
    """
    plan, block = work.plan, 2 * work.lanes
    panels, patches = (work.dy.channels + block - 1) // block, plan.rows * plan.across
    regions = (work.x.channels + plan.channel_block - 1) // plan.channel_block
    rows = x.shape[0] * plan.down
    for first in range(0, rows, plan.rows):
        count = min(plan.rows, rows - first)
        share(team, count, _row, (work, first, patches, x, dy, buffers, V, Y))
        share(team, regions * panels, _product, (work, patches, count * plan.across, np.int64(first > 0), V, Y, buffers,
                                                 dw))  # fmt: skip


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


class ByChunks(NamedTuple):
    """What is the same for all tasks of the gradient of one group's weights, patches taken in chunks."""

    plan: Chunks
    x: Window
    dy: Window
    sums: np.ndarray  # addresses of the sums over patches
    weights: int  # address of the transform from the sums of points
    lanes: int


@jit(inner=True)
def _chunk(task, thread, work, x, dy, buffers, partial):
    """Sum the products of all points over one chunk of blocks of patches."""
    plan, lanes, size = work.plan, work.lanes, x.itemsize
    V, S = buffers[thread].ctypes.data, partial[task].ctypes.data
    Y = V + size * POINTS * plan.v_pitch
    source, patches = Y + size * POINTS * plan.y_pitch, x.shape[0] * plan.down * plan.across
    blocks = (patches + plan.block - 1) // plan.block
    zero_bytes(S, size * POINTS * plan.s_pitch)
    begin, end = task * blocks // plan.chunks, (task + 1) * blocks // plan.chunks
    for first in range(begin * plan.block, min(end * plan.block, patches), plan.block):
        count = min(plan.block, patches - first)
        to_points(work.x, first, count, x, V, (lanes, plan.vector_pitch, plan.v_pitch), source)
        to_points(work.dy, first, count, dy, Y, (lanes, plan.vector_pitch, plan.y_pitch), source)
        _sum_block(work, count, x, dy, first + plan.block, patches, V, Y, S)


@jit(inner=True, inline=True)
def _sum_block(work, count, x, dy, after, patches, V, Y, S):
    """Add the products of a block of `count` patches to the sums S, and prefetch x and dy from patch `after` on."""
    plan, lanes, size, C, K = work.plan, work.lanes, x.itemsize, work.x.channels, work.dy.channels
    panels = (K + 2 * lanes - 1) // (2 * lanes)
    steps = POINTS * panels * ((C + lanes - 1) // lanes)
    row = (6 - work.x.pixels - work.x.top) * x.shape[3] * x.shape[4]
    fetch = x.ctypes.data + size * (x.size * after // patches + row)
    other = dy.ctypes.data + size * (dy.size * after // patches)
    fetch_step = size * x.size * plan.block // patches // steps if x.shape[4] == C else 0
    other_step = size * dy.size * plan.block // patches // steps if dy.shape[4] == K else 0
    for panel in range(panels):
        k = 2 * panel * lanes
        vectors = min(2, (K - k + lanes - 1) // lanes)
        c = 0
        while c < C:
            rows, smallest = lanes // vectors, max(1, lanes // vectors // 4)
            while rows > smallest and C - c <= rows // 2:
                rows //= 2
            call_sums(
                work.sums[rows, vectors], V + size * (c // lanes * plan.vector_pitch + c % lanes), plan.v_pitch,
                Y + size * 2 * panel * plan.vector_pitch, plan.y_pitch, plan.vector_pitch,
                S + size * (c * plan.s_row + k), plan.s_pitch, plan.s_row, count, POINTS, fetch, fetch_step, other,
                other_step,
            )  # fmt: skip
            fetch += POINTS * fetch_step
            other += POINTS * other_step
            c += rows


@jit(inner=True)
def _add_channel(c, thread, work, partial, dw):
    """Fill dw's row of one input channel from the sums of all chunks, added in their order."""
    plan, size, columns, K = work.plan, dw.itemsize, dw.shape[4], work.dy.channels
    for e in range(POINTS):
        total = partial[0, e * plan.s_pitch + c * plan.s_row :][:K]
        for chunk in range(1, partial.shape[0]):
            part = partial[chunk, e * plan.s_pitch + c * plan.s_row :][:K]
            for k in range(K):
                total[k] += part[k]
    call_weights(work.weights, partial.ctypes.data + size * c * plan.s_row, plan.s_pitch,
                 dw.ctypes.data + size * (c * columns + work.dy.channel), work.x.channels * columns, K, 0)  # fmt: skip


@jit
def _chunks(team, work, x, dy, buffers, partial, dw):
    share(team, work.plan.chunks, _chunk, (work, x, dy, buffers, partial))
    share(team, work.x.channels, _add_channel, (work, partial, dw))


def _windows(
    tiles: Tiles, plan: Groups | Chunks, x: np.ndarray, dy: np.ndarray, top: int, left: int, groups: int, taps: int
) -> list[tuple[Window, Window]]:
    """Return the windows of x and dy for each group of channels."""
    code, pixels, copy = transforms(x.dtype, taps), 7 - taps, tiles.addresses[1, 0]
    C, K, cut = x.shape[4] // groups, dy.shape[4] // groups, (plan.down, plan.across)
    return [
        (
            Window(copy, code.input, group * C, C, 6, pixels, top, left, *cut),
            Window(copy, code.gradient, group * K, K, pixels, pixels, 0, 0, *cut),
        )
        for group in range(groups)
    ]


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
    sums = point_products(dtype).sums
    for windows in _windows(tiles, plan, x, dy, top, left, groups, taps):
        work = ByChunks(plan, *windows, sums, code.weights, tiles.lanes)
        call_parallel(True, _chunks, work, x, dy, buffers, partial, dw)


def winograd_weight_gradient(tiles: Tiles, x: np.ndarray, dy: np.ndarray, problem: ConvProblem, dw: np.ndarray) -> None:
    """Fill dw (1, r, r, C / groups, K) from x (N, O, H, W, C), padded by zeros, and dy (N, O, P, Q, K)."""
    x, dy, groups = slices_as_images(x), slices_as_images(dy), problem.groups
    top, left = problem.padding[1][0], problem.padding[2][0]
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
    for windows in _windows(tiles, plan, x, dy, top, left, groups, taps):
        work = ByGroups(plan, *windows, tiles.addresses, code.weights, tiles.lanes)
        call_parallel(True, _groups, work, x, dy, buffers, V, Y, dw)
