"""The gradient by 3x3 or 5x5 weights at stride 1 by Winograd's transforms: sums of products of transformed patches.

    dw = G' [ sum over patches of (B' x B) * (A dy A') ] G

The patches are taken in groups whose points lie in L3: first all are transformed, a row of patches a task; then each
task sums, for some input channels and a panel of output channels, all points over the group's patches in L2, and adds
their transform to dw. The order of the sums depends on nothing but the shape. Steps and source are those of
`winograd.py`.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.gather import copy_padded
from fastcnn.kernels.cpu.geometry import MIN_TASKS, blocks_of
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, threads_for
from fastcnn.kernels.cpu.tile import Tiles, call_tile
from fastcnn.kernels.cpu.transforms import call_to_points, call_weights, transforms
from fastcnn.kernels.cpu.winograd import POINTS, Costs, odd_lines, slices_as_images, to_points
from fastcnn.kernels.cpu.workspace import scratch

GROUP_BYTES = 8 * 1024 * 1024  # of the points of a group of patches
SUM_BYTES = 320 * 1024  # of a task's sums of all points, which should stay in L2
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
    index, buffer, size = first + task, buffers[thread].ctypes.data, x.itemsize
    to_points(index * across, across, copy, to_x, x, c0, C, pixels, top, left, down, across,
              V.ctypes.data + size * task * across * patch_pitch, patch_pitch, v_pitch, buffer)  # fmt: skip
    n, p, pitch = index // down, index % down * pixels, pixels * across * K
    copy_padded(copy, dy, n, 0, p, 0, k0, 1, 1, 1, 1, pixels, pixels * across, K, pixels * pitch, pitch, K, buffer)
    for j in range(across):
        for panel in range((K + block - 1) // block):
            call_to_points(to_dy, buffer + size * (pixels * j * K + panel * block), pitch, K,
                           Y.ctypes.data + size * (panel * patches + task * across + j) * block, y_pitch,
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


def winograd_weight_gradient(
    tiles: Tiles, x: np.ndarray, dy: np.ndarray, top: int, left: int, groups: int, dw: np.ndarray
) -> None:
    """Fill dw (1, r, r, C / groups, K) from x (N, O, H, W, C), padded by top and left zeros, and dy (N, O, P, Q, K)."""
    x, dy = slices_as_images(x), slices_as_images(dy)
    C, K, taps = x.shape[4] // groups, dy.shape[4] // groups, dw.shape[1]
    code, pixels = transforms(x.dtype, taps), 7 - taps
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
