"""Convolution, bias, ReLU and max-pooling in one pass, and a backward pass that visits only the outputs that won.

    y[n, o, p, q, k] = max(0, max over the window's taps of (x * w + b))     windows side by side, none overlapping

Forward: a pooled row's convolution outputs are computed tap by tap of the window into L1 and reduced there; the full
convolution output never reaches memory. `winner` (uint8) is the tap that won, or the number of taps where ReLU cut.
Where Winograd's algorithm is faster, some images at a time are convolved by it and pooled while the caches hold them;
images of few channels are cut into planes (`few_channels.py`). The way back is in `convolution/pooled/backward.py`.

    x (N, D, H, W, C)   w (T, R, S, C, K)   b (K,)   y, winner, dy (N, O, P, Q, K)
"""

from math import prod

import numpy as np

from fastcnn.kernels.cpu import conv
from fastcnn.kernels.cpu.convolution.pack_filter import pack_filter
from fastcnn.kernels.cpu.convolution.pooled import few_channels
from fastcnn.kernels.cpu.convolution.pooled.backward import conv_pool_backward
from fastcnn.kernels.cpu.convolution.pooled.plan import plan_conv_pool, source_address
from fastcnn.kernels.cpu.pooling.max import max_pool_forward
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.epilogue_code import RELU
from fastcnn.kernels.cpu.simd.tile import call_tile, tiles
from fastcnn.kernels.problem import ConvProblem, Triple

__all__ = ["conv_pool_backward", "conv_pool_forward", "suits"]

IMAGE_ELEMENTS = 1 << 18  # of an image that one thread takes whole, its gradient beside it: 2 MiB of float32
SMALL_IMAGE = 1 << 14  # images so small are no work to share
SHARED_BATCH = 4  # from so many larger images on, threads have enough of them
MAX_TAPS = 255  # a winner is a byte, and one value says that none won
FILTER_ELEMENTS = 1 << 17  # the way back visits filters in any order: larger ones would leave L2
HELD_ELEMENTS = 1 << 21  # of the convolution's outputs that wait for their pooling
CUT_BLOCK = 1 << 14  # elements a task
ONE = (1, 1, 1)
UNPADDED = ((0, 0), (0, 0), (0, 0))


def suits(batch: int, image: int, filters: int, taps: int) -> bool:
    """Say whether a stage is faster in one pass.

    It has `batch` padded images of `image` elements, `filters` elements of all filters, and windows of `taps`.
    """
    fits = taps <= MAX_TAPS and image <= IMAGE_ELEMENTS and filters <= FILTER_ELEMENTS
    return fits and (batch >= SHARED_BATCH or image <= SMALL_IMAGE)


@jit(inner=True)
def _reduce_taps(z, taps, leader, y, winner):
    """Fill y and winner (length,) from the convolution outputs z (taps, length): maximum or last NaN, cut at zero."""
    length = y.size
    for i in range(length):
        y[np.uintp(i)] = z[np.uintp(i)]
        leader[np.uintp(i)] = 0
    for tap in range(1, taps):
        at = tap * length
        for i in range(length):
            v, best = z[np.uintp(at + i)], y[np.uintp(i)]
            better = (v > best) | (v != v)
            y[np.uintp(i)] = v if better else best
            leader[np.uintp(i)] = np.int32(tap) if better else leader[np.uintp(i)]
    for i in range(length):
        v = y[np.uintp(i)]
        winner[np.uintp(i)] = taps if v <= 0 else leader[np.uintp(i)]
        y[np.uintp(i)] = 0 if v <= 0 else v


@jit(inner=True, inline=True)
def _forward_row(tiles, plan, a, packed, bias, channels, z):
    """Fill z (window taps, Q, K) with the convolution outputs of one pooled row, from the source at address a."""
    itemsize, lanes, block, run, pixels = z.itemsize, tiles.lanes, 2 * tiles.lanes, plan.forward_run, plan.a_rows.size
    a_rows, c_rows, batch, runs = (
        plan.a_rows.ctypes.data,
        plan.c_rows.ctypes.data,
        plan.batch.ctypes.data,
        plan.batch.size,
    )
    tiles_needed = (pixels + tiles.rows - 1) // tiles.rows
    for k in range(0, channels, block):
        wide = min(block, channels - k)
        vectors = (wide + lanes - 1) // lanes
        for i in range(tiles_needed):
            m, after = pixels * i // tiles_needed, pixels * (i + 1) // tiles_needed
            call_tile(
                tiles.addresses[after - m, vectors], a, a_rows + 8 * m, batch, 1,
                packed.ctypes.data + itemsize * k * runs * run, run * block, block, z.ctypes.data + itemsize * k,
                c_rows + 8 * m, run, runs, bias.ctypes.data + itemsize * k if bias.size > 0 else 0,
                wide - (vectors - 1) * lanes, 0, 0, a, c_rows, 0,
            )  # fmt: skip


@jit(inner=True)
def _forward_image(n, thread, tiles, plan, x, packed, bias, channels, buffers, leaders, y_rows, winner_rows):
    image, (jump_d, jump_h) = plan.image if plan.padded else 0, plan.jump
    a = source_address(plan, x, n, buffers[thread, :image])
    z = buffers[thread, image:]
    for o in range(y_rows.shape[1]):
        for p in range(y_rows.shape[2]):
            window = a + x.itemsize * (o * jump_d + p * jump_h)
            _forward_row(tiles, plan, window, packed, bias, channels, z)
            _reduce_taps(z, plan.window_taps, leaders[thread], y_rows[n, o, p], winner_rows[n, o, p])


@jit
def _forward(team, tiles, plan, x, packed, bias, channels, buffers, leaders, y, winner):
    N, O, P, Q, K = y.shape
    rows = (N, O, P, Q * K)
    share(team, N, _forward_image, (tiles, plan, x, packed, bias, channels, buffers, leaders, y.reshape(rows),
                                    winner.reshape(rows)))  # fmt: skip


@jit(inner=True)
def _cut_block(block, thread, y, taps, winner):
    """Tell which winners ReLU cut."""
    for i in range(block * CUT_BLOCK, min(y.size, block * CUT_BLOCK + CUT_BLOCK)):
        winner[np.uintp(i)] = taps if y[np.uintp(i)] <= 0 else winner[np.uintp(i)]


@jit
def _cut(team, y, taps, winner):
    share(team, (y.size + CUT_BLOCK - 1) // CUT_BLOCK, _cut_block, (y, taps, winner))


def conv_pool_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, problem: ConvProblem, window: Triple, y: np.ndarray,
    winner: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y with the pooled, rectified convolution of x by w plus b, and winner with the taps that won.

    `problem` is that of the convolution, before pooling.
    """
    if y.size == 0:
        return
    if conv.algorithm_of("forward", problem, x.dtype, algorithm) == "winograd":
        whole = problem.y[1:]
        images = max(1, HELD_ELEMENTS // prod(whole))
        for n in range(0, x.shape[0], images):
            some = slice(n, min(x.shape[0], n + images))
            size = (some.stop - n) * prod(whole)
            z = scratch("conv outputs", size, x.dtype)[:size].reshape(-1, *whole)
            conv.conv_forward(x[some], w, b, problem._replace(x=x[some].shape, y=z.shape), RELU, z, "winograd")
            max_pool_forward(z, window, window, UNPADDED, ONE, y[some], winner[some])
        call_parallel(y.size > CUT_BLOCK, _cut, y.reshape(-1), prod(window), winner.reshape(-1))
        return
    if few_channels.suits_forward(problem, window, x.itemsize):
        few_channels.forward(x, w, b, problem, window, y, winner)
        return
    code = tiles(x.dtype)
    plan = plan_conv_pool(problem, window, code.lanes)
    packed, bias = pack_filter(code, w, b, plan.taps, 1, False, plan.batch.size, plan.merge, plan.merge_step)
    threads = threads_for(plan.parallel)
    image, row = plan.image if plan.padded else 0, y.shape[3] * y.shape[4]
    held = image + plan.window_taps * row
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    leaders = scratch("leaders", threads * row, np.dtype(np.int32))[: threads * row].reshape(threads, row)
    call_parallel(plan.parallel, _forward, code, plan, x, packed, bias, plan.merge * w.shape[4], buffers, leaders, y,
                  winner)  # fmt: skip
