"""The way back through convolution, ReLU and max-pooling: only the outputs that won have a gradient.

Of the convolution outputs under one window at most one has a gradient g, so both gradients are sums of a few scaled
patches: dw[k] += g * patch and dx's patch += g * w[k], a quarter of the dense work for 2x2 windows, or less. For dw,
the patches of one channel are listed and added while dw[k] stays in registers; for dx, the filters of the channels
that won at one pixel.

    x (N, D, H, W, C)   w (T, R, S, C, K)   dy, winner (N, O, P, Q, K)
"""

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu import planes
from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.conv_pool_plan import plan_conv_pool, source_address
from fastcnn.kernels.cpu.geometry import Padding, Triple
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, threads_for
from fastcnn.kernels.cpu.tile import (
    MAX_PATCH_ROWS,
    MAX_PATCH_VECTORS,
    call_patches,
    copy_bytes,
    tiles,
    zero_bytes,
)
from fastcnn.kernels.cpu.workspace import scratch

GRADIENT_CHUNKS = 32  # groups of images that sum dw by themselves: enough for 16 threads, few enough to add up
SERIAL_SUMS = 1 << 15  # elements of such sums that one thread adds as fast


@jit(inner=True)
def _list_by_channel(k, numbers, patches, winner, dy, offsets, scales):
    """List the patches of one image whose output of channel k won: their offsets and gradients. Return how many."""
    (_, taps, _, _, _, _, _, _, _, _, jump_d, jump_h, jump_w, _) = to_fixed_tuple(numbers, 14)
    O, P, Q, K = dy.shape
    flat_winner, flat_dy = winner.reshape(O * P * Q * K), dy.reshape(O * P * Q * K)
    count, at = 0, k
    for o in range(O):
        for p in range(P):
            window = o * jump_d + p * jump_h
            for _ in range(Q):
                tap = np.int64(flat_winner[np.uintp(at)])
                offsets[np.uintp(count)] = window + patches[np.uintp(tap)]
                scales[np.uintp(count)] = flat_dy[np.uintp(at)]
                count += tap < taps  # no branch: winners follow no pattern that a processor could predict
                window += jump_w
                at += K
    return count


@jit(inner=True)
def _list_by_tap(winner, dy, filter_size, counts, offsets, scales):
    """List the channels of one window by the tap that won: where their filters stand, and their gradients."""
    K = winner.size
    counts[:] = 0
    for k in range(K):
        tap = np.int64(winner[np.uintp(k)])
        at = tap * K + counts[np.uintp(tap)]
        offsets[np.uintp(at)] = k * filter_size
        scales[np.uintp(at)] = dy[np.uintp(k)]
        counts[np.uintp(tap)] += 1


@jit(inner=True)
def _add_patches(functions, lanes, size, run, target, target_rows, source, source_rows, offsets, scales, count):
    """Add scaled patches of `source_rows.size` rows of `run` elements, part by part; target, source: addresses."""
    group = MAX_PATCH_VECTORS * lanes
    for first in range(0, source_rows.size, MAX_PATCH_ROWS):
        height = min(MAX_PATCH_ROWS, source_rows.size - first)
        for j in range(0, run, group):
            length = min(group, run - j)
            vectors = (length + lanes - 1) // lanes
            call_patches(functions[height, vectors], target + size * j, target_rows.ctypes.data + 8 * first,
                         source + size * j, source_rows.ctypes.data + 8 * first, offsets, scales, count,
                         length - (vectors - 1) * lanes)  # fmt: skip


@jit(inner=True)
def _add_weight_gradient(functions, lanes, a, winner, dy, numbers, batch, rows, patches, offsets, scales, dw, db):
    """Add one image's part to dw (K, runs * wide) and db: for each channel, the patches of the outputs that won."""
    for k in range(dw.shape[0]):
        count = _list_by_channel(k, numbers, patches, winner, dy, offsets, scales)
        for i in range(count):
            db[k] += scales[i]
        _add_patches(functions, lanes, dy.itemsize, numbers[0], dw[k].ctypes.data, rows, a, batch, offsets.ctypes.data,
                     scales.ctypes.data, count)  # fmt: skip


@jit(inner=True)
def _add_input_gradient(functions, lanes, dx, w, winner, dy, numbers, batch, rows, patches, counts, offsets, scales):
    """Add one image's part to dx, an address: for each window tap, the filters of the channels that won there."""
    (run, taps, _, _, _, _, _, _, _, _, jump_d, jump_h, jump_w, _) = to_fixed_tuple(numbers, 14)
    O, P, Q, K = dy.shape
    size = dy.itemsize
    for o in range(O):
        for p in range(P):
            for q in range(Q):
                _list_by_tap(winner[o, p, q], dy[o, p, q], w.shape[1], counts, offsets, scales)
                window = o * jump_d + p * jump_h + q * jump_w
                for tap in range(taps):
                    if counts[tap] > 0:
                        _add_patches(functions, lanes, size, run, dx + size * (window + patches[tap]), batch,
                                     w.ctypes.data, rows, offsets.ctypes.data + 8 * tap * K,
                                     scales.ctypes.data + size * tap * K, counts[tap])  # fmt: skip


@jit(inner=True)
def _crop(buffer, numbers, dx, n):
    """Copy the pixels of a padded image gradient that lie inside dx[n]; pixels that no window reaches are zero."""
    (_, _, start_d, start_h, start_w, region_d, region_h, region_w, pitch_d, pitch_h, _, _, _, _) = to_fixed_tuple(
        numbers, 14
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
def _gradient_chunk(
    chunk,
    thread,
    chunks,
    functions,
    lanes,
    x,
    w,
    dy,
    winner,
    numbers,
    batch,
    rows,
    patches,
    image,
    buffers,
    counts,
    offsets,
    scales,
    dx,
    partial_w,
    partial_b,
):
    """Sum one chunk of images into its own dw and db, and fill their dx."""
    N, D, H, W, C = x.shape
    padded, size = numbers[13] != 0, x.itemsize
    buffer, dw, db = buffers[thread], partial_w[chunk], partial_b[chunk]
    dw[:] = 0
    db[:] = 0
    for n in range(chunk * N // chunks, (chunk + 1) * N // chunks):
        a = source_address(x, n, numbers, buffer)
        target = 0
        if dx.size > 0:
            if padded:
                target = buffer.ctypes.data + size * image
                zero_bytes(target, size * image)
            else:
                zero_bytes(dx.ctypes.data + size * n * D * H * W * C, size * D * H * W * C)
                target = dx.ctypes.data + (a - x.ctypes.data)
        _add_weight_gradient(functions, lanes, a, winner[n], dy[n], numbers, batch, rows, patches, offsets[thread],
                             scales[thread], dw, db)  # fmt: skip
        if target != 0:
            _add_input_gradient(functions, lanes, target, w, winner[n], dy[n], numbers, batch, rows, patches,
                                counts[thread], offsets[thread], scales[thread])  # fmt: skip
            if padded:
                _crop(target, numbers, dx, n)


@jit
def _backward(team, chunks, functions, lanes, x, w, dy, winner, numbers, batch, rows, patches, image, buffers,
              counts, offsets, scales, dx, partial_w, partial_b):  # fmt: skip
    share(team, chunks, _gradient_chunk, (chunks, functions, lanes, x, w, dy, winner, numbers, batch, rows, patches,
                                          image, buffers, counts, offsets, scales, dx, partial_w,
                                          partial_b))  # fmt: skip


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
    x: np.ndarray, w: np.ndarray, dy: np.ndarray, winner: np.ndarray, stride: Triple, padding: Padding,
    dilation: Triple, window: Triple, dx: np.ndarray | None, dw: np.ndarray, db: np.ndarray | None,
) -> None:  # fmt: skip
    """Fill dw and (where they are given) db and dx from dy, visiting only the outputs that `winner` names."""
    code = tiles(x.dtype)
    if dy.size == 0:
        for gradient in (dx, dw, db):
            if gradient is not None:
                gradient.fill(0)
        return
    if dx is None and planes.suits_backward(x.shape, dy.shape, w.shape[:3], window, x.itemsize):
        planes.backward_weight(x, dy, winner, stride, padding, dilation, window, dw, db)
        return
    plan = plan_conv_pool(x.shape, dy.shape, w.shape[:3], stride, padding, dilation, window, code.lanes)
    runs, run, K = plan.batch.size, plan.run, w.shape[4]
    wide = -(-run // code.lanes) * code.lanes
    packed = scratch("weights", K * runs * wide, x.dtype)
    _rows_by_channel(w.reshape(runs, run, K), wide, packed)
    threads = threads_for(plan.parallel)
    held = 2 * plan.image if plan.padded else 0
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    chunks = min(x.shape[0], GRADIENT_CHUNKS)
    partial = scratch("partial", chunks * K * (runs * wide + 1), x.dtype)
    partial_w = partial[: chunks * K * runs * wide].reshape(chunks, K, runs * wide)
    partial_b = partial[partial_w.size : partial_w.size + chunks * K].reshape(chunks, K)
    listed = max(int(np.prod(dy.shape[1:4])) + 1, plan.patches.size * K)
    counts = np.empty((threads, plan.patches.size), np.int64)
    offsets = scratch("offsets", threads * listed, np.dtype(np.int64))[: threads * listed].reshape(threads, listed)
    scales = scratch("scales", threads * listed, x.dtype)[: threads * listed].reshape(threads, listed)
    call_parallel(plan.parallel, _backward, chunks, code.patches, code.lanes, x,
                  packed[: K * runs * wide].reshape(K, runs * wide), dy, winner, plan.numbers, plan.batch,
                  np.arange(runs) * wide, plan.patches, plan.image, buffers, counts, offsets, scales,
                  dx if dx is not None else np.empty((0, 1, 1, 1, 1), x.dtype), partial_w, partial_b)  # fmt: skip
    call_parallel(partial_w.size > SERIAL_SUMS, _add_chunks, partial_w, partial_b, dw.reshape(runs, run, K),
                  db if db is not None else np.empty(K, x.dtype))  # fmt: skip
