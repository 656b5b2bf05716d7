"""The gradient by 3x3 weights at stride 1 by Winograd's transforms: sums of products of transformed patches.

    dw = G' [ sum over patches of (B' x B) * (A dy A') ] G

The patches are taken in groups whose points lie in L3: first all are transformed, a row of patches a task; then each of
the 36 points adds its product, patches summed in the register tile, to the one array of sums it owns. The order of the
sums depends on nothing but the shape. Steps and source are those of `winograd.py`.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.gather import copy_padded
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, threads_for
from fastcnn.kernels.cpu.tile import Tiles, call_tile
from fastcnn.kernels.cpu.transforms import call_to_points, call_weights, transforms
from fastcnn.kernels.cpu.winograd import INPUT_CYCLES, OUTPUT_CYCLES, POINTS, SMALLEST, TILE_SHARE
from fastcnn.kernels.cpu.workspace import scratch

GROUP_BYTES = 8 * 1024 * 1024  # of the points of a group of patches
MIN_GROUP = 96  # patches: shorter sums cost more for loading and storing the products than they take
ERROR_BOUND = 2e-5  # root mean square, relative to the gradient's; normal data, up to 50,000 patches
POINT_CYCLES = 0.35  # to write and read again one byte of points, and to load and store one of the sums (measured)
DIRECT_SHARE = 0.8  # of the tile's peak that direct sums reach


class Groups(NamedTuple):
    """How the patches are cut: patches down an image and across, rows of patches a group, groups."""

    down: int
    across: int
    rows: int
    groups: int


@lru_cache(maxsize=512)
def plan_groups(N: int, P: int, Q: int, C: int, K: int, itemsize: int) -> Groups:
    """Cut N outputs of P x Q pixels into groups of rows of 4x4 patches."""
    down, across = -(-P // 4), -(-Q // 4)
    patches = max(MIN_GROUP, GROUP_BYTES // (POINTS * (C + K) * itemsize))
    groups = -(-N * down // max(1, patches // across))
    rows = -(-N * down // groups)
    return Groups(down, across, rows, -(-N * down // rows))


@lru_cache(maxsize=512)
def is_faster(N: int, P: int, Q: int, C: int, K: int, lanes: int) -> bool:
    """Compare the cycles of this way with those of direct sums."""
    multiply_adds = N * P * Q * 9 * C * K
    if multiply_adds < SMALLEST or min(C, K) < lanes:
        return False
    plan = plan_groups(N, P, Q, C, K, 4)
    patches = N * plan.down * plan.across
    vectors_in, vectors_out = -(-C // lanes), -(-K // lanes)
    products = POINTS * patches * C * vectors_out / 2 / TILE_SHARE
    made = patches * (vectors_in * INPUT_CYCLES + vectors_out * OUTPUT_CYCLES)
    moved = POINTS * 4 * POINT_CYCLES * (patches * (C + K) + (plan.groups + 1) * C * K)
    return products + made + moved < 0.9 * N * P * Q * 9 * C * vectors_out / 2 / DIRECT_SHARE


@jit(inner=True)
def _row(task, thread, first, to_x, to_dy, x, dy, top, left, down, across, patches, panels, block, buffers, V, Y):
    """Transform one row of patches of x and dy, row `task` of the group that starts at row `first`."""
    index, buffer = first + task, buffers[thread].ctypes.data
    C, K, size = x.shape[4], dy.shape[4], x.itemsize
    n, p = index // down, index % down * 4
    pitch = (4 * across + 2) * C
    copy_padded(x, n, 0, p - top, -left, 1, 6, 4 * across + 2, 6 * pitch, pitch, C, buffer)
    for j in range(across):
        patch = (index - first) * across + j
        call_to_points(to_x, buffer + size * 4 * j * C, pitch, C, V.ctypes.data + size * patch * C, patches * C, C)
    pitch = 4 * across * K
    copy_padded(dy, n, 0, p, 0, 1, 4, 4 * across, 4 * pitch, pitch, K, buffer)
    for j in range(across):
        patch = (index - first) * across + j
        for panel in range(panels):
            call_to_points(to_dy, buffer + size * (4 * j * K + panel * block), pitch, K,
                           Y.ctypes.data + size * (panel * patches + patch) * block, panels * patches * block,
                           min(block, K - panel * block))  # fmt: skip


@jit
def _transform_rows(team, first, last, to_x, to_dy, x, dy, top, left, down, across, patches, panels, block, buffers,
                    V, Y):  # fmt: skip
    """Fill V (36, patches, C) and Y (36, panels, patches, block) from rows first to last of patches."""
    share(team, last - first, _row, (first, to_x, to_dy, x, dy, top, left, down, across, patches, panels, block,
                                        buffers, V, Y))  # fmt: skip


@jit(inner=True)
def _add_product(task, thread, addresses, lanes, patches, used, C, K, panels, rows, sum_rows, first, V, Y, buffers,
                 sums):  # fmt: skip
    """Add the products of one point and panel."""
    size, tile_rows, block = V.itemsize, addresses.shape[0] - 1, 2 * lanes
    needed = (C + tile_rows - 1) // tile_rows
    zero = rows.ctypes.data  # its first entry is 0: the batch is one product
    e, panel = task // panels, task % panels
    fresh, total = buffers[thread], sums[task * C * block :]
    channels = min(block, K - panel * block)
    vectors = (channels + lanes - 1) // lanes
    for j in range(needed):
        m, after = C * j // needed, C * (j + 1) // needed
        call_tile(
            addresses[after - m, vectors], V.ctypes.data + size * e * patches * C, rows.ctypes.data + 8 * m, zero,
            C, Y.ctypes.data + size * task * patches * block, 0, block, fresh.ctypes.data,
            sum_rows.ctypes.data + 8 * m, used, 1, 0, lanes, 0, 0,
        )  # fmt: skip
    for j in range(C * block):
        total[np.uintp(j)] = fresh[np.uintp(j)] + (0 if first else total[np.uintp(j)])


@jit
def _add_products(team, addresses, lanes, patches, used, C, K, panels, rows, sum_rows, first, V, Y, buffers, sums):
    """Add to sums (36, panels, C, block) the products of the group's points, `used` patches of each.

    A group is summed by itself before it is added: rounding grows with the root of a group, not of all patches.
    """
    share(team, POINTS * panels, _add_product, (addresses, lanes, patches, used, C, K, panels, rows, sum_rows, first,
                                                   V, Y, buffers, sums))  # fmt: skip


@jit(inner=True)
def _weights_channel(c, thread, transform, sums, C, K, panels, block, dw):
    for panel in range(panels):
        call_weights(transform, sums.ctypes.data + sums.itemsize * (panel * C + c) * block, panels * C * block,
                     dw.ctypes.data + dw.itemsize * (c * K + panel * block), C * K,
                     min(block, K - panel * block))  # fmt: skip


@jit
def _weights(team, transform, sums, C, K, panels, block, dw):
    """Fill dw (9, C, K) from the sums of the points."""
    share(team, C, _weights_channel, (transform, sums, C, K, panels, block, dw))


def winograd_weight_gradient(tiles: Tiles, x: np.ndarray, dy: np.ndarray, top: int, left: int, dw: np.ndarray) -> None:
    """Fill dw (1, 3, 3, C, K) from x (N, 1, H, W, C), padded by top and left zeros, and dy (N, 1, P, Q, K); float32."""
    N, C, K, code, block = x.shape[0], x.shape[4], dy.shape[4], transforms(x.dtype), 2 * tiles.lanes
    plan = plan_groups(N, dy.shape[2], dy.shape[3], C, K, x.itemsize)
    panels, patches = -(-K // block), plan.rows * plan.across
    V = scratch("points", POINTS * patches * C, x.dtype)
    Y = scratch("gradient points", POINTS * panels * patches * block, x.dtype)
    sums = scratch("partial", POINTS * panels * C * block, x.dtype)
    held = max(6 * (4 * plan.across + 2) * C, 16 * plan.across * K, C * block)
    threads = threads_for(True)
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    for first in range(0, N * plan.down, plan.rows):
        last = min(first + plan.rows, N * plan.down)
        call_parallel(True, _transform_rows, first, last, code.input, code.gradient, x, dy, top, left, plan.down,
                      plan.across, patches, panels, block, buffers, V, Y)  # fmt: skip
        call_parallel(True, _add_products, tiles.addresses, tiles.lanes, patches, (last - first) * plan.across, C, K,
                      panels, np.arange(C), np.arange(C) * block, first == 0, V, Y, buffers, sums)  # fmt: skip
    call_parallel(True, _weights, code.weights, sums, C, K, panels, block, dw)
