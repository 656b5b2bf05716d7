"""Pooled convolution of images of few channels, with the pooled pixels of a row as lanes.

A filter of one input channel has short rows: beside those, most lanes of the tile and of patches would stay empty.
Here each image is first cut into planes in which the pixels that neighbouring outputs meet stand side by side: of
`step` columns that lie between two pooled pixels, and of each channel, every one has a plane. Then every number of the
filter meets a vector of pooled pixels; the window's maximum is taken in registers.

    x (N, D, H, W, C)   w (T, R, S, C, K)   b (K,)   y, winner, dy (N, O, P, Q, K)

The way back adds all outputs up, those that won and, masked, those that did not: with lanes that are all used it is
faster than visiting the winners alone, of whose patches a row fills a small part of a vector.
"""

from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.pooled.few_channels_code import (
    call_gradient,
    call_products,
    call_split,
    gradient_code,
    most_channels,
    products_code,
    split_code,
)
from fastcnn.kernels.cpu.convolution.pooled.plan import pooled_axes, pooled_shape
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_FLOPS
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.tile import MAX_VECTORS, tile_shape, zero_bytes
from fastcnn.kernels.problem import ConvProblem, Triple

CHUNKS = 32  # groups of images that sum dw by themselves
PATCH_VECTORS = 2.5  # that are multiplied and added in the time that one row of one patch takes (measured)


class PlanesPlan(NamedTuple):
    """One stage, with tables of offsets in elements of the planes."""

    lanes: int
    products: np.ndarray  # addresses of the code, by the number of channels
    split: int  # address of the code that cuts rows into planes
    start: Triple  # of the pixels of x that windows meet: slice, row, column
    region: tuple[int, int]  # slices and rows of these
    columns: int  # of a plane
    parts: int  # planes of a row
    offsets: np.ndarray  # (filter numbers, window taps): from a vector's place to what it meets
    back: np.ndarray  # the same, (window taps, filter numbers)
    places: np.ndarray  # (pooled rows, vectors of a row)
    image: int  # elements of an image's planes, and of a vector behind them
    parallel: bool


@lru_cache(maxsize=256)
def suits_forward(problem: ConvProblem, window: Triple, itemsize: int) -> bool:
    """Say whether the stage is faster so than by tiles."""
    K = problem.y[4]
    lanes, used = _lanes(problem.y[3] // window[2], itemsize)
    panel, possible = MAX_VECTORS * lanes, most_channels(prod(window)) > 0
    return possible and problem.filter[2] * problem.x[4] <= lanes and used > K / (-(-K // panel) * panel)


@lru_cache(maxsize=256)
def suits_backward(problem: ConvProblem, window: Triple, itemsize: int) -> bool:
    """Say whether its gradient by the weights is faster so than by patches."""
    lanes, used = _lanes(problem.y[3] // window[2], itemsize)
    return problem.filter[2] * problem.x[4] * prod(window) <= PATCH_VECTORS * lanes * used


def _lanes(columns: int, itemsize: int) -> tuple[int, float]:
    """Return the lanes of a vector, and the share of them that the columns of a pooled row fill."""
    _, lanes = tile_shape(itemsize)
    return lanes, columns / (-(-columns // lanes) * lanes)


@lru_cache(maxsize=64)
def plan_planes(problem: ConvProblem, window: Triple, dtype: np.dtype) -> PlanesPlan:
    """Plan the stage of a convolution and windows of this size."""
    (source, _, filters, stride, _, dilation, _) = problem
    target, axes = pooled_shape(problem, window), pooled_axes(problem, window)
    _, lanes = tile_shape(dtype.itemsize)
    region = tuple((axis.outputs - 1) * axis.step + axis.extent for axis in axes)
    step = window[2] * stride[2]
    columns = -(-region[2] // step)
    parts = step * source[4]  # of a row: a plane for each column of a step and each channel
    row = parts * columns

    def place(c: int, d: int, h: int, w: int) -> int:
        return (d * region[1] + h) * row + (w % step * source[4] + c) * columns + w // step

    offsets = [
        [
            place(c, *(t * s + r * g for t, s, r, g in zip(tap, stride, taps, dilation, strict=True)))
            for tap in product(*map(range, window))
        ]
        for *taps, c in product(*map(range, filters), range(source[4]))
    ]
    jumps = [window[i] * stride[i] for i in range(2)]
    places = [
        [(o * jumps[0] * region[1] + p * jumps[1]) * row + v for v in range(0, target[3], lanes)]
        for o, p in product(range(target[1]), range(target[2]))
    ]
    flops = 2 * prod(target) * prod(window) * len(offsets)
    table = np.array(offsets, np.int64)
    return PlanesPlan(
        lanes=lanes,
        products=products_code(table.shape[1], dtype),
        split=split_code(parts, dtype),
        start=(axes[0].start, axes[1].start, axes[2].start),
        region=(region[0], region[1]),
        columns=columns,
        parts=parts,
        offsets=table,
        back=np.ascontiguousarray(table.T),
        places=np.array(places, np.int64),
        image=-(-region[0] * region[1] * row // lanes) * lanes + lanes,
        parallel=flops > SERIAL_FLOPS,
    )


@jit(inner=True, inline=True)
def _cut_image(plan, x, n, planes):
    """Fill the planes of one image; what lies outside it is zero."""
    (start_d, start_h, start_w), (region_d, region_h), (_, D, H, W, C) = plan.start, plan.region, x.shape
    size, columns, row = x.itemsize, plan.columns, plan.parts * plan.columns
    zero_bytes(planes.ctypes.data, size * planes.size)
    first, last = max(0, -start_h), min(region_h, H - start_h)
    for d in range(max(0, -start_d), min(region_d, D - start_d)):
        source = (((n * D + d + start_d) * H + first + start_h) * W + start_w) * C
        call_split(plan.split, x.ctypes.data + size * source, W * C, -start_w * C, (W - start_w) * C,
                   planes.ctypes.data + size * (d * region_h + first) * row, columns, row, last - first,
                   (columns + plan.lanes - 1) // plan.lanes)  # fmt: skip


@jit(inner=True)
def _forward_image(n, thread, plan, x, w, bias, buffers, leaders, y, winner):
    K, Q = w.shape[1], y.shape[3]
    code, offsets, places, lanes = plan.products, plan.offsets, plan.places, plan.lanes
    size, (rows, vectors), most = x.itemsize, places.shape, code.size - 1
    planes, z = buffers[thread, : plan.image], buffers[thread, plan.image :]
    own, pitch = leaders[thread], z.size // K
    blocks = (K + most - 1) // most
    _cut_image(plan, x, n, planes)
    rows_y, rows_winner = y.reshape(y.shape[0], rows, Q * K), winner.reshape(y.shape[0], rows, Q * K)
    for i in range(rows):
        for v in range(vectors):
            for block in range(blocks):
                k, after = K * block // blocks, K * (block + 1) // blocks
                call_products(code[after - k], planes.ctypes.data + size * places[i, v], offsets.ctypes.data,
                              offsets.shape[0], w.ctypes.data + size * k, K, bias.ctypes.data + size * k,
                              z.ctypes.data + size * (k * pitch + v * lanes), pitch,
                              own.ctypes.data + k * pitch + v * lanes, pitch)  # fmt: skip
        to, to_winner = rows_y[n, i], rows_winner[n, i]
        for q in range(Q):
            for k in range(K):
                to[np.uintp(q * K + k)] = z[np.uintp(k * pitch + q)]
                to_winner[np.uintp(q * K + k)] = own[np.uintp(k * pitch + q)]


@jit
def _forward(team, plan, x, w, bias, buffers, leaders, y, winner):
    share(team, x.shape[0], _forward_image, (plan, x, w, bias, buffers, leaders, y, winner))


def forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, problem: ConvProblem, window: Triple, y: np.ndarray,
    winner: np.ndarray,
) -> None:  # fmt: skip
    """Fill y and winner as `conv_pool_forward`."""
    plan = plan_planes(problem, window, x.dtype)
    K, threads = w.shape[4], threads_for(plan.parallel)
    row = K * plan.places.shape[1] * plan.lanes
    buffers, leaders = _buffers(threads, plan.image + row, row, x.dtype)
    bias = np.zeros(K, x.dtype) if b is None else b
    call_parallel(plan.parallel, _forward, plan, x, w.reshape(-1, K), bias, buffers, leaders, y, winner)


def _buffers(threads: int, elements: int, winners: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return scratch memory of each thread: planes with what follows them, and winners."""
    buffers = scratch("planes", threads * elements, dtype)[: threads * elements].reshape(threads, elements)
    leaders = scratch("winners", threads * winners, np.dtype(np.uint8))[: threads * winners]
    return buffers, leaders.reshape(threads, winners)


@jit(inner=True)
def _part_channels(dy, winner, rows, pitch, taps, gradients, leaders, db):
    """Fill gradients and leaders (K, rows, pitch) from one image's dy and winner, and add to db (K,)."""
    K = db.size
    Q = dy.size // (rows * K)
    flat_dy, flat_winner = dy.reshape(dy.size), winner.reshape(dy.size)
    for i in range(rows):
        at, to = i * Q * K, i * pitch
        for _ in range(Q):
            for k in range(K):
                g, tap = flat_dy[np.uintp(at + k)], flat_winner[np.uintp(at + k)]
                gradients[np.uintp(to + k * rows * pitch)] = g
                leaders[np.uintp(to + k * rows * pitch)] = tap
                db[np.uintp(k)] += g if tap < taps else 0
            at += K
            to += 1
        for k in range(K):
            for q in range(Q, pitch):
                leaders[np.uintp((k * rows + i) * pitch + q)] = taps


@jit(inner=True)
def _gradient_chunk(chunk, thread, code, plan, x, dy, winner, buffers, leaders, dw, db):
    back, places, lanes = plan.back, plan.places, plan.lanes
    (chunks, K, count), (N, taps), (rows, vectors) = dw.shape, (x.shape[0], back.shape[0]), places.shape
    size, pitch = x.itemsize, vectors * lanes
    planes, gradients, own = buffers[thread, : plan.image], buffers[thread, plan.image :], leaders[thread]
    sums = gradients[K * rows * pitch :]
    number_blocks = (count + code.shape[0] - 2) // (code.shape[0] - 1)
    channel_blocks = (K + code.shape[1] - 2) // (code.shape[1] - 1)
    zero_bytes(sums.ctypes.data, size * sums.size)
    db[chunk][:] = 0
    for n in range(chunk * N // chunks, (chunk + 1) * N // chunks):
        _cut_image(plan, x, n, planes)
        _part_channels(dy[n], winner[n], rows, pitch, taps, gradients, own, db[chunk])
        for channel_block in range(channel_blocks):
            k, after = K * channel_block // channel_blocks, K * (channel_block + 1) // channel_blocks
            for block in range(number_blocks):
                f, last = count * block // number_blocks, count * (block + 1) // number_blocks
                call_gradient(code[last - f, after - k], planes.ctypes.data, back.ctypes.data + 8 * f, count, taps,
                              places.ctypes.data, rows * vectors, gradients.ctypes.data + size * k * rows * pitch,
                              own.ctypes.data + k * rows * pitch, rows * pitch,
                              sums.ctypes.data + size * (k * count + f) * lanes, lanes, count * lanes)  # fmt: skip
    flat = dw[chunk].reshape(K * count)
    for i in range(K * count):
        total = dw.dtype.type(0)
        for lane in range(lanes):
            total += sums[np.uintp(i * lanes + lane)]
        flat[i] = total


@jit
def _join_chunks(partial_w, partial_b, dw, db):
    """Add the chunks' sums in order: dw (numbers, K), db (K,)."""
    chunks, K, count = partial_w.shape
    for chunk in range(1, chunks):
        for k in range(K):
            partial_b[0, k] += partial_b[chunk, k]
            for f in range(count):
                partial_w[0, k, f] += partial_w[chunk, k, f]
    for k in range(K):
        db[k] = partial_b[0, k]
        for f in range(count):
            dw[f, k] = partial_w[0, k, f]


@jit
def _backward(team, code, plan, x, dy, winner, buffers, leaders, partial_w, partial_b, dw, db):
    share(team, partial_w.shape[0], _gradient_chunk, (code, plan, x, dy, winner, buffers, leaders, partial_w,
                                                      partial_b))  # fmt: skip
    _join_chunks(partial_w, partial_b, dw, db)


def backward_weight(
    x: np.ndarray, dy: np.ndarray, winner: np.ndarray, problem: ConvProblem, window: Triple, dw: np.ndarray,
    db: np.ndarray | None,
) -> None:  # fmt: skip
    """Fill dw and (where it is given) db as `conv_pool_backward`."""
    plan = plan_planes(problem, window, x.dtype)
    lanes, K, count, threads = plan.lanes, dw.shape[4], plan.offsets.shape[0], threads_for(plan.parallel)
    pixels, chunks = K * plan.places.size * lanes, min(x.shape[0], CHUNKS)
    held = chunks * K * count
    buffers, leaders = _buffers(threads, plan.image + pixels + K * count * lanes, pixels, x.dtype)
    partial = scratch("partial", held + chunks * K, x.dtype)
    call_parallel(plan.parallel, _backward, gradient_code(x.dtype), plan, x, dy, winner, buffers, leaders,
                  partial[:held].reshape(chunks, K, count), partial[held : held + chunks * K].reshape(chunks, K),
                  dw.reshape(-1, K), db if db is not None else np.empty(K, x.dtype))  # fmt: skip
