"""Convolution of many small groups of channels, depthwise among them: forward, and the gradient by the input.

    x (N, D, H, W, C)   w (T, R, S, gC, K)   y (N, O, P, Q, K)   groups of gC input and gK output channels

Lanes are output channels (`code.py`). A row of outputs is cut into tiles; which columns of the source a tile meets
with which taps is its pattern, and code is made for each pattern: those of the edges simply lack the taps outside of
the image, so that the source is read in place. The gradient by the input differs in its patterns alone: of a strided
convolution, neighbours meet different taps. Tiles of small filters hold several rows of outputs, too: each row that
they meet is passed over where it lies outside of the image.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu.convolution.depthwise.code import (
    Pattern,
    call_products,
    most_outputs,
    period_of,
    products_code,
    sources_of,
)
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.cpu_info import cache_bytes
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import MIN_TASKS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import packed, scratch
from fastcnn.kernels.cpu.simd.epilogue import finish, in_memory, stored
from fastcnn.kernels.cpu.simd.streaming import streams
from fastcnn.kernels.cpu.simd.tile import Tiles
from fastcnn.kernels.cpu.simd.vector import vector_registers
from fastcnn.kernels.problem import ConvProblem, Triple

SOURCE_BYTES = 512 * 1024  # of the rows that a row of outputs meets, in one task's channels
FETCH_BYTES = 16 * 1024 * 1024  # of both arrays: more does not stay in caches, and is fetched ahead
MOST_CHANNELS = 2  # of groups that tiles of several rows are made for: code grows with vectors that differ
BLOCK_VECTORS = 64  # of output channels of a task, at most
FEW_TASKS, FEWEST_VECTORS = 8, 4  # below so many tasks their channels are cut, down to so many vectors
SERIAL_PRODUCTS = 250_000  # below this a second thread costs more to wake than it saves

Met = tuple[tuple[int, int], ...]  # (tap, source pixel) pairs that an output of an axis meets


class Segment(NamedTuple):
    """Tiles of a row that have one pattern, side by side: what each output meets, from the first column met on."""

    outputs: tuple[Met, ...]
    first: int  # output
    column: int  # of the source, that the first tile's pattern counts from
    tiles: int
    step: int  # source columns between tiles


class Lanewise(NamedTuple):
    """Everything the kernel needs, as integers and tables."""

    reduce: int  # channels of a group of the source
    taps: Triple
    rows_block: int  # of outputs, of a task
    rows_blocks: int
    high: int  # rows of outputs of a tile
    span: int  # rows of the source that they meet
    units_block: int  # of a task; a unit is as many vectors of channels as the pattern of lanes is long:
    units: int
    units_blocks: int
    period: int
    unit_in: int  # channels of the source that a unit meets
    fetch: bool  # rows that the next tiles meet are prefetched
    segments: np.ndarray  # (segments, 6): address of the code, first output, column, tiles, columns between, outputs
    depths: np.ndarray  # (outputs of the depth, 1 + 2 * taps): number of taps met, then (tap, source) pairs
    heights: np.ndarray  # the same for the height
    bands: np.ndarray  # (tiles of rows, 3): first source row of the pattern, first and last of those that exist
    table: int  # entries of one task's table of rows
    blocks: int  # of rows, each with tasks for its blocks of channels
    tasks: int
    parallel: bool
    ragged: bool


class Lanes(NamedTuple):
    """How lanes, which are channels of the target, meet the source: what every plan of a pass begins with."""

    reduce: int  # channels of a group of the source
    out: int  # and of the target
    met: tuple[list[Met], list[Met], list[Met]]  # along depth, height and width
    period: int  # vectors of channels in a unit, after which the lanes' pattern begins anew
    units: int
    unit_in: int  # channels of the source that a unit meets
    ragged: bool  # the last unit is cut short


def serves(group_in: int, group_out: int, groups: int, lanes: int) -> bool:
    """Say whether convolutions from groups of `group_in` to groups of `group_out` channels are faster lane by lane.

    A tile's lanes are one group's channels and its loop is one group's: groups of up to a vector and a half, whose
    lanes are shuffled from few vectors in a short pattern, are faster here (measured).
    """
    if groups == 1 or group_out > 4 * lanes:
        return False
    short = period_of(group_out, lanes) <= 5 and sources_of(group_in, group_out, lanes) <= 8
    return group_in == 1 or (short and 2 * group_out <= 3 * lanes)


def _pairs(i: int, taps: int, stride: int, before: int, dilation: int, transposed: bool) -> Met:
    """Return what output i of an axis meets in a source axis without ends."""
    if not transposed:
        return tuple((tap, i * stride - before + tap * dilation) for tap in range(taps))
    places = ((tap, i + before - tap * dilation) for tap in range(taps))
    return tuple((tap, place // stride) for tap, place in places if place % stride == 0)


def meetings(
    outputs: int, taps: int, stride: int, before: int, dilation: int, size: int, transposed: bool
) -> list[Met]:
    """Return what each output of an axis meets in a source axis of `size` pixels.

    >>> meetings(2, 3, 1, 1, 1, 2, False)
    [((1, 0), (2, 1)), ((0, 0), (1, 1))]
    """
    found = [_pairs(i, taps, stride, before, dilation, transposed) for i in range(outputs)]
    return [tuple((tap, place) for tap, place in pairs if 0 <= place < size) for pairs in found]


def bands_of(
    outputs: int, high: int, taps: int, stride: int, before: int, dilation: int, size: int, transposed: bool
) -> tuple[tuple[Met, ...], np.ndarray]:
    """Return what `high` rows of outputs meet, and for each such band the first source row and those that exist.

    Every band meets the same, edges aside: of a transposed stride, `high` is a multiple.
    """
    found = []
    pattern: tuple[Met, ...] = ()
    for p in range(0, outputs, high):
        met = [_pairs(p + i, taps, stride, before, dilation, transposed) for i in range(high)]
        first = min((row for pairs in met for _, row in pairs), default=0)
        pattern = tuple(tuple((tap, row - first) for tap, row in pairs) for pairs in met)
        found.append((first, max(0, -first), size - 1 - first))
    return pattern, np.array(found, np.int64)


def lanes_of(problem: ConvProblem, transposed: bool, lanes: int) -> Lanes:
    """Return how the outputs meet their source; `transposed`: as dx meets dy."""
    (_, _, filters, stride, padding, dilation, groups) = problem
    source, target = problem.ends(transposed)
    reduce, out = source[4] // groups, target[4] // groups
    depths, heights, widths = (
        meetings(target[i + 1], filters[i], stride[i], padding[i][0], dilation[i], source[i + 1], transposed)
        for i in range(3)
    )
    period = period_of(out, lanes)
    wide = period * lanes
    return Lanes(reduce, out, (depths, heights, widths), period, -(-target[4] // wide), wide // out * reduce,
                 target[4] % wide != 0)  # fmt: skip


def segments_of(met: list[Met], most: int, stride: int) -> list[Segment]:
    """Cut a row into tiles of at most about `most` outputs, a multiple of `stride`; those of one pattern together."""
    tile = blocks_of(len(met), most)[0]
    if stride <= most:
        tile = -(-tile // stride) * stride
    segments: list[Segment] = []
    for first in range(0, len(met), tile):
        outputs = met[first : first + tile]
        column = min((place for pairs in outputs for _, place in pairs), default=0)
        pattern = tuple(tuple((tap, place - column) for tap, place in pairs) for pairs in outputs)
        if segments and segments[-1].outputs == pattern:
            last = segments[-1]
            step = column - last.column if last.tiles == 1 else last.step
            if column == last.column + last.tiles * step:
                segments[-1] = last._replace(tiles=last.tiles + 1, step=step)
                continue
        segments.append(Segment(pattern, first, column, 1, 0))
    return segments


def _tile_shape(
    filters: Triple, stride: int, reduce: int, out: int, transposed: bool, target: tuple[int, ...], large: bool
) -> tuple[int, int]:
    """Return how many rows of outputs, and outputs side by side, a tile should hold at most.

    What is loaded counts: pixels stand apart by all channels, often a power of two, so that few sets of L1 hold them
    and most lines come from L2. Tiles of several rows meet fewer, and the weights once (measured: 4 by 4 outputs of 3x3
    filters and 2 by 8 of 5x5 up to 1.5 times as fast as a row of 4). Strided over `large` arrays, that caches do
    not keep, one row of outputs is as fast or faster: memory is read along few rows at once.
    """
    taps, (_, registers) = filters[1] * filters[2], vector_registers()
    rows, width, wide = 1, 1, most_outputs(filters[2])
    if reduce == out == 1 and not (transposed and stride > 1):
        wide = 4 if filters[0] * taps <= 9 and target[3] > 8 else min(8, wide)
    if max(reduce, out) <= MOST_CHANNELS:
        if taps <= 9:
            rows, width = (4 if registers == 32 else 2), 4
        elif taps <= 25 and registers == 32:
            rows, width = 2, 8
    rows = rows // stride * stride if transposed else min(rows, max(2, rows // stride))
    if rows < 2 or target[2] == 1 or (large and stride > 1 and not transposed):
        return 1, wide
    rows = blocks_of(target[2], rows)[0]
    return -(-rows // stride) * stride if transposed else rows, width


def _table(met: list[Met], taps: int) -> np.ndarray:
    """Return what outputs meet as one array: the last source pixel first, which is the one not met before."""
    table = np.zeros((len(met), 1 + 2 * taps), np.int64)
    for i, pairs in enumerate(met):
        table[i, 0] = len(pairs)
        table[i, 1 : 1 + 2 * len(pairs)] = np.array(sorted(pairs, key=lambda pair: -pair[1]), np.int64).ravel()
    return table


@lru_cache(maxsize=1024)
def plan_lanewise(problem: ConvProblem, transposed: bool, lanes: int, dtype: np.dtype) -> Lanewise:
    """Plan the sweep from x into y; `transposed`: from dy into dx."""
    (_, _, filters, stride, padding, dilation, _) = problem
    source, target = problem.ends(transposed)
    reduce, out, (depths, heights, widths), period, units, unit_in, ragged = lanes_of(problem, transposed, lanes)
    both = int(np.prod(source) + np.prod(target)) * dtype.itemsize
    high, most = _tile_shape(filters, stride[1], reduce, out, transposed, target, both > FETCH_BYTES)
    pattern, bands = bands_of(target[2], high, filters[1], stride[1], padding[1][0], dilation[1], source[2], transposed)
    by_row = pattern if high > 1 else ()
    segments = [
        (products_code(Pattern(s.outputs, reduce, out, ragged, by_row), dtype), s.first, s.column, s.tiles, s.step,
         len(s.outputs))
        for s in segments_of(widths, most, stride[2] if transposed else 1)
    ]  # fmt: skip
    meeting = min(source[2], (filters[1] - 1) * dilation[1] + 1)
    fitting = SOURCE_BYTES // (meeting * source[3] * unit_in * dtype.itemsize)
    held = blocks_of(units, max(1, min(fitting, BLOCK_VECTORS // period)))[0]
    images, rows = source[0] * target[1] * -(-units // held), target[2]
    while images * -(-target[2] // rows) < MIN_TASKS and rows >= 4 * high:
        rows = blocks_of(-(-rows // 2), high)[1] * high
    rows_blocks = -(-target[2] // rows)
    if images * rows_blocks < FEW_TASKS:  # few images of few rows: vectors of channels are what is left to share
        parts = -(-units // held) * -(-FEW_TASKS // (images * rows_blocks))
        held = blocks_of(units, max(min(held, FEWEST_VECTORS), -(-units // parts)))[0]
        images = source[0] * target[1] * -(-units // held)
    products = min(np.prod(source), np.prod(target)) * np.prod(filters) * max(reduce, out)
    return Lanewise(
        reduce=reduce,
        taps=filters,
        rows_block=rows,
        rows_blocks=rows_blocks,
        high=high,
        span=1 + max((row for pairs in pattern for _, row in pairs), default=0),
        units_block=held,
        units=units,
        units_blocks=-(-units // held),
        period=period,
        unit_in=unit_in,
        fetch=both > FETCH_BYTES,
        segments=np.array(segments, np.int64),
        depths=_table(depths, filters[0]),
        heights=_table(heights, filters[1]),
        bands=bands,
        table=2 * filters[0] * filters[1] * reduce,
        blocks=source[0] * target[1] * rows_blocks,
        tasks=images * rows_blocks,
        parallel=int(products) > SERIAL_PRODUCTS,
        ragged=ragged,
    )


@jit
def _pack(w, reduce, taps_w, transposed, lanes, packed):
    """Fill packed (vectors of output channels, rows of taps, reduced channels, taps of a row, lanes).

    w (rows of taps * taps of a row, C / groups, K); lanes past the last channel may hold anything.
    """
    taps, C, K = w.shape
    vector = taps * reduce * lanes
    for tap in range(taps):
        for j in range(reduce):
            at = ((tap // taps_w * reduce + j) * taps_w + tap % taps_w) * lanes
            if transposed and (C > 1 or reduce > 1):
                lane = 0
                for k in range(j, K, reduce):
                    for c in range(C):
                        packed[at + lane] = w[tap, c, k]
                        lane += 1
                        if lane == lanes:
                            at, lane = at + vector, 0
            else:
                for k in range(0, K, lanes):
                    for lane in range(min(lanes, K - k)):
                        packed[at + k // lanes * vector + lane] = w[tap, j, k + lane]


@jit(inner=True, inline=True)
def _list_rows(plan, w_row, o, p, H, pitch, rows_met):
    """List the rows of the source, `pitch` apart, that a row of outputs meets: offsets there, and of their taps.

    Of tiles of several rows: the first row and tap. Return how many there are.
    """
    met, (row, _, _) = 0, to_fixed_tuple(plan.bands[p // plan.high], 3)
    depths, heights, high = plan.depths, plan.heights, plan.high
    for a in range(depths[o, 0]):
        for b in range(heights[p, 0] if high == 1 else 1):
            r, tap = (heights[p, 2 + 2 * b], heights[p, 1 + 2 * b]) if high == 1 else (row, 0)
            place = (depths[o, 2 + 2 * a] * H + r) * pitch
            filter_row = (depths[o, 1 + 2 * a] * plan.taps[1] + tap) * plan.reduce
            for j in range(plan.reduce):
                rows_met[2 * met], rows_met[2 * met + 1] = place + j, (filter_row + j) * w_row
                met += 1
    return met


@jit(inner=True, inline=True)
def _ahead(plan, o, p, end, H, pitch):
    """Return the offset and the number of the rows that the next band meets and this one does not.

    They are as many as the bands advance, at most.
    """
    if not plan.fetch or p + plan.high >= end or plan.depths[o, 0] == 0:
        return np.int64(0), np.int64(0)
    row, after = plan.bands[p // plan.high, 0], plan.bands[p // plan.high + 1, 0]
    begin = max(row + plan.span, after)
    return (plan.depths[o, 2] * H + begin) * pitch, min(after + plan.span, H) - begin


@jit(inner=True)
def _task(task, thread, lanes, plan, source, packed, bias, epilogue, tables, target):
    """Compute one block of output rows, for one block of channels."""
    (_, D, H, W, C), (_, O, P, Q, K), segments, period = source.shape, target.shape, plan.segments, plan.period
    rows_met = tables[thread]
    # Addresses are taken once: a look at an array in the loops would count its references.
    x, y, weights, biases, table, size = (
        source.ctypes.data, target.ctypes.data, packed.ctypes.data, bias.ctypes.data, rows_met.ctypes.data,
        source.itemsize,
    )  # fmt: skip
    unit, rest = task % plan.units_blocks * plan.units_block, task // plan.units_blocks
    p0, rest = rest % plan.rows_blocks * plan.rows_block, rest // plan.rows_blocks
    o, n = rest % O, rest // O
    held, vector = min(plan.units_block, plan.units - unit), unit * period
    biases += size * bias.shape[1] * min(task // plan.units_blocks, bias.shape[0] - 1)
    w_row = plan.taps[2] * lanes
    w_vector = plan.taps[0] * plan.taps[1] * plan.reduce * w_row
    end = min(p0 + plan.rows_block, P)
    for p in range(p0, end, plan.high):
        met = _list_rows(plan, w_row, o, p, H, W * C, rows_met)
        ahead, ahead_rows = _ahead(plan, o, p, end, H, W * C)
        _, first_row, last_row = to_fixed_tuple(plan.bands[p // plan.high], 3)
        for s in range(segments.shape[0]):
            call_products(
                segments[s, 0], x + size * ((n * D * H * W + segments[s, 2]) * C + unit * plan.unit_in), C,
                segments[s, 4] * C, table, met, weights + size * vector * w_vector, w_vector,
                y + size * ((((n * O + o) * P + p) * Q + segments[s, 1]) * K + vector * lanes), K, segments[s, 5] * K,
                biases + size * vector * lanes, K - vector * lanes, held, segments[s, 3], epilogue, ahead, ahead_rows,
                W * C, plan.reduce * w_row, Q * K, first_row, last_row, end - p,
            )  # fmt: skip
        first = vector * lanes
        finish(epilogue, y + size * (((n * O + o) * P + p) * Q * K + first), min(plan.high, end - p), Q * K, Q, K,
               min(held * period * lanes, K - first), size)  # fmt: skip


@jit
def _tasks(team, lanes, plan, source, packed, bias, epilogue, tables, target):
    share(team, plan.tasks, _task, (lanes, plan, source, packed, bias, epilogue, tables, target))


def lanewise(
    tiles: Tiles, source: np.ndarray, w: np.ndarray, bias: np.ndarray | None, problem: ConvProblem, transposed: bool,
    epilogue: int, target: np.ndarray,
) -> None:  # fmt: skip
    """Fill target with the convolution of source by w; with `transposed`, source is dy and target is dx.

    Where the epilogue measures, `bias` (blocks, pitch) holds a record (`statistics_code.py`) for every block.
    """
    dtype, K, lanes = source.dtype, target.shape[4], tiles.lanes
    plan = plan_lanewise(problem, transposed, lanes, dtype)
    reduce = source.shape[4] // problem.groups
    vectors = packed("weights", w, -(-K // lanes) * lanes * w[..., 0, 0].size * reduce, dtype)
    call_serial(_pack, w.reshape(-1, w.shape[3], w.shape[4]), reduce, w.shape[2], transposed, lanes, vectors, packs=w)
    add = np.zeros((1, K), dtype) if bias is None else bias.reshape(-1, bias.shape[-1])
    # Vectors align where channels fill them.
    past = not plan.ragged and source.nbytes + target.nbytes > cache_bytes().L3 and streams(target, lanes=lanes)
    epilogue = stored(in_memory(epilogue), past)
    threads = threads_for(plan.parallel)
    tables = scratch("rows", threads * plan.table, np.dtype(np.int64))[: threads * plan.table]
    call_parallel(plan.parallel, _tasks, lanes, plan, source, vectors, add, epilogue,
                  tables.reshape(threads, plan.table), target)  # fmt: skip
