"""The way back through convolution, ReLU and max-pooling: only the outputs that won have a gradient.

Of the convolution outputs under one window at most one has a gradient g, so both gradients are sums of a few scaled
patches: dw[k] += g * patch and dx's patch += g * w[k], a quarter of the dense work for 2x2 windows, or less. For dw,
the patches of one channel are listed and added while dw[k] stays in registers; for dx, the filters of the channels
that won at one pixel.

    x (N, D, H, W, C)   w (T, R, S, C, K)   dy, winner (N, O, P, Q, K)
"""

from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.pooled import few_channels
from fastcnn.kernels.cpu.convolution.pooled.plan import plan_conv_pool, source_address
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.tile import (
    MAX_PATCH_ROWS,
    MAX_PATCH_VECTORS,
    call_patches,
    copy_bytes,
    tiles,
    zero_bytes,
)
from fastcnn.kernels.problem import ConvProblem, Triple

GRADIENT_CHUNKS = 32  # groups of images that sum dw by themselves: enough for 16 threads, few enough to add up
LISTED = 1 << 12  # patches of a list, which stays in the caches
LISTED_BY_TAP = 1 << 14  # places in the lists of some windows, of which most stay empty
HELD_BYTES = 1 << 15  # of filters that stay in L1 while patches of dx add them up
MIN_PATCH_VECTORS = 2  # fewer sums than that would wait for each other
SERIAL_SUMS = 1 << 15  # elements of such sums that one thread adds as fast


class Lists(NamedTuple):
    """Patches that are added up, with room for each thread: how many, their offsets, and what they are scaled by."""

    counts: np.ndarray
    offsets: np.ndarray
    scales: np.ndarray


@jit(inner=True)
def _list_by_channel(first, last, taps, patches, windows, winner, dy, counts, offsets, scales, db):
    """List, for some output channels of one image, the patches whose output won: their offsets and gradients.

    The list of a channel has room for all `windows`; db adds up the gradients.
    """
    K = db.size
    counts[: last - first] = 0
    for i in range(windows.size):
        for k in range(last - first):
            at = np.uintp(i * K + first + k)
            tap, g = np.int64(winner[at]), dy[at]
            to = np.uintp(k * windows.size + counts[np.uintp(k)])
            offsets[to] = windows[np.uintp(i)] + patches[np.uintp(tap)]
            scales[to] = g
            counts[np.uintp(k)] += tap < taps  # no branch: winners follow no pattern that a processor could predict
            db[np.uintp(first + k)] += g if tap < taps else 0


@jit(inner=True)
def _list_by_tap(first, last, taps, K, filter_size, winner, dy, counts, offsets, scales):
    """List the channels of some windows of one image by the tap that won, in one pass: `counts` of each list.

    Of each channel: where its filter stands, and the gradient. Every list has room for all channels; the last of a
    window holds those that ReLU cut.
    """
    for i in range(last - first):
        counts[i * (taps + 1) : (i + 1) * (taps + 1)] = 0
        for k in range(K):
            at = np.uintp((first + i) * K + k)
            here = np.uintp(i * (taps + 1) + winner[at])
            to = here * np.uintp(K) + np.uintp(counts[here])
            offsets[to] = k * filter_size
            scales[to] = dy[at]
            counts[here] += 1


@jit(inner=True, inline=True)
def _add_weight_gradient(tiles, plan, a, winner, dy, lists, thread, dw, db):
    """Add one image's part to dw (K, runs * wide) and db: for each channel, the patches of the outputs that won."""
    run, taps, size, K, lanes = plan.run, plan.window_taps, dy.itemsize, db.size, tiles.lanes
    batch, rows, windows = plan.batch, plan.filter_rows, plan.windows
    counts, offsets, scales = lists.counts[thread], lists.offsets[thread], lists.scales[thread]
    block = max(1, LISTED // windows.size)
    for first in range(0, K, block):
        last = min(K, first + block)
        _list_by_channel(first, last, taps, plan.patches, windows, winner, dy, counts, offsets, scales, db)
        for k in range(last - first):
            place, at, count = dw[first + k].ctypes.data, k * windows.size, counts[k]
            for row in range(0, batch.size, MAX_PATCH_ROWS):
                height = min(MAX_PATCH_ROWS, batch.size - row)
                for j in range(0, run, MAX_PATCH_VECTORS * lanes):
                    length = min(MAX_PATCH_VECTORS * lanes, run - j)
                    vectors = (length + lanes - 1) // lanes
                    call_patches(tiles.patches[height, vectors], place + size * j, rows.ctypes.data + 8 * row,
                                 a + size * j, batch.ctypes.data + 8 * row, offsets.ctypes.data + 8 * at,
                                 scales.ctypes.data + size * at, count, length - (vectors - 1) * lanes)  # fmt: skip


@jit(inner=True, inline=True)
def _add_input_gradient(tiles, plan, dx, w, winner, dy, lists, thread):
    """Add one image's part to dx, an address: for each window tap, the filters of the channels that won there.

    Part by part of the filters, so that those of all channels stay in L1.
    """
    run, taps, size, K, lanes = plan.run, plan.window_taps, dy.itemsize, w.shape[0], tiles.lanes
    batch, rows, patches, windows = plan.batch, plan.filter_rows, plan.patches, plan.windows
    counts, offsets, scales = lists.counts[thread], lists.offsets[thread], lists.scales[thread]
    most = HELD_BYTES // (K * min(MAX_PATCH_ROWS, batch.size) * lanes * size)
    group = max(MIN_PATCH_VECTORS, min(MAX_PATCH_VECTORS, most)) * lanes
    block = max(1, offsets.size // (K * (taps + 1)))
    for first in range(0, windows.size, block):
        last = min(windows.size, first + block)
        _list_by_tap(first, last, taps, K, w.shape[1], winner, dy, counts, offsets, scales)
        for row in range(0, batch.size, MAX_PATCH_ROWS):
            height = min(MAX_PATCH_ROWS, batch.size - row)
            for j in range(0, run, group):
                length = min(group, run - j)
                vectors = (length + lanes - 1) // lanes
                for i in range(last - first):
                    for tap in range(taps):
                        at = i * (taps + 1) + tap
                        if counts[at] > 0:
                            patch = windows[first + i] + patches[tap] + j
                            call_patches(tiles.patches[height, vectors], dx + size * patch, batch.ctypes.data + 8 * row,
                                         w.ctypes.data + size * j, rows.ctypes.data + 8 * row,
                                         offsets.ctypes.data + 8 * at * K, scales.ctypes.data + size * at * K,
                                         counts[at], length - (vectors - 1) * lanes)  # fmt: skip


@jit(inner=True, inline=True)
def _crop(plan, buffer, dx, n):
    """Copy the pixels of a padded image gradient that lie inside dx[n]; pixels that no window reaches are zero."""
    (start_d, start_h, start_w), (region_d, region_h, region_w), (pitch_d, pitch_h) = (
        plan.start,
        plan.region,
        plan.pitch,
    )
    _, D, H, W, C = dx.shape
    size, target = dx.itemsize, dx.ctypes.data + dx.itemsize * n * D * H * W * C
    zero_bytes(target, size * D * H * W * C)
    first = max(0, start_w)
    last = max(first, min(W, start_w + region_w))
    for d in range(max(0, start_d), min(D, start_d + region_d)):
        for h in range(max(0, start_h), min(H, start_h + region_h)):
            source = buffer + size * ((d - start_d) * pitch_d + (h - start_h) * pitch_h + (first - start_w) * C)
            copy_bytes(target + size * ((d * H + h) * W + first) * C, source, size * (last - first) * C)


@jit(inner=True)
def _gradient_chunk(chunk, thread, tiles, plan, x, w, dy, winner, buffers, lists, dx, partials):
    """Sum one chunk of images into its own dw and db, `partials`, and fill their dx."""
    (N, D, H, W, C), (partial_w, partial_b) = x.shape, partials
    chunks, size = partial_w.shape[0], x.itemsize
    buffer, dw, db = buffers[thread], partial_w[chunk], partial_b[chunk]
    dw[:] = 0
    db[:] = 0
    for n in range(chunk * N // chunks, (chunk + 1) * N // chunks):
        a = source_address(plan, x, n, buffer)
        target = 0
        if dx.size > 0:
            if plan.padded:
                target = buffer.ctypes.data + size * plan.image
                zero_bytes(target, size * plan.image)
            else:
                zero_bytes(dx.ctypes.data + size * n * D * H * W * C, size * D * H * W * C)
                target = dx.ctypes.data + (a - x.ctypes.data)
        won, g = winner[n].reshape(dy[n].size), dy[n].reshape(dy[n].size)
        _add_weight_gradient(tiles, plan, a, won, g, lists, thread, dw, db)
        if target != 0:
            _add_input_gradient(tiles, plan, target, w, won, g, lists, thread)
            if plan.padded:
                _crop(plan, target, dx, n)


@jit
def _backward(team, tiles, plan, x, w, dy, winner, buffers, lists, dx, partials):
    share(team, partials[0].shape[0], _gradient_chunk, (tiles, plan, x, w, dy, winner, buffers, lists, dx, partials))


@jit
def _rows_by_channel(w, wide, packed):
    """Fill packed (K, runs, wide) from w (runs, run, K): the filter of one output channel side by side."""
    runs, run, K = w.shape
    for k in range(K):
        for i in range(runs):
            for j in range(run):
                packed[(k * runs + i) * wide + j] = w[i, j, k]


@jit(inner=True)
def _add_channel(k, thread, partial_w):
    """Add the other chunks' sums of one channel to those of the first."""
    total = partial_w[0, k]
    for chunk in range(1, partial_w.shape[0]):
        more = partial_w[chunk, k]
        for i in range(total.size):
            total[np.uintp(i)] += more[np.uintp(i)]


@jit(inner=True)
def _spread_run(i, thread, sums, dw):
    """Fill one run of dw from the channels' sums, side by side there."""
    for j in range(dw.shape[1]):
        for k in range(dw.shape[2]):
            dw[np.uintp(i), np.uintp(j), np.uintp(k)] = sums[np.uintp(k), np.uintp(i), np.uintp(j)]


@jit
def _add_chunks(team, partial_w, partial_b, dw, db):
    """Add the chunks' sums in order: dw (runs, run, K), db (K,); those of the first chunk are overwritten."""
    (chunks, K), runs = partial_w.shape[:2], dw.shape[0]
    share(team, K, _add_channel, (partial_w,))
    share(team, runs, _spread_run, (partial_w[0].reshape(K, runs, partial_w.shape[2] // runs), dw))
    db[:] = 0
    for chunk in range(chunks):
        for k in range(K):
            db[k] += partial_b[chunk, k]


def conv_pool_backward(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray, winner: np.ndarray, problem: ConvProblem, window: Triple,
    dx: np.ndarray | None, dw: np.ndarray, db: np.ndarray | None,
) -> None:  # fmt: skip
    """Fill dw and (where they are given) db and dx from dy, visiting only the outputs that `winner` names."""
    code = tiles(x.dtype)
    if dy.size == 0:
        for gradient in (dx, dw, db):
            if gradient is not None:
                gradient.fill(0)
        return
    if dx is None and few_channels.suits_backward(problem, window, x.itemsize):
        few_channels.backward_weight(x, dy, winner, problem, window, dw, db)
        return
    plan = plan_conv_pool(problem, window, code.lanes)
    runs, run, K = plan.batch.size, plan.run, w.shape[4]
    wide = -(-run // code.lanes) * code.lanes
    packed = scratch("weights", K * runs * wide, x.dtype)
    call_serial(_rows_by_channel, w.reshape(runs, run, K), wide, packed)
    threads = threads_for(plan.parallel)
    held = 2 * plan.image if plan.padded else 0
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    chunks = min(x.shape[0], GRADIENT_CHUNKS)
    partial = scratch("partial", chunks * K * (runs * wide + 1), x.dtype)
    partial_w = partial[: chunks * K * runs * wide].reshape(chunks, K, runs * wide)
    partial_b = partial[partial_w.size : partial_w.size + chunks * K].reshape(chunks, K)
    window_lists = K * plan.patches.size
    listed = max(LISTED, plan.windows.size, window_lists, min(LISTED_BY_TAP, plan.windows.size * window_lists))
    counted = max(K, listed // K)
    counts = scratch("counts", threads * counted, np.dtype(np.int64))[: threads * counted].reshape(threads, counted)
    offsets = scratch("offsets", threads * listed, np.dtype(np.int64))[: threads * listed].reshape(threads, listed)
    scales = scratch("scales", threads * listed, x.dtype)[: threads * listed].reshape(threads, listed)
    filters, lists = packed[: K * runs * wide].reshape(K, runs * wide), Lists(counts, offsets, scales)
    no_dx = np.empty((0, 1, 1, 1, 1), x.dtype)
    call_parallel(plan.parallel, _backward, code, plan, x, filters, dy, winner, buffers, lists,
                  no_dx if dx is None else dx, (partial_w, partial_b))  # fmt: skip
    call_parallel(partial_w.size > SERIAL_SUMS, _add_chunks, partial_w, partial_b, dw.reshape(runs, run, K),
                  db if db is not None else np.empty(K, x.dtype))  # fmt: skip
