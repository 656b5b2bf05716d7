"""Convolution of many small groups of channels, depthwise among them: forward, and the gradient by the input.

    x (N, D, H, W, C)   w (T, R, S, gC, K)   y (N, O, P, Q, K)   groups of gC input and gK output channels

Lanes are output channels (`lanewise.py`). A task takes a block of output rows, columns and channels down the image: the
source rows that a row of outputs meets are spread into a ring of rows, padded by zeros, that stays in L1, so that each
row is read from memory once; then every vector of channels multiplies and adds in registers. The gradient by
the input is the same with turned filters; of a strided convolution all phases are written in one such sweep.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numba
import numpy as np
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.geometry import (
    MIN_TASKS,
    SERIAL_FLOPS,
    Axis,
    Padding,
    Triple,
    blocks_of,
    forward_axis,
    input_gradient_axes,
)
from fastcnn.kernels.cpu.lanewise import (
    MAX_PIXELS,
    call_products,
    call_spread,
    product_code,
    spread_code,
    spread_period,
)
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.tile import zero_bytes
from fastcnn.kernels.cpu.workspace import scratch

RING_BYTES = 28 * 1024  # of spread source rows, which share a 48 KiB L1 with weights and output
LEAST_COLUMNS = 24  # of a block: fewer would read much of the source twice
BLOCK_VECTORS = 4  # of output channels: what is read and written lies 256 bytes together
MAX_GROUP = 16  # channels of a group; the register tile serves larger ones


class Lanewise(NamedTuple):
    """Everything the kernel needs, as integers and tables of offsets in elements."""

    numbers: np.ndarray  # in the order of NUMBERS
    phases: np.ndarray  # (phases, numbers in the order of PHASE_NUMBERS, then the offsets of its rows of taps)
    depths: np.ndarray  # offsets of the taps along the depth
    offsets: np.ndarray  # (places of the ring, taps of all phases): offsets in the ring
    taps: np.ndarray  # filter taps of all phases in that order, each standing for `reduce` of the offsets
    scratch: int  # elements of one task's ring
    tasks: int
    parallel: bool


NUMBERS = (
    "reduce start_d start_h start_w step_d step_h step_w out_start_d out_step_d out_step_h out_step_w count_d count_h "
    "count_w extent_h wide rows_block rows_blocks columns_block columns_blocks period blocks_block blocks blocks_blocks "
    "source_block phases"
).split()
PHASE_NUMBERS = "out_start_h out_start_w count_h count_w first taps rows".split()


def serves(group_in: int, group_out: int, groups: int, lanes: int) -> bool:
    """Say whether convolutions from groups of `group_in` to groups of `group_out` channels are faster lane by lane."""
    return groups > 1 and group_in <= MAX_GROUP and group_out <= MAX_GROUP and (group_in == 1 or group_out < lanes)


def _span(axes: Sequence[Axis]) -> tuple[int, int]:
    """Return the start and the extent of the source pixels that the first outputs of all phases meet."""
    met = [axis for axis in axes if axis.taps]
    start = min((axis.start for axis in met), default=0)
    return start, max((axis.start - start + axis.extent for axis in met), default=1)


def columns_and_blocks(
    outputs: int, step: int, extent: int, blocks: int, column_bytes: int, limit: int, most: int
) -> tuple[int, int]:
    """Return (columns, blocks of channels) of one task, whose source columns of `column_bytes` a block fit `limit`."""
    held = min(blocks, most)
    while True:
        fitting = (limit // (column_bytes * held) - extent) // step + 1
        if fitting >= min(outputs, LEAST_COLUMNS) or held == 1:
            break
        held = -(-held // 2)
    columns = blocks_of(outputs, max(fitting, min(outputs, LEAST_COLUMNS)))[0]
    return columns, blocks_of(blocks, held)[0]


def _make(
    source: tuple[int, ...], target: tuple[int, ...], filters: Triple, depth: Axis, heights: Sequence[Axis],
    widths: Sequence[Axis], reduce: int, out: int, lanes: int, itemsize: int,
) -> Lanewise:  # fmt: skip
    """Plan the sweep that fills all phases of one depth phase."""
    N, K = source[0], target[4]
    (start_h, extent_h), (start_w, extent_w) = _span(heights), _span(widths)
    step_h, step_w = heights[0].step, widths[0].step
    count_h, count_w = (max(axis.outputs for axis in axes) for axes in (heights, widths))
    period = spread_period(out, lanes)
    blocks = -(-K // (period * lanes))
    column_bytes = max(1, len(depth.taps)) * extent_h * period * reduce * lanes * itemsize
    columns, held = columns_and_blocks(
        count_w, step_w, extent_w, blocks, column_bytes, RING_BYTES, -(-BLOCK_VECTORS // period)
    )
    columns_blocks, blocks_blocks = -(-count_w // columns), -(-blocks // held)
    bands = N * depth.outputs * columns_blocks * blocks_blocks
    rows = count_h
    while bands * -(-count_h // rows) < MIN_TASKS and -(-rows // 2) * step_h >= 2 * extent_h:
        rows = -(-rows // 2)
    wide = (columns - 1) * step_w + extent_w
    pixel, row_pitch = reduce * lanes, wide * reduce * lanes
    phases, offsets, taps = [], [], []
    for height, width in product(heights, widths):
        met = list(product(range(len(depth.taps)), range(len(height.taps)), range(len(width.taps)), range(reduce)))
        row_offsets = [height.start - start_h + offset for offset in height.offsets[: len(height.taps)]]
        column_offsets = [(width.start - start_w + offset) * pixel for offset in width.offsets[: len(width.taps)]]
        phases.append([height.out_start, width.out_start, height.outputs, width.outputs, len(offsets), len(met),
                       len(row_offsets), *row_offsets])  # fmt: skip
        offsets += [(t * extent_h, row_offsets[r], column_offsets[s] + j * lanes) for t, r, s, j in met]
        taps += [
            (depth.taps[t] * filters[1] + height.taps[r]) * filters[2] + width.taps[s] for t, r, s, j in met if j == 0
        ]
    table = np.array(offsets, np.int64).reshape(-1, 3)
    places = (table[:, 1] + np.arange(extent_h)[:, None]) % extent_h
    values = dict(
        reduce=reduce, start_d=depth.start, start_h=start_h, start_w=start_w, step_d=depth.step, step_h=step_h,
        step_w=step_w, out_start_d=depth.out_start, out_step_d=depth.out_step, out_step_h=heights[0].out_step,
        out_step_w=widths[0].out_step, count_d=depth.outputs, count_h=count_h, count_w=count_w, extent_h=extent_h,
        wide=wide, rows_block=rows, rows_blocks=-(-count_h // rows), columns_block=columns,
        columns_blocks=columns_blocks, period=period, blocks_block=held, blocks=blocks, blocks_blocks=blocks_blocks,
        source_block=period * lanes // out * reduce, phases=len(phases),
    )  # fmt: skip
    longest = max(len(phase) for phase in phases)
    flops = 2 * int(np.prod(target)) * reduce * max(1, len(depth.taps) * len(heights[0].taps) * len(widths[0].taps))
    return Lanewise(
        np.array([values[name] for name in NUMBERS], np.int64),
        np.array([phase + [0] * (longest - len(phase)) for phase in phases], np.int64),
        np.array(depth.offsets[: len(depth.taps)], np.int64),
        (table[:, 0] + places) * row_pitch + table[:, 2],
        np.array(taps, np.int64),
        max(1, len(depth.taps)) * extent_h * held * period * row_pitch,
        bands * values["rows_blocks"],
        flops > SERIAL_FLOPS,
    )


@lru_cache(maxsize=1024)
def plan_forward(
    source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, lanes: int, itemsize: int,
) -> tuple[Lanewise, ...]:  # fmt: skip
    """Return the plan of a forward pass from x of shape `source` into y of shape `target`."""
    axes = [forward_axis(filters[i], stride[i], padding[i][0], dilation[i], target[i + 1]) for i in range(3)]
    reduce, out = source[4] // groups, target[4] // groups
    return (_make(source, target, filters, axes[0], axes[1:2], axes[2:], reduce, out, lanes, itemsize),)


@lru_cache(maxsize=1024)
def plan_input_gradient(
    source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, lanes: int, itemsize: int,
) -> tuple[Lanewise, ...]:  # fmt: skip
    """Return the plans of the gradient from dy of shape `source` into dx of shape `target`, one a depth phase."""
    depths, heights, widths = (
        input_gradient_axes(filters[i], stride[i], padding[i][0], dilation[i], target[i + 1]) for i in range(3)
    )
    reduce, out = source[4] // groups, target[4] // groups
    return tuple(
        _make(source, target, filters, depth, heights, widths, reduce, out, lanes, itemsize) for depth in depths
    )


@jit
def _pack(w, taps, phases, reduce, out, transposed, lanes, packed):
    """Fill packed (phases, vectors of output channels, taps, lanes) from w (taps, C / groups, K); lanes past K any."""
    C, K = w.shape[1], w.shape[2]
    groups = K // (reduce if transposed else out)
    vectors = (groups * out + lanes - 1) // lanes
    for phase in range(phases.shape[0]):
        first, count = phases[phase, 4], phases[phase, 5]
        for i in range(count // reduce):
            tap = taps[first // reduce + i]
            for j in range(reduce):
                at = first * vectors * lanes + (i * reduce + j) * lanes
                if transposed:
                    for c in range(groups * C):
                        place = at + c // lanes * count * lanes + c % lanes
                        packed[place] = w[tap, c % C, c // C * reduce + j]
                else:
                    for v in range(vectors):
                        for lane in range(min(lanes, K - v * lanes)):
                            packed[at + v * count * lanes + lane] = w[tap, j, v * lanes + lane]


@jit(inner=True)
def fill_row(spread, source, n, d, h, w0, columns, channel, blocks, reduce, lanes, vectors, vector_pitch, target):
    """Spread a row of `columns` source pixels from column w0 on to the address target; pixels outside become zero."""
    _, D, H, W, C = source.shape
    size, pixel = source.itemsize, reduce * lanes
    first, last = min(max(0, -w0), columns), max(0, min(columns, W - w0))
    inside = 0 <= d < D and 0 <= h < H and first < last
    if not inside:
        first, last = columns, columns
    for v in range(vectors if last - first < columns else 0):
        row = target + size * v * vector_pitch
        zero_bytes(row, size * first * pixel)
        zero_bytes(row + size * last * pixel, size * (columns - last) * pixel)
    if inside:
        place = (((n * D + d) * H + h) * W + w0 + first) * C + channel
        call_spread(spread, source.ctypes.data + size * place, C, last - first, target + size * first * pixel,
                    vector_pitch, C - channel, blocks)  # fmt: skip


@jit(inner=True)
def _products_row(code, x, x_step, offsets, taps, w, y, y_step, bias, tail, relu, columns, size):
    """Compute a row of outputs, as many at once as accumulators are held in registers."""
    needed = (columns + MAX_PIXELS - 1) // MAX_PIXELS
    for i in range(needed):
        q, after = columns * i // needed, columns * (i + 1) // needed
        call_products(code[0, after - q], x + size * q * x_step, x_step, offsets, taps, w, y + size * q * y_step,
                      y_step, bias, tail, relu)  # fmt: skip


@jit(inner=True)
def _task(task, spread, code, lanes, source, packed, bias, relu, numbers, phases, depths, offsets, ring, target):
    """Take one block of rows, columns and channels down the image."""
    (reduce, start_d, start_h, start_w, step_d, step_h, step_w, out_start_d, out_step_d, out_step_h, out_step_w,
     count_d, count_h, count_w, extent_h, wide, rows_block, rows_blocks, columns_block, columns_blocks, period,
     blocks_block, blocks, blocks_blocks, source_block, _,
     ) = to_fixed_tuple(numbers, 26)  # fmt: skip
    H, (_, O, P, Q, K) = source.shape[2], target.shape
    size = source.itemsize
    block, rest = task % blocks_blocks * blocks_block, task // blocks_blocks
    q0, rest = rest % columns_blocks * columns_block, rest // columns_blocks
    p0, rest = rest % rows_blocks * rows_block, rest // rows_blocks
    o, n = rest % count_d, rest // count_d
    held, columns = min(blocks_block, blocks - block), min(columns_block, count_w - q0)
    vectors, all_vectors = held * period, (K + lanes - 1) // lanes
    row_pitch = wide * reduce * lanes
    vector_pitch = max(1, depths.size) * extent_h * row_pitch
    x_step = step_w * reduce * lanes
    h0, filled = start_h + p0 * step_h, 0
    for p in range(p0, min(p0 + rows_block, count_h)):
        top = (p - p0) * step_h
        for row in range(max(filled, top), top + extent_h):
            for t in range(depths.size):
                if depths.size > 1 or 0 <= h0 + row < H:
                    fill_row(spread, source, n, start_d + o * step_d + depths[t], h0 + row, start_w + q0 * step_w,
                             (columns - 1) * step_w + wide - (columns_block - 1) * step_w, block * source_block, held,
                             reduce, lanes, vectors, vector_pitch,
                             ring.ctypes.data + size * (t * extent_h + row % extent_h) * row_pitch)  # fmt: skip
        filled = top + extent_h
        for phase in range(phases.shape[0]):
            out_h, out_w, phase_h, phase_w, first, taps, tap_rows = to_fixed_tuple(phases[phase], 7)
            if p >= phase_h:
                continue
            begin, end = 0, tap_rows
            if depths.size == 1:  # rows of taps outside the image are left out
                while begin < end and h0 + top + phases[phase, 7 + begin] < 0:
                    begin += 1
                while end > begin and h0 + top + phases[phase, 6 + end] >= H:
                    end -= 1
            skipped = begin * taps // max(1, tap_rows)
            met = taps - skipped - (tap_rows - end) * taps // max(1, tap_rows)
            pixel = (n * O + out_start_d + o * out_step_d) * P + out_h + p * out_step_h
            place = (pixel * Q + out_w + q0 * out_step_w) * K
            for v in range(vectors):
                vector = block * period + v
                if vector < all_vectors:
                    _products_row(
                        code, ring.ctypes.data + size * v * vector_pitch, x_step,
                        offsets.ctypes.data + 8 * (top % extent_h * offsets.shape[1] + first + skipped), met,
                        packed.ctypes.data + size * (first * all_vectors + vector * taps + skipped) * lanes,
                        target.ctypes.data + size * (place + vector * lanes), out_step_w * K,
                        bias.ctypes.data + size * vector * lanes, min(lanes, K - vector * lanes), relu,
                        min(columns, phase_w - q0), size,
                    )  # fmt: skip


@jit(parallel=True)
def _tasks(tasks, spread, code, lanes, source, packed, bias, relu, numbers, phases, depths, offsets, rings, target):
    for i in prange(tasks):
        _task(np.int64(i), spread, code, lanes, source, packed, bias, relu, numbers, phases, depths, offsets,
              rings[numba.get_thread_id()], target)  # fmt: skip


def lanewise(
    source: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plans: tuple[Lanewise, ...], lanes: int,
    transposed: bool, relu: bool, target: np.ndarray,
) -> None:  # fmt: skip
    """Run planned sweeps of source through the filter w (or its transpose) into target."""
    dtype, K = source.dtype, target.shape[4]
    flat, reduce = w.reshape(-1, w.shape[3], w.shape[4]), int(plans[0].numbers[0])
    out = K * reduce // source.shape[4]
    add = np.zeros(K, dtype) if bias is None else bias
    threads = numba.get_num_threads()
    for plan in plans:
        packed = scratch("weights", -(-K // lanes) * lanes * plan.offsets.shape[1], dtype)
        _pack(flat, plan.taps, plan.phases, reduce, out, transposed, lanes, packed)
        rings = scratch("source", threads * plan.scratch, dtype)[: threads * plan.scratch]
        call_parallel(plan.parallel, _tasks, plan.tasks, spread_code(dtype, reduce, out), product_code(dtype), lanes,
                      source, packed, add, relu, plan.numbers, plan.phases, plan.depths, plan.offsets,
                      rings.reshape(threads, plan.scratch), target)  # fmt: skip
