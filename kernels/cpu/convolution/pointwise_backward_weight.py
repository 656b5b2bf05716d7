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
from numba.np.unsafe.ndarray import to_fixed_tuple

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


class View(NamedTuple):
    """The pixels of x that meet dy, or those of dy: (N, O, P, Q), `pitches` elements apart, of `channels` each."""

    pitches: tuple[int, ...]
    channels: int


class Pointwise(NamedTuple):
    """Everything the kernel needs, as integers and tables."""

    numbers: np.ndarray  # in the order of POINTWISE_NUMBERS
    swapped: bool  # the rows are channels of dy, the lanes those of x
    tables: np.ndarray  # one after the other: offsets of a task's rows in a pixel, in a panel of its sums and in dw; of
    # the (image, output row)s of a block in the rows' array; in bytes, of its pixels there and in the lanes' array
    scratch: int  # elements of a block's panels that a thread holds
    chunks: int
    tasks: int
    parallel: bool


POINTWISE_NUMBERS = (
    "groups rows lanes row_blocks panels panel_blocks chunks blocks O images_block N rows_block P columns_block Q "
    "a_n a_d a_h a_w b_n b_d b_h b_w b_batch scratch_b swapped channels K most_rows"
).split()


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


def _views(source: tuple[int, ...], target: tuple[int, ...], stride: Triple) -> tuple[tuple[int, ...], View, View]:
    """Return the counts (N, O, P, Q) and the views of x and dy; pixels that all follow each other are one row."""
    C, K, M = source[4], target[4], prod(target[:4])
    if source[:4] == target[:4]:
        return (1, 1, 1, M), View((M * C, M * C, M * C, C), C), View((M * K, M * K, M * K, K), K)
    steps = zip((1, *stride), range(1, 5), strict=True)
    x = View(tuple(step * prod(source[i:]) for step, i in steps), C)
    return target[:4], x, View(tuple(prod(target[i:]) for i in range(1, 5)), K)


def _block(counts: tuple[int, ...], pixels: int) -> Triple:
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
    values = (groups, a_rows, b_lanes, cut.row_blocks, panels, cut.panel_blocks, chunks, blocks, counts[1],
              images, counts[0], rows, counts[2], columns, counts[3], *a.pitches, *b.pitches, b_batch,
              scratch_b, swapped, C // groups, K, most_rows)  # fmt: skip
    offsets = np.arange(most_rows)
    pixels = [
        (t[:, None] + np.arange(columns) * v.pitches[3]).ravel() * itemsize
        for t, v in zip(batches, (a, b), strict=True)
    ]
    return Pointwise(
        np.array(values, np.int64),
        swapped,
        np.concatenate([offsets, offsets * wide, offsets * K, batches[0], *pixels]),
        scratch_b + most_panels * most_rows * wide + wide * lanes,
        chunks,
        chunks * groups * cut.row_blocks * cut.panel_blocks,
        2 * M * K * C // groups > SERIAL_FLOPS,
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


@jit(inner=True)
def _task(task, thread, addresses, lanes, a, b, numbers, tables, buffers, epilogue, sums):
    """Sum some rows by some panels of lanes over one chunk of the pixels."""
    (groups, rows, group_lanes, row_blocks, panels, panel_blocks, chunks, blocks, O, images_block, N, rows_block, P,
     columns_block, Q, a_n, a_d, a_h, a_w, b_n, b_d, b_h, b_w, b_batch, scratch_b, swapped, channels, K,
     most_rows) = to_fixed_tuple(numbers, 29)  # fmt: skip
    size, tile_rows, wide, copy = a.itemsize, addresses.shape[0] - 1, 2 * lanes, addresses[1, 0]
    i, rest = task % row_blocks, task // row_blocks
    j, rest = rest % panel_blocks, rest // panel_blocks
    g, chunk = rest % groups, rest // groups
    row, height = rows * i // row_blocks, rows * (i + 1) // row_blocks - rows * i // row_blocks
    first, after = panels * j // panel_blocks, panels * (j + 1) // panel_blocks
    needed, panel_lines = (height + tile_rows - 1) // tile_rows, wide * size // LINE
    rows_blocks, columns_blocks = (P + rows_block - 1) // rows_block, (Q + columns_block - 1) // columns_block
    a_first, b_first = a.ctypes.data + size * (g * rows + row), b.ctypes.data + size * (g * group_lanes + first * wide)
    begin, end = chunk * blocks // chunks, (chunk + 1) * blocks // chunks
    if swapped:
        target = sums.ctypes.data + size * ((chunk * channels + first * wide) * K + row)
    else:
        target = sums.ctypes.data + size * ((chunk * channels + row) * K + g * group_lanes + first * wide)
    rows_table, batch = tables.ctypes.data, tables.ctypes.data + 24 * most_rows
    pixels, b_pixels = batch + 8 * images_block * rows_block, 8 * images_block * rows_block * columns_block
    packed = buffers.ctypes.data + buffers.strides[0] * thread
    held = packed + size * scratch_b
    direct = swapped == 0 and end - begin == 1
    c, c_pitch, c_table = held, height * wide, rows_table + 8 * most_rows
    if direct:
        c, c_pitch, c_table = target, wide, rows_table + 16 * most_rows
    a_next, b_next, next_columns, next_batches = a_first, b_first, 0, 0
    for index in range(begin - 1, end):
        # The block after this one: the last tiles of this one ask for its first lines.
        a_from, b_from, columns, batches = a_next, b_next, next_columns, next_batches
        n, o, p, q = block_start(min(index + 1, end - 1), O, rows_blocks, rows_block, columns_blocks, columns_block)
        n *= images_block
        a_next = a_first + size * (n * a_n + o * a_d + p * a_h + q * a_w)
        b_next = b_first + size * (n * b_n + o * b_d + p * b_h + q * b_w)
        next_columns, next_batches = min(columns_block, Q - q), min(images_block, N - n) * min(rows_block, P - p)
        if index < begin:
            continue
        b_at, b_run, b_step, b_pitch = b_from, b_batch, b_w, wide
        if scratch_b > 0:
            b_at, b_run, b_step, b_pitch = packed, columns * wide, wide, batches * columns * wide
            for panel in range(after - first):
                for k in range(batches):
                    call_copy(addresses[0, MAX_VECTORS], b_from + size * (k * b_batch + panel * wide), b_w,
                              b_at + size * (panel * b_pitch + k * columns * wide), columns,
                              min(wide, group_lanes - (first + panel) * wide))  # fmt: skip
        line, lines, line_base = 0, (after - first) * panel_lines, b_next
        for panel in range(after - first):
            filters = min(wide, group_lanes - (first + panel) * wide)
            vectors = (filters + lanes - 1) // lanes
            if scratch_b == 0:
                line, lines = 0, panel_lines
                line_base = b_from + size * (panel + 1) * wide if panel + 1 < after - first else b_next
            for k in range(needed):
                m, m_after = height * k // needed, height * (k + 1) // needed
                fetch, table, step = a_next, 0, np.int64(panel + 1 == after - first)
                m_last = height * (k + 2) // needed - 1
                if panel == 0 and k + 1 < needed and size * m_last // LINE > size * (m_after - 1) // LINE:
                    fetch, step = a_from + size * m_last, 1
                elif line < lines:
                    fetch, table, step = line_base + LINE * line, b_pixels, 1
                    line += 1
                call_tile(
                    addresses[m_after - m, vectors], a_from, rows_table + 8 * m, batch, a_w,
                    b_at + size * panel * b_pitch, b_run, b_step, c + size * panel * c_pitch, c_table + 8 * m, columns,
                    batches, 0, filters - (vectors - 1) * lanes, np.int64(index > begin),
                    epilogue if direct else 0, fetch,
                    pixels + table, step,
                )  # fmt: skip
    if not direct:
        transposed, step = held + size * (after - first) * c_pitch, K if swapped else 1
        for panel in range(after - first):
            _store(copy, addresses[0, 0], lanes, swapped, held + size * panel * c_pitch, height,
                   min(wide, group_lanes - (first + panel) * wide), size, transposed,
                   target + size * panel * wide * step, K)  # fmt: skip


@jit
def _tasks(team, tasks, addresses, lanes, a, b, numbers, tables, buffers, epilogue, sums):
    share(team, tasks, _task, (addresses, lanes, a, b, numbers, tables, buffers, epilogue, sums))


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
    call_parallel(plan.parallel, _tasks, plan.tasks, tiles.addresses, tiles.lanes, a.reshape(-1), b.reshape(-1),
                  plan.numbers, plan.tables, buffers, PAST_CACHES if aligned else 0, sums)  # fmt: skip
    if plan.chunks > 1:
        call_parallel(plan.parallel, sum_chunks, sums.reshape(plan.chunks, -1), dw.reshape(-1))
