"""The gradient of a convolution of many small groups by its weights: products of x and dy lane by lane, summed.

    dw[t, r, s, j, k] = sum over n, o, p, q of x[n, o * stride + t * dilation - before, ..., j of k's group] * dy[..., k]

A task takes one block of channels through a chunk of all blocks of pixels: the x that a block meets is spread, padded by
zeros, into L2; then the sums of as many taps as registers hold run over its pixels. The blocks are dealt into chunks by
the shape alone and the chunks' sums added in order: the same bits for any number of threads.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numba
import numpy as np
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.depthwise import BLOCK_VECTORS, columns_and_blocks, fill_row
from fastcnn.kernels.cpu.geometry import MIN_TASKS, SERIAL_FLOPS, Padding, Triple, blocks_of, forward_axis
from fastcnn.kernels.cpu.lanewise import MAX_TAPS, call_gradients, product_code, spread_code, spread_period
from fastcnn.kernels.cpu.reduce import sum_panels
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.tile import zero_bytes
from fastcnn.kernels.cpu.workspace import scratch

BLOCK_BYTES = 192 * 1024  # of a task's spread source


class LanewiseGradient(NamedTuple):
    """Everything the kernel needs, as integers and tables of offsets in elements."""

    numbers: np.ndarray  # in the order of NUMBERS
    depths: np.ndarray  # offsets of the taps along the depth
    offsets: np.ndarray  # of the taps in the spread source
    scratch: int  # elements of one task's spread source
    chunks: int
    tasks: int
    parallel: bool


NUMBERS = (
    "reduce start_d start_h start_w step_d step_h step_w extent_h extent_w wide rows_block rows_blocks columns_block "
    "columns_blocks period blocks_block blocks blocks_blocks source_block chunks vector_pitch"
).split()


@lru_cache(maxsize=1024)
def plan_gradient(
    source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, lanes: int, itemsize: int,
) -> LanewiseGradient:  # fmt: skip
    """Plan the gradient by weights from x of shape `source` and dy of shape `target`."""
    N, K, reduce = source[0], target[4], source[4] // groups
    axes = [forward_axis(filters[i], stride[i], padding[i][0], dilation[i], target[i + 1]) for i in range(3)]
    depth, height, width = axes
    out = K // groups
    period = spread_period(out, lanes)
    blocks = -(-K // (period * lanes))
    column_bytes = filters[0] * period * reduce * lanes * itemsize
    columns, held = columns_and_blocks(
        width.outputs, width.step, width.extent, blocks, column_bytes * height.extent, BLOCK_BYTES // 2,
        -(-BLOCK_VECTORS // period),
    )  # fmt: skip
    wide = (columns - 1) * width.step + width.extent
    fitting = (BLOCK_BYTES // (column_bytes * wide * held) - height.extent) // height.step + 1
    rows = blocks_of(height.outputs, max(1, fitting))[0]
    high, pixel = (rows - 1) * height.step + height.extent, reduce * lanes
    rows_blocks, columns_blocks = -(-height.outputs // rows), -(-width.outputs // columns)
    blocks_blocks = -(-blocks // held)
    chunks = min(N * depth.outputs * rows_blocks * columns_blocks, -(-MIN_TASKS // blocks_blocks))
    vector_pitch = filters[0] * high * wide * pixel
    places = product(range(filters[0]), height.offsets, width.offsets, range(reduce))
    values = dict(
        reduce=reduce, start_d=depth.start, start_h=height.start, start_w=width.start, step_d=depth.step,
        step_h=height.step, step_w=width.step, extent_h=height.extent, extent_w=width.extent, wide=wide,
        rows_block=rows, rows_blocks=rows_blocks, columns_block=columns, columns_blocks=columns_blocks, period=period,
        blocks_block=held, blocks=blocks, blocks_blocks=blocks_blocks, source_block=period * lanes // out * reduce,
        chunks=chunks, vector_pitch=vector_pitch,
    )  # fmt: skip
    return LanewiseGradient(
        np.array([values[name] for name in NUMBERS], np.int64),
        np.array(depth.offsets, np.int64),
        np.array([((t * high + h) * wide + w) * pixel + j * lanes for t, h, w, j in places], np.int64),
        held * period * vector_pitch,
        chunks,
        chunks * blocks_blocks,
        2 * int(np.prod(target)) * int(np.prod(filters)) * reduce > SERIAL_FLOPS,
    )


@jit(inner=True)
def _task(task, spread, code, lanes, x, dy, numbers, depths, offsets, buffer, partial):
    """Sum one chunk of blocks for one block of channels into partial (vectors, taps, lanes)."""
    (reduce, start_d, start_h, start_w, step_d, step_h, step_w, extent_h, extent_w, wide, rows_block, rows_blocks,
     columns_block, columns_blocks, period, blocks_block, blocks, blocks_blocks, source_block, chunks, vector_pitch,
     ) = to_fixed_tuple(numbers, 21)  # fmt: skip
    N, O, P, Q, K = dy.shape
    size, taps = x.itemsize, offsets.size
    chunk, block = task // blocks_blocks, task % blocks_blocks * blocks_block
    held = min(blocks_block, blocks - block)
    first, last = block * period, min((block + held) * period, (K + lanes - 1) // lanes)
    needed = (taps + MAX_TAPS - 1) // MAX_TAPS
    zero_bytes(partial[first].ctypes.data, size * (last - first) * taps * lanes)
    areas = N * O * rows_blocks * columns_blocks
    for area in range(chunk * areas // chunks, (chunk + 1) * areas // chunks):
        q, rest = area % columns_blocks * columns_block, area // columns_blocks
        p, rest = rest % rows_blocks * rows_block, rest // rows_blocks
        o, n = rest % O, rest // O
        rows, columns = min(rows_block, P - p), min(columns_block, Q - q)
        high, across = (rows - 1) * step_h + extent_h, (columns - 1) * step_w + extent_w
        pitch_d = vector_pitch // depths.size
        for t in range(depths.size):
            for row in range(high):
                fill_row(spread, x, n, start_d + o * step_d + depths[t], start_h + p * step_h + row,
                         start_w + q * step_w, across, block * source_block, held, reduce, lanes, held * period,
                         vector_pitch, buffer.ctypes.data + size * (t * pitch_d + row * wide * reduce * lanes))  # fmt: skip
        for v in range(first, last):
            place = dy.ctypes.data + size * ((((n * O + o) * P + p) * Q + q) * K + v * lanes)
            for i in range(needed):
                tap, after = taps * i // needed, taps * (i + 1) // needed
                call_gradients(code[1, after - tap], buffer.ctypes.data + size * (v - first) * vector_pitch,
                               step_w * reduce * lanes, step_h * wide * reduce * lanes, offsets.ctypes.data + 8 * tap,
                               place, K, Q * K, columns, rows, min(lanes, K - v * lanes),
                               partial.ctypes.data + size * (v * taps + tap) * lanes)  # fmt: skip


@jit(parallel=True)
def _tasks(tasks, spread, code, lanes, x, dy, numbers, depths, offsets, buffers, partial):
    blocks_blocks = numbers[17]
    for i in prange(tasks):
        task = np.int64(i)
        _task(task, spread, code, lanes, x, dy, numbers, depths, offsets, buffers[numba.get_thread_id()],
              partial[task // blocks_blocks])  # fmt: skip


def lanewise_gradient(
    x: np.ndarray, dy: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, lanes: int,
    dw: np.ndarray,
) -> None:  # fmt: skip
    """Fill dw (T, R, S, C / groups, K) from x (N, D, H, W, C) and dy (N, O, P, Q, K)."""
    plan = plan_gradient(x.shape, dy.shape, dw.shape[:3], stride, padding, dilation, groups, lanes, x.itemsize)
    dtype, vectors, taps = x.dtype, -(-dy.shape[4] // lanes), plan.offsets.size
    threads = numba.get_num_threads()
    buffers = scratch("source", threads * plan.scratch, dtype)[: threads * plan.scratch].reshape(threads, plan.scratch)
    held = plan.chunks * vectors * taps * lanes
    partial = scratch("partial", held, dtype)[:held].reshape(plan.chunks, vectors, taps, lanes)
    spread = spread_code(dtype, dw.shape[3], dy.shape[4] // groups)
    call_parallel(plan.parallel, _tasks, plan.tasks, spread, product_code(dtype), lanes, x, dy, plan.numbers,
                  plan.depths, plan.offsets, buffers, partial)  # fmt: skip
    call_parallel(plan.parallel, sum_panels, partial, vectors, dw.reshape(-1, dw.shape[4]))
