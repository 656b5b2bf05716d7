"""The product of a few rows with a large matrix, as linear layers and small maps meet it: the matrix is read once.

    y[m, k] = b[k] + sum over t, f of x[m, t, f] * w[t, f, k]     or, transposed (one t), x[m, f] * w[k, f]

The parts t of a row of x stand anywhere, as the pixels under a filter do.

A task takes some panels of columns and some rows, and goes along f in blocks: each block of w is copied, or transposed,
into a cache as it comes in long runs from memory, and every tile of rows is multiplied by it there; the sums stay in
the caches all the while. A convolution, which has many pixels, packs its whole filter first: with few rows that would
be most of the time. With very few even a copied block is too much: `gemv.py` reads w where it lies.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.matmul import gemv
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import LINE, SERIAL_FLOPS
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.epilogue import finish
from fastcnn.kernels.cpu.simd.tile import MAX_VECTORS, call_copy_rows, call_tile, call_transpose, tiles

BLOCK = 1 << 16  # elements of a block of w, which stays in L2: a task's columns of some rows
FEWEST_STEPS, MOST_STEPS = 64, 256  # along f of such a block
STEPS_BACK = 128  # of a block of its transpose, which stays in L1: one panel of columns
MOST_PANELS = 32  # of a task: a row of its block is a long stretch of memory, and its sums stay in L2
FEWEST_TASKS = 8  # where there is work for so many
APART = 16  # elements between the rows of a block beyond their length: they do not crowd the same sets of L1
MOST_ROWS = 128  # for which packing block by block pays: more share what a convolution packs once


class Cut(NamedTuple):
    """How a product is cut."""

    sizes: tuple[int, int, int, int, int]  # see `Product`
    tasks: int
    held: int  # elements of a block, beside which no other is held
    y_rows: np.ndarray  # offsets in elements of the rows of y
    lines: np.ndarray  # offsets in bytes of the cache lines of a block of w


class Product(NamedTuple):
    """What the tasks of a product share."""

    addresses: np.ndarray
    lanes: int
    x: np.ndarray
    F: int
    w: np.ndarray
    transposed: bool
    bias: np.ndarray
    epilogue: int
    sizes: tuple[int, int, int, int, int]  # panels and rows of a task, blocks of panels, steps and pitch of one of w
    places: np.ndarray
    parts: np.ndarray
    y_rows: np.ndarray
    still: np.ndarray
    lines: np.ndarray
    buffers: np.ndarray
    y: np.ndarray


class Rows(NamedTuple):
    """Where the rows of x stand: row m of part t begins at places[m] + parts[t], in elements."""

    places: np.ndarray
    parts: np.ndarray


def suits(rows: int) -> bool:
    """Say whether a product of so many rows is one of few rows."""
    return rows <= MOST_ROWS


@lru_cache(maxsize=256)
def cut(M: int, F: int, K: int, transposed: bool, tile_rows: int, block: int, itemsize: int) -> Cut:
    """Return how a product of M x F by F x K is cut into tasks."""
    panels = -(-K // block)
    each = max(1, min(MOST_PANELS, panels // FEWEST_TASKS))
    panel_blocks = -(-panels // each)
    row_blocks = max(1, min(-(-M // (2 * tile_rows)), -(-FEWEST_TASKS // panel_blocks)))
    rows = -(-M // row_blocks)
    steps = STEPS_BACK if transposed else max(FEWEST_STEPS, min(MOST_STEPS, BLOCK // (each * block)))
    height, width, pitch = (block, steps, F) if transposed else (steps, each * block, K)
    held = steps * block if transposed else steps * (width + APART)
    lines = np.arange(height)[:, None] * (pitch * itemsize) + np.arange(0, width * itemsize, LINE)
    sizes = each, rows, panel_blocks, steps, block if transposed else width + APART
    y_rows = np.arange(M, dtype=np.int64) * K
    return Cut(sizes, panel_blocks * -(-M // rows), held, y_rows, lines.reshape(-1).astype(np.int64))


@lru_cache(maxsize=256)
def dense_rows(M: int, F: int) -> Rows:
    """Return the places of the rows of a matrix (M, F), all in one part."""
    return Rows(np.arange(M, dtype=np.int64) * F, np.zeros(1, np.int64))


@jit(inner=True)
def _multiply(job, x, steps, top, rows, panel, k, begins, ends, fetch, cursor):
    """Add to `rows` rows of a panel's columns of y, from (top, k), the products of x and the panel for `steps` of f.

    x is the address of what the places count from; sums that begin take the bias in place of y, those that end the
    epilogue. Ask meanwhile for the lines from `cursor` on, at `fetch`, of the block of w that comes next; return the
    new cursor.
    """
    addresses, lanes, bias, lines, y, size = job.addresses, job.lanes, job.bias, job.lines, job.y, job.y.itemsize
    wide, pitch, epilogue = min(MAX_VECTORS * lanes, y.shape[1] - k), job.sizes[4], job.epilogue if ends else 0
    tile_rows, vectors = addresses.shape[0] - 1, (wide + lanes - 1) // lanes
    tiles_needed = (rows + tile_rows - 1) // tile_rows
    for i in range(tiles_needed):
        m, after = top + rows * i // tiles_needed, top + rows * (i + 1) // tiles_needed
        call_tile(
            addresses[after - m, vectors], x, job.places.ctypes.data + 8 * m, job.still.ctypes.data, 1, panel, 0, pitch,
            y.ctypes.data + size * k, job.y_rows.ctypes.data + 8 * m, steps, 1,
            bias.ctypes.data + size * k if bias.size > 0 and begins else 0, wide - (vectors - 1) * lanes,
            np.int64(not begins), epilogue, fetch, lines.ctypes.data + 8 * min(cursor, lines.size - steps),
            np.int64(cursor < lines.size - steps),
        )  # fmt: skip
        cursor += steps
    return cursor


@jit(inner=True)
def _load_block(job, w, buffer, k_first, k_last, f, steps):
    """Fill a task's buffer with a block of w, which begins at an address; return that of the one that comes next."""
    addresses, lanes, size, K, F = job.addresses, job.lanes, job.y.itemsize, job.y.shape[1], job.F
    block, pitch = MAX_VECTORS * lanes, job.sizes[4]
    if not job.transposed:
        call_copy_rows(addresses[1, 0], w + size * (f * K + k_first), K, buffer, pitch, steps, k_last - k_first)
        return w + size * ((f + steps) * K + k_first)
    for v in range(0, block, lanes):
        source = w + size * (min(k_first + v, k_last - 1) * F + f)
        there = max(0, min(lanes, k_last - k_first - v))
        call_transpose(addresses[0, 0], source, F, buffer + size * v, block, there, steps)
    return w + size * (k_first * F + f + steps)


@jit(inner=True)
def _product_task(task, thread, job):
    """Compute some rows of some panels of y."""
    (M, K), size, (most_panels, most_rows, panel_blocks, most_steps, _) = job.y.shape, job.y.itemsize, job.sizes
    block, buffer, F, parts = MAX_VECTORS * job.lanes, job.buffers[thread].ctypes.data, job.F, job.parts
    first, top = task % panel_blocks * most_panels * block, task // panel_blocks * most_rows
    last, rows = min(K, first + most_panels * block), min(most_rows, M - top)
    for k_first in range(first, last, block if job.transposed else last - first):
        k_last = min(last, k_first + block) if job.transposed else last
        for t in range(parts.size):
            w0, x0 = job.w.ctypes.data + size * t * F * K, job.x.ctypes.data + size * parts[t]
            for f in range(0, F, most_steps):
                steps = min(most_steps, F - f)
                begins, ends = t + f == 0, t + 1 == parts.size and f + steps == F
                fetch = _load_block(job, w0, buffer, k_first, k_last, f, steps)
                cursor = job.lines.size if ends else 0
                for k in range(k_first, k_last, block):
                    panel = buffer + size * (k - k_first)
                    cursor = _multiply(job, x0 + size * f, steps, top, rows, panel, k, begins, ends, fetch, cursor)
    finish(job.epilogue, job.y.ctypes.data + size * (top * K + first), rows, K, 1, last - first, last - first, size)


@jit
def _product(team, tasks, fields):
    share(team, tasks, _product_task, (Product(*fields),))


_STILL = np.zeros(1, np.int64)


def product(
    x: np.ndarray, rows: Rows, w: np.ndarray, transposed: bool, b: np.ndarray | None, epilogue: int, y: np.ndarray
) -> None:
    """Fill y (M, K) with rows of x times w (parts, F, K), or with `transposed` times w' for w (1, K, F), plus b (K,).

    The parts of a row, F elements each, are added up. An epilogue (see `simd/epilogue.py`) follows.
    """
    code, (M, K) = tiles(x.dtype), y.shape
    F = w.shape[2] if transposed else w.shape[1]
    if gemv.suits(M, F, K, transposed):
        if transposed:
            gemv.product_transposed(x, rows.places, rows.parts, w[0], dense_rows(M, K).places, y)
        else:
            gemv.product(x, rows.places, rows.parts, w, b, epilogue, y)
        return
    made = cut(M, F, K, transposed, code.rows, MAX_VECTORS * code.lanes, x.itemsize)
    parallel = made.tasks > 1 and 2 * M * w.size > SERIAL_FLOPS
    threads = threads_for(parallel)
    buffers = scratch("panel", threads * made.held, x.dtype)[: threads * made.held].reshape(threads, made.held)
    bias = np.empty(0, x.dtype) if b is None else b
    given = code.addresses, code.lanes, x.reshape(-1), F, w.reshape(-1), transposed, bias, int(epilogue)
    how = made.sizes, rows.places, rows.parts, made.y_rows, _STILL, made.lines, buffers
    call_parallel(parallel, _product, made.tasks, (*given, *how, y))
