"""Winograd's convolution F(4x4, 3x3): 3x3 filters at stride 1 with a quarter of the multiplications.

    y = A' [ (G w G') * (B' x B) ] A     for every 6x6 patch x of the input, 3x3 filter w and 4x4 patch y of the output

Transformed patches V (36, patches, C) and filters U (36, C, K) meet in 36 matrix products on the register tile. A task
takes a block of patches through all three steps while V and the products stay in L2. The gradient by the input is the
same pass with turned, transposed filters.

Sums are rounded as those of larger numbers: against exact results the error's root mean square stays below
`ERROR_BOUND` times the output's (normal data, up to 1024 input channels), some eight times that of direct sums.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.gather import copy_padded
from fastcnn.kernels.cpu.geometry import Padding, Triple
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, threads_for
from fastcnn.kernels.cpu.tile import Tiles, call_tile, call_transpose
from fastcnn.kernels.cpu.transforms import call_output, call_to_points, transforms
from fastcnn.kernels.cpu.workspace import scratch

ERROR_BOUND = 2e-5
POINTS = 36  # products a patch
BLOCK_BYTES = 640 * 1024  # of a task's V and products, which should stay in L2
MIN_PATCHES = 14  # of a task: a whole tile's rows


# Cycles of one core that `is_faster` weighs (measured on AVX-512, float32): a vector of channels through the input and
# the output transform, an element of U made, a byte of U read again by each block; and the share of the tile's peak.
INPUT_CYCLES, OUTPUT_CYCLES, FILTER_CYCLES, STREAM_CYCLES, TILE_SHARE = 240, 200, 2.0, 0.12, 0.85
SMALLEST = 1 << 23  # multiply-adds below which the way through is longer than the work


class Patches(NamedTuple):
    """How the output is cut: patches down and across, patches a task, tasks."""

    down: int
    across: int
    block: int
    tasks: int
    rows: np.ndarray  # offsets of a block's patches in V of one point
    products: np.ndarray  # and in the products of one point


@lru_cache(maxsize=512)
def plan_patches(N: int, P: int, Q: int, C: int, K: int, itemsize: int) -> Patches:
    """Cut an output of N images of P x Q pixels into blocks of 4x4 patches."""
    down, across = -(-P // 4), -(-Q // 4)
    fitting = BLOCK_BYTES // (POINTS * (C + K) * itemsize) // MIN_PATCHES * MIN_PATCHES
    count = N * down * across
    block = max(1, min(count, max(MIN_PATCHES, fitting)))
    return Patches(down, across, block, -(-count // block), np.arange(block) * C, np.arange(block) * K)


def applies(
    filters: Triple, stride: Triple, padding: Padding, dilation: Triple, groups: int, dtype: np.dtype, transposed: bool
) -> bool:
    """Say whether a convolution is a 3x3 one at stride 1 in float32; float64 is for exact work and stays direct."""
    plain = filters == (1, 3, 3) and stride == dilation == (1, 1, 1) and groups == 1 and padding[0] == (0, 0)
    reaches = not transposed or max(max(pair) for pair in padding) <= 2
    return plain and reaches and dtype == np.float32


@lru_cache(maxsize=512)
def is_faster(N: int, P: int, Q: int, C: int, K: int, lanes: int) -> bool:
    """Compare the cycles of this way, from C to K channels and N images of P x Q outputs, with those of direct sums."""
    multiply_adds = N * P * Q * 9 * C * K
    if multiply_adds < SMALLEST or min(C, K) < lanes:
        return False
    plan = plan_patches(N, P, Q, C, K, 4)
    patches = N * plan.down * plan.across
    vectors_in, vectors_out = -(-C // lanes), -(-K // lanes)
    products = POINTS * patches * C * vectors_out / 2 / TILE_SHARE
    transforms = patches * (vectors_in * INPUT_CYCLES + vectors_out * OUTPUT_CYCLES)
    filters = POINTS * C * K * (FILTER_CYCLES + 4 * STREAM_CYCLES * plan.tasks)
    return products + transforms + filters < 0.9 * N * P * Q * 9 * C * vectors_out / 2


@jit(inner=True)
def _filter_channel(c, thread, transform, w, C, K, panels, block, U):
    pitch = w.shape[2]
    for panel in range(panels):
        target = U[(panel * C + c) * block :]
        wide = min(block, K - panel * block)
        for e in range(POINTS if wide < block else 0):
            target[e * panels * C * block : e * panels * C * block + block] = 0
        source = w.ctypes.data + w.itemsize * (c * pitch + panel * block)
        call_to_points(transform, source, 3 * C * pitch, C * pitch, target.ctypes.data, panels * C * block, wide)


@jit
def _filters(team, transform, w, C, K, panels, block, U):
    """Fill U (36, panels, C, block) with the transformed filters (9, C, pitch); lanes past K are zero."""
    share(team, C, _filter_channel, (transform, w, C, K, panels, block, U))


@jit(inner=True)
def _block(task, thread, addresses, to_points, to_pixels, lanes, x, top, left, U, bias, relu, down, across, block,
           v_rows, m_rows, buffers, y):  # fmt: skip
    """Take one block of patches from x to y."""
    N, C = x.shape[0], x.shape[4]
    _, _, P, Q, K = y.shape
    size, tile_rows, wide = x.itemsize, addresses.shape[0] - 1, 2 * lanes
    panels = (K + wide - 1) // wide
    first = task * block
    count = min(block, N * down * across - first)
    V = buffers[thread].ctypes.data
    M = V + size * POINTS * block * C
    source = M + size * POINTS * block * K
    i = 0
    while i < count:
        # The patches that this block takes of one row of patches: their source is copied in one sweep.
        column, rest = (first + i) % across, (first + i) // across
        p, n = rest % down * 4, rest // down
        run = min(count - i, across - column)
        pitch = (4 * run + 2) * C
        copy_padded(x, n, 0, p - top, 4 * column - left, 1, 6, 4 * run + 2, 6 * pitch, pitch, C, source)
        for j in range(run):
            call_to_points(to_points, source + size * 4 * j * C, pitch, C, V + size * (i + j) * C, block * C, C)
        i += run
    needed = (count + tile_rows - 1) // tile_rows
    zero = v_rows.ctypes.data  # its first entry is 0: the batch is one product
    for e in range(POINTS):
        for panel in range(panels):
            channels = min(wide, K - panel * wide)
            vectors = (channels + lanes - 1) // lanes
            for i in range(needed):
                m, after = count * i // needed, count * (i + 1) // needed
                call_tile(
                    addresses[after - m, vectors], V + size * e * block * C, v_rows.ctypes.data + 8 * m, zero,
                    1, U.ctypes.data + size * (e * panels + panel) * C * wide, 0, wide,
                    M + size * (e * block * K + panel * wide), m_rows.ctypes.data + 8 * m, C, 1, 0,
                    channels - (vectors - 1) * lanes, 0, 0,
                )  # fmt: skip
    for i in range(count):
        q, rest = (first + i) % across * 4, (first + i) // across
        p, n = rest % down * 4, rest // down
        place = y.ctypes.data + size * ((n * P + p) * Q + q) * K
        call_output(to_pixels, M + size * i * K, block * K, bias.ctypes.data, relu, place, Q * K, K, K,
                    min(4, P - p), min(4, Q - q))  # fmt: skip


@jit
def _blocks(team, tasks, addresses, to_points, to_pixels, lanes, x, top, left, U, bias, relu, down, across, block,
            v_rows, m_rows, buffers, y):  # fmt: skip
    share(team, tasks, _block, (addresses, to_points, to_pixels, lanes, x, top, left, U, bias, relu, down, across,
                                   block, v_rows, m_rows, buffers, y))  # fmt: skip


@jit(inner=True)
def _turn_tap(tap, thread, transpose, w, lanes, pitch, turned):
    C, K = w.shape[1], w.shape[2]
    for c in range(0, C, lanes):
        source = w.ctypes.data + w.itemsize * (tap * C + c) * K
        target = turned.ctypes.data + w.itemsize * ((8 - tap) * K * pitch + c)
        call_transpose(transpose, source, K, target, pitch, min(lanes, C - c), K)


@jit
def _turn(team, transpose, w, lanes, pitch, turned):
    """Fill turned (9, K, pitch) with the filters (9, C, K) transposed and turned by half a circle."""
    share(team, 9, _turn_tap, (transpose, w, lanes, pitch, turned))


def winograd(
    tiles: Tiles, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, top: int, left: int, transposed: bool,
    relu: bool, y: np.ndarray,
) -> None:  # fmt: skip
    """Fill y (N, 1, P, Q, K) from x (N, 1, H, W, C), float32, w (1, 3, 3, C, K), padded by top and left zeros.

    With `transposed`, x is dy, w the forward filter (1, 3, 3, K, C) and y is dx.
    """
    C, K, code = x.shape[4], y.shape[4], transforms(x.dtype)
    plan = plan_patches(x.shape[0], y.shape[2], y.shape[3], C, K, x.itemsize)
    panels = -(-K // (2 * tiles.lanes))
    large = w.size > 1 << 13
    filters = w.reshape(9, w.shape[3], w.shape[4])
    if transposed:
        pitch = -(-K // tiles.lanes) * tiles.lanes
        turned = scratch("turned filters", 9 * C * pitch, x.dtype)[: 9 * C * pitch].reshape(9, C, pitch)
        call_parallel(large, _turn, tiles.addresses[0, 0], filters, tiles.lanes, pitch, turned)
        filters = turned
    U = scratch("weights", POINTS * panels * C * 2 * tiles.lanes, x.dtype)
    call_parallel(large, _filters, code.filter, filters, C, K, panels, 2 * tiles.lanes, U)
    threads = threads_for(plan.tasks > 1)
    held = POINTS * plan.block * (C + K) + 6 * (4 * min(plan.block, plan.across) + 2) * C
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    add = np.zeros(K, x.dtype) if bias is None else bias
    call_parallel(plan.tasks > 1, _blocks, plan.tasks, tiles.addresses, code.input, code.output, tiles.lanes, x, top,
                  left, U, add, relu, plan.down, plan.across, plan.block, plan.rows, plan.products, buffers,
                  y)  # fmt: skip
