"""The gradient of 1x1 filters by weights: a product of two matrices whose rows are the pixels of all images.

    dw[c, k] = sum over pixels m of x[m, c] * dy[m, k]

A tile's rows are channels of x and its lanes those of dy, both read where they lie; dy alone is copied into panels
where its channels do not fill whole vectors or its pixels alias in L1. Where dy has few channels the two change roles,
and a task transposes what it has summed. What a task takes (some rows, some panels of lanes, a chunk of the pixels) is
what a count of cycles finds fastest on few cores and on many. The chunks' sums are added in order: the same bits for
any number of threads.
"""

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.copy_padded import block_start
from fastcnn.kernels.cpu.reduction.pixels import sum_chunks
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import LINE, SERIAL_FLOPS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.streaming import streams
from fastcnn.kernels.cpu.simd.tile import (
    MAX_VECTORS,
    PAST_CACHES,
    Tiles,
    call_copy,
    call_copy_rows,
    call_tile,
    call_transpose,
)
from fastcnn.kernels.problem import ConvProblem, Triple

BLOCK_PIXELS = 448  # of one tile call: half as many cost 4% for calls, more leave L2; half where lines are read twice
WORKING_BYTES = 720 * 1024  # of a task's sums and its block of x and dy, which should stay in L2
ALIAS_BYTES = 2048  # pixels this far apart share few of L1's sets: panels are then copied, not read in place
SHUT_BYTES = 4096  # and this far apart they share one: lines of x do not stay for the next tile
LINE_BYTES = 48  # of the rows of a tile: then most of a line is read at once, and it need not stay in L1
CHUNK_PIXELS = 1500  # fewer cost more for writing and adding up a chunk's sums than a twentieth of its products
ALL_PARTIAL_BYTES = 32 * 1024 * 1024  # of the sums of all chunks
CORES = (2, 4, 16)  # for which the tasks are cut
MOST_ROWS, MOST_PANELS, MOST_CHUNKS = 512, 16, 32  # of a task, of a task, of the pixels
CUTS = 24  # of rows and of panels that are weighed
SWAP_GAIN = 0.98  # of the cycles: less is not worth changing roles
ONE_VECTOR = 0.6  # cycles a row and step of a tile of one vector; of two: 1 (measured, as all that follow)
CALL, TASK = 150, 1000  # cycles of a tile's call with its sums' loads and stores, and of a task
FETCHED, COPIED, ADDED = 1 / 32, 1 / 32, 1 / 8  # cycles a byte that is read first, packed, or added up


Counts = tuple[int, int, int, int]


class View(NamedTuple):
    """The pixels of x that meet dy, or those of dy: (N, O, P, Q), `pitches` elements apart, of `channels` each."""

    pitches: Counts
    channels: int


class Pointwise(NamedTuple):
    """Everything the kernel needs, as integers and tables."""

    groups: int
    rows: int  # of a group: channels of x, or of dy where they are swapped
    lanes: int  # of a group: channels of the other
    row_blocks: int
    panels: int  # of lanes
    panel_blocks: int
    chunks: int
    blocks: int  # of pixels
    counts: Counts  # of pixels: images, slices, rows, columns
    block: Triple  # images, rows and columns
    a_pitches: Counts  # of the rows' array
    b_pitches: Counts  # of the lanes'
    b_batch: int  # elements from a row of pixels of a block to the next
    scratch_b: int  # elements of a block's panels, 0 where lanes are read in place
    swapped: bool  # the rows are channels of dy, the lanes those of x
    channels: int  # of a group of x
    filters: int  # of dy
    most_rows: int  # of a task
    tables: np.ndarray  # one after the other: offsets of a task's rows in a pixel, in a panel of its sums and in dw; of
    # the (image, output row)s of a block in the rows' array; in bytes, of its pixels there and in the lanes' array
    scratch: int  # elements that a thread holds
    tasks: int
    parallel: bool


class Part(NamedTuple):
    """What one task sums: some rows and panels of lanes, over a chunk of the blocks of pixels."""

    group: int
    chunk: int
    row: int  # the first of `rows`
    rows: int
    panel: int  # the first of `panels`
    panels: int


@lru_cache(maxsize=1024)
def applies(problem: ConvProblem, tile_rows: int, itemsize: int) -> bool:
    """Say whether filters have one tap, which meets no padding, and x serves where it lies."""
    (source, target, filters, stride, padding, _, _) = problem
    inside = all(
        before == 0 and (count - 1) * step < size
        for (before, _), count, step, size in zip(padding, target[1:4], stride, source[1:4], strict=True)
    )
    shut = stride[2] * source[4] * itemsize % SHUT_BYTES == 0 and tile_rows * itemsize < LINE_BYTES
    return prod(filters) == 1 and inside and not shut


class Cut(NamedTuple):
    """What a task takes."""

    cycles: float  # on CORES, together
    row_blocks: int
    panel_blocks: int
    chunks: int
    pixels: int  # of a block


def _cuts(count: int, largest: int, most: int) -> np.ndarray:
    """Return into how many parts, of at most `largest`, `count` may be cut."""
    first = -(-count // largest)
    return np.arange(first, max(first, min(most, first + CUTS)) + 1)


def _best_cut(
    M: int, groups: int, rows: int, lanes: int, in_place: bool, tile_rows: int, wide: int, itemsize: int
) -> Cut:
    """Return how to cut rows x lanes sums over M pixels into tasks, so that the slowest core is done first."""
    panels, sums = -(-lanes // wide), groups * rows * lanes * itemsize
    most_chunks = max(1, min(MOST_CHUNKS, M // CHUNK_PIXELS, ALL_PARTIAL_BYTES // sums))
    counts = [2**i for i in range(most_chunks.bit_length())]
    row_blocks, panel_blocks, chunks = (
        grid.ravel()
        for grid in np.meshgrid(
            _cuts(rows, MOST_ROWS, -(-rows // tile_rows)), _cuts(panels, MOST_PANELS, panels), counts
        )
    )
    r, p = -(-rows // row_blocks), -(-panels // panel_blocks)
    step = p.astype(float)
    if (lanes - 1) % wide < wide // 2:
        step -= np.where(panel_blocks == 1, 1 - ONE_VECTOR, 0)
    a_bytes, b_bytes = r * itemsize, p * wide * itemsize
    held = a_bytes + (b_bytes if in_place else 2 * b_bytes)
    fitting = np.maximum(1, (WORKING_BYTES - r * b_bytes) // held)
    own = -(-M // chunks)
    blocks = -(-own // np.minimum(fitting, BLOCK_PIXELS if tile_rows * itemsize >= LINE_BYTES else BLOCK_PIXELS // 2))
    cycles = own * r * step + blocks * p * -(-r // tile_rows) * CALL + TASK
    cycles += own * ((a_bytes + b_bytes) * FETCHED + (not in_place) * b_bytes * COPIED)
    cycles += r * b_bytes * COPIED
    added = groups * rows * lanes * itemsize * ADDED * np.where(chunks > 1, chunks + 1, 0)
    tasks = groups * row_blocks * panel_blocks * chunks
    total = sum(cores * cycles * -(-tasks // cores) + added for cores in CORES)
    best = int(np.argmin(total))
    return Cut(float(total[best]), int(row_blocks[best]), int(panel_blocks[best]), int(chunks[best]),
               int(-(-own[best] // blocks[best])))  # fmt: skip


def _views(source: tuple[int, ...], target: tuple[int, ...], stride: Triple) -> tuple[Counts, View, View]:
    """Return the counts (N, O, P, Q) and the views of x and dy; pixels that all follow each other are one row."""
    C, K, M = source[4], target[4], prod(target[:4])
    if source[:4] == target[:4]:
        return (1, 1, 1, M), View((M * C, M * C, M * C, C), C), View((M * K, M * K, M * K, K), K)
    N, O, P, Q, _ = target
    strides = (1, *stride)
    n, d, h, w = (strides[i] * prod(source[i + 1 :]) for i in range(4))
    return (N, O, P, Q), View((n, d, h, w), C), View((O * P * Q * K, P * Q * K, Q * K, K), K)


def _block(counts: Counts, pixels: int) -> Triple:
    """Return (images, rows, columns) of a block of at most `pixels`: whole rows where they fit, then whole images."""
    N, O, P, Q = counts
    columns = blocks_of(Q, pixels)[0]
    rows = blocks_of(P, pixels // columns if columns == Q else 1)[0]
    whole = O == 1 and rows == P and columns == Q
    return blocks_of(N, pixels // (P * Q) if whole else 1)[0], rows, columns


def _step_between(offsets: np.ndarray) -> int | None:
    """Return the step between equally spaced offsets, None where they are not."""
    steps = np.unique(np.diff(offsets))
    return None if steps.size > 1 else int(steps[0]) if steps.size else 0


@lru_cache(maxsize=1024)
def plan_pointwise(problem: ConvProblem, tile_rows: int, lanes: int, itemsize: int) -> Pointwise:
    """Plan the gradient (C / groups, K) from x and dy."""
    (source, target, _, stride, _, _, groups) = problem
    C, K, M, wide = source[4], target[4], prod(target[:4]), MAX_VECTORS * lanes
    counts, x, dy = _views(source, target, stride)
    best = None
    for swapped in (False, True):
        a, b = (dy, x) if swapped else (x, dy)
        whole = b.channels // groups % lanes == 0
        in_place = whole and b.pitches[3] * itemsize % ALIAS_BYTES != 0
        if swapped and groups > 1:
            continue
        cut = _best_cut(M, groups, a.channels // groups, b.channels // groups, in_place, tile_rows, wide, itemsize)
        images, rows, columns = _block(counts, cut.pixels)
        batches = [
            np.array([n * v.pitches[0] + p * v.pitches[2] for n in range(images) for p in range(rows)]) for v in (a, b)
        ]
        b_batch = _step_between(batches[1])
        if b_batch is None:
            continue
        if best is None or cut.cycles < SWAP_GAIN * best[0].cycles:
            best = cut, swapped, a, b, in_place, (images, rows, columns), batches, b_batch
    assert best is not None
    cut, swapped, a, b, in_place, (images, rows, columns), batches, b_batch = best
    blocks = -(-counts[0] // images) * counts[1] * -(-counts[2] // rows) * -(-counts[3] // columns)
    chunks = min(cut.chunks, blocks)
    a_rows, b_lanes = a.channels // groups, b.channels // groups
    panels, most = -(-b_lanes // wide), images * rows * columns
    most_rows, most_panels = -(-a_rows // cut.row_blocks), -(-panels // cut.panel_blocks)
    scratch_b = 0 if in_place else most_panels * wide * most
    offsets = np.arange(most_rows)
    pixels = [
        (t[:, None] + np.arange(columns) * v.pitches[3]).ravel() * itemsize
        for t, v in zip(batches, (a, b), strict=True)
    ]
    return Pointwise(
        groups=groups,
        rows=a_rows,
        lanes=b_lanes,
        row_blocks=cut.row_blocks,
        panels=panels,
        panel_blocks=cut.panel_blocks,
        chunks=chunks,
        blocks=blocks,
        counts=counts,
        block=(images, rows, columns),
        a_pitches=a.pitches,
        b_pitches=b.pitches,
        b_batch=b_batch,
        scratch_b=scratch_b,
        swapped=swapped,
        channels=C // groups,
        filters=K,
        most_rows=most_rows,
        tables=np.concatenate([offsets, offsets * wide, offsets * K, batches[0], *pixels]),
        scratch=scratch_b + most_panels * most_rows * wide + wide * lanes,
        tasks=chunks * groups * cut.row_blocks * cut.panel_blocks,
        parallel=2 * M * K * C // groups > SERIAL_FLOPS,
    )


@jit(inner=True)
def _store(copy, transpose, lanes, swapped, sums, rows, columns, size, transposed, target, pitch):
    """Copy one panel of sums (rows, 2 lanes) to dw, transposed where the roles were swapped."""
    wide = 2 * lanes
    if not swapped:
        call_copy_rows(copy, sums, wide, target, pitch, rows, columns)
        return
    for row in range(0, rows, lanes):
        count = min(lanes, rows - row)
        call_transpose(transpose, sums + size * row * wide, wide, transposed, lanes, count, columns)
        call_copy_rows(copy, transposed, lanes, target + size * row, pitch, columns, count)


@jit(inner=True, inline=True)
def _part(plan, task):
    """Return what a task sums."""
    i, rest = task % plan.row_blocks, task // plan.row_blocks
    j, rest = rest % plan.panel_blocks, rest // plan.panel_blocks
    row, row_after = plan.rows * i // plan.row_blocks, plan.rows * (i + 1) // plan.row_blocks
    panel, panel_after = plan.panels * j // plan.panel_blocks, plan.panels * (j + 1) // plan.panel_blocks
    return Part(rest % plan.groups, rest // plan.groups, row, row_after - row, panel, panel_after - panel)


@jit(inner=True, inline=True)
def _place(plan, index, size):
    """Return the bytes from the first pixel to block `index` in the rows' and the lanes' arrays.

    And the block's columns, and its (image, row)s.
    """
    (N, O, P, Q), (most_images, most_rows, most_columns) = plan.counts, plan.block
    rows_blocks, columns_blocks = (P + most_rows - 1) // most_rows, (Q + most_columns - 1) // most_columns
    n, o, p, q = block_start(index, O, rows_blocks, most_rows, columns_blocks, most_columns)
    n *= most_images
    (a_n, a_d, a_h, a_w), (b_n, b_d, b_h, b_w) = plan.a_pitches, plan.b_pitches
    a, b = n * a_n + o * a_d + p * a_h + q * a_w, n * b_n + o * b_d + p * b_h + q * b_w
    return size * a, size * b, min(most_columns, Q - q), min(most_images, N - n) * min(most_rows, P - p)


@jit(inner=True, inline=True)
def _pack(plan, copy, part, wide, size, source, columns, batches, packed):
    """Copy a block's panels of lanes, from the address `source` on, to the address `packed`."""
    for panel in range(part.panels):
        for k in range(batches):
            call_copy(copy, source + size * (k * plan.b_batch + panel * wide), plan.b_pitches[3],
                      packed + size * (panel * batches + k) * columns * wide, columns,
                      min(wide, plan.lanes - (part.panel + panel) * wide))  # fmt: skip


@jit(inner=True, inline=True)
def _multiply(tiles, plan, part, block, following, lanes_read, sums, accumulate, epilogue, size):
    """Add the products of a block to a task's sums.

    block: addresses in the rows' and the lanes' arrays, columns, (image, row)s; following: the next block's addresses,
    whose first lines the last tiles prefetch. lanes_read: how the lanes lie: address, elements between the rows of
    pixels, pixels and panels. sums: address, elements between panels, table of rows.
    """
    (a, b, columns, batches), (a_next, b_next) = block, following
    (b_at, b_run, b_step, b_pitch), (c, c_pitch, c_table) = lanes_read, sums
    lanes, wide, a_step, rows_table = tiles.lanes, 2 * tiles.lanes, plan.a_pitches[3], plan.tables.ctypes.data
    images, rows, most_columns = plan.block
    batch = rows_table + 24 * plan.most_rows
    pixels, b_pixels = batch + 8 * images * rows, 8 * images * rows * most_columns
    needed, panel_lines = (part.rows + tiles.rows - 1) // tiles.rows, wide * size // LINE
    line, lines, line_base = 0, part.panels * panel_lines, b_next
    for panel in range(part.panels):
        filters = min(wide, plan.lanes - (part.panel + panel) * wide)
        vectors = (filters + lanes - 1) // lanes
        if plan.scratch_b == 0:
            line, lines = 0, panel_lines
            line_base = b + size * (panel + 1) * wide if panel + 1 < part.panels else b_next
        for k in range(needed):
            m, after = part.rows * k // needed, part.rows * (k + 1) // needed
            fetch, table, step = a_next, 0, np.int64(panel + 1 == part.panels)
            last = part.rows * (k + 2) // needed - 1
            if panel == 0 and k + 1 < needed and size * last // LINE > size * (after - 1) // LINE:
                fetch, step = a + size * last, 1
            elif line < lines:
                fetch, table, step = line_base + LINE * line, b_pixels, 1
                line += 1
            call_tile(
                tiles.addresses[after - m, vectors], a, rows_table + 8 * m, batch, a_step,
                b_at + size * panel * b_pitch, b_run, b_step, c + size * panel * c_pitch, c_table + 8 * m, columns,
                batches, 0, filters - (vectors - 1) * lanes, accumulate, epilogue, fetch, pixels + table, step,
            )  # fmt: skip


@jit(inner=True)
def _task(task, thread, tiles, plan, a, b, buffers, epilogue, sums):
    """Sum some rows by some panels of lanes over one chunk of the pixels."""
    size, lanes, wide, K = a.itemsize, tiles.lanes, 2 * tiles.lanes, plan.filters
    part = _part(plan, task)
    a_first = a.ctypes.data + size * (part.group * plan.rows + part.row)
    b_first = b.ctypes.data + size * (part.group * plan.lanes + part.panel * wide)
    begin, end = part.chunk * plan.blocks // plan.chunks, (part.chunk + 1) * plan.blocks // plan.chunks
    channel, filter_ = part.row, part.group * plan.lanes + part.panel * wide
    if plan.swapped:
        channel, filter_ = part.panel * wide, part.row
    target = sums.ctypes.data + size * ((part.chunk * plan.channels + channel) * K + filter_)
    packed, rows_table = buffers.ctypes.data + buffers.strides[0] * thread, plan.tables.ctypes.data
    held = packed + size * plan.scratch_b
    direct = not plan.swapped and end - begin == 1
    c, c_pitch, c_table = held, part.rows * wide, rows_table + 8 * plan.most_rows
    if direct:
        c, c_pitch, c_table = target, wide, rows_table + 16 * plan.most_rows
    for index in range(begin, end):
        a_at, b_at, columns, batches = _place(plan, index, size)
        a_next, b_next, _, _ = _place(plan, min(index + 1, end - 1), size)
        lanes_read = b_first + b_at, plan.b_batch, plan.b_pitches[3], wide
        if plan.scratch_b > 0:
            _pack(plan, tiles.addresses[0, MAX_VECTORS], part, wide, size, b_first + b_at, columns, batches, packed)
            lanes_read = packed, columns * wide, wide, batches * columns * wide
        _multiply(tiles, plan, part, (a_first + a_at, b_first + b_at, columns, batches),
                  (a_first + a_next, b_first + b_next), lanes_read, (c, c_pitch, c_table), np.int64(index > begin),
                  epilogue if direct else 0, size)  # fmt: skip
    if not direct:
        transposed, step = held + size * part.panels * c_pitch, K if plan.swapped else 1
        for panel in range(part.panels):
            _store(tiles.addresses[1, 0], tiles.addresses[0, 0], lanes, plan.swapped, held + size * panel * c_pitch,
                   part.rows, min(wide, plan.lanes - (part.panel + panel) * wide), size, transposed,
                   target + size * panel * wide * step, K)  # fmt: skip


@jit
def _tasks(team, tiles, plan, a, b, buffers, epilogue, sums):
    share(team, plan.tasks, _task, (tiles, plan, a, b, buffers, epilogue, sums))


def pointwise_gradient(tiles: Tiles, x: np.ndarray, dy: np.ndarray, problem: ConvProblem, dw: np.ndarray) -> None:
    """Fill dw (C / groups, K) from x (N, D, H, W, C) and dy (N, O, P, Q, K)."""
    plan = plan_pointwise(problem, tiles.rows, tiles.lanes, x.itemsize)
    threads, held = threads_for(plan.parallel), plan.scratch
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    sums = dw.reshape(-1)
    if plan.chunks > 1:
        sums = scratch("partial", plan.chunks * dw.size, x.dtype)[: plan.chunks * dw.size]
    a, b = (dy, x) if plan.swapped else (x, dy)
    aligned = dy.shape[4] // problem.groups % tiles.lanes == 0 and streams(sums, lanes=tiles.lanes)
    call_parallel(plan.parallel, _tasks, tiles, plan, a.reshape(-1), b.reshape(-1), buffers,
                  PAST_CACHES if aligned else 0, sums)  # fmt: skip
    if plan.chunks > 1:
        call_parallel(plan.parallel, sum_chunks, sums.reshape(plan.chunks, -1), dw.reshape(-1))
