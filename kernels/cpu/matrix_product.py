"""The product of a few rows with a large matrix, as fully connected layers meet it: the matrix is read once.

    y[m, k] = b[k] + sum over f of x[m, f] * w[f, k]     or, transposed, x[m, f] * w[k, f]

A task takes some panels of columns and some rows, and goes along f in blocks: each block of w is copied, or transposed,
into a cache as it comes in long runs from memory, and every tile of rows is multiplied by it there; the sums stay in
the caches all the while. A convolution, which has many pixels, packs its whole filter first: with few rows that would
be most of the time.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.epilogue import finish
from fastcnn.kernels.cpu.geometry import LINE, SERIAL_FLOPS
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, threads_for
from fastcnn.kernels.cpu.tile import MAX_VECTORS, call_copy_rows, call_tile, call_transpose, tiles
from fastcnn.kernels.cpu.workspace import scratch

BLOCK = 1 << 16  # elements of a block of w, which stays in L2: a task's columns of some rows
FEWEST_STEPS, MOST_STEPS = 64, 256  # along f of such a block
STEPS_BACK = 128  # of a block of its transpose, which stays in L1: one panel of columns
MOST_PANELS = 32  # of a task: a row of its block is a long stretch of memory, and its sums stay in L2
FEWEST_TASKS = 8  # where there is work for so many
APART = 16  # elements between the rows of a block beyond their length: they do not crowd the same sets of L1
MOST_ROWS = 128  # for which packing block by block pays: more share what a convolution packs once


class Cut(NamedTuple):
    """How a product is cut."""

    sizes: tuple[int, int, int, int]  # panels and rows of a task, blocks of panels, steps along f of a block of w
    tasks: int
    held: int  # elements of a block, beside which no other is held
    x_rows: np.ndarray  # offsets in elements of the rows of x
    y_rows: np.ndarray  # and of y
    lines: np.ndarray  # offsets in bytes of the cache lines of a block of w


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
    index = np.arange(M, dtype=np.int64)
    steps = STEPS_BACK if transposed else max(FEWEST_STEPS, min(MOST_STEPS, BLOCK // (each * block)))
    height, width, pitch = (block, steps, F) if transposed else (steps, each * block, K)
    held = steps * block if transposed else steps * (width + APART)
    lines = np.arange(height)[:, None] * (pitch * itemsize) + np.arange(0, width * itemsize, LINE)
    sizes = each, rows, panel_blocks, steps
    tasks = panel_blocks * -(-M // rows)
    return Cut(sizes, tasks, held, index * F, index * K, lines.reshape(-1).astype(np.int64))


@jit(inner=True)
def _multiply(addresses, lanes, x, f, steps, top, rows, panel, pitch, bias, epilogue, k, wide, x_rows, y_rows, still,
              fetch, lines, cursor, y):  # fmt: skip
    """Add to `rows` rows of `wide` columns of y, from (top, k), the products of x and a panel for `steps` of f.

    Ask meanwhile for the lines from `cursor` on, at `fetch`, of the block of w that comes next; return the new cursor.
    """
    size, tile_rows, vectors = x.itemsize, addresses.shape[0] - 1, (wide + lanes - 1) // lanes
    tiles_needed = (rows + tile_rows - 1) // tile_rows
    for i in range(tiles_needed):
        m, after = top + rows * i // tiles_needed, top + rows * (i + 1) // tiles_needed
        call_tile(
            addresses[after - m, vectors], x.ctypes.data + size * f, x_rows.ctypes.data + 8 * m, still.ctypes.data, 1,
            panel, 0, pitch, y.ctypes.data + size * k, y_rows.ctypes.data + 8 * m, steps, 1,
            bias.ctypes.data + size * k if bias.size > 0 and f == 0 else 0, wide - (vectors - 1) * lanes,
            np.int64(f > 0), epilogue if f + steps == x.shape[1] else 0, fetch,
            lines.ctypes.data + 8 * min(cursor, lines.size - steps), np.int64(cursor < lines.size - steps),
        )  # fmt: skip
        cursor += steps
    return cursor


@jit(inner=True)
def _product_task(task, thread, addresses, lanes, x, w, transposed, bias, epilogue, sizes, x_rows, y_rows, still,
                  lines, buffers, y):  # fmt: skip
    """Compute some rows of some panels of y."""
    (M, F), K, size, (most_panels, most_rows, panel_blocks, most_steps) = x.shape, y.shape[1], x.itemsize, sizes
    block, buffer, w0 = MAX_VECTORS * lanes, buffers[thread].ctypes.data, w.ctypes.data
    first, top = task % panel_blocks * most_panels * block, task // panel_blocks * most_rows
    last, rows = min(K, first + most_panels * block), min(most_rows, M - top)
    if transposed:
        for k in range(first, last, block):
            wide = min(block, K - k)
            for f in range(0, F, most_steps):
                steps, left = min(most_steps, F - f), F - f - most_steps
                for v in range(0, block, lanes):
                    source = w0 + size * (min(k + v, k + wide - 1) * F + f)
                    there = max(0, min(lanes, wide - v))
                    call_transpose(addresses[0, 0], source, F, buffer + size * v, block, there, steps)
                _multiply(addresses, lanes, x, f, steps, top, rows, buffer, block, bias, epilogue, k, wide, x_rows,
                          y_rows, still, w0 + size * (k * F + f + most_steps), lines, 0 if left > 0 else lines.size,
                          y)  # fmt: skip
    else:
        pitch = most_panels * block + APART
        for f in range(0, F, most_steps):
            steps = min(most_steps, F - f)
            cursor = 0 if f + steps < F else lines.size
            call_copy_rows(addresses[1, 0], w0 + size * (f * K + first), K, buffer, pitch, steps, last - first)
            for k in range(first, last, block):
                cursor = _multiply(addresses, lanes, x, f, steps, top, rows, buffer + size * (k - first), pitch, bias,
                                   epilogue, k, min(block, K - k), x_rows, y_rows, still,
                                   w0 + size * ((f + steps) * K + first), lines, cursor, y)  # fmt: skip
    finish(epilogue, y.ctypes.data + size * (top * K + first), rows, K, 1, last - first, last - first, size)


@jit
def _product(team, tasks, addresses, lanes, x, w, transposed, bias, epilogue, sizes, x_rows, y_rows, still, lines,
             buffers, y):  # fmt: skip
    share(team, tasks, _product_task, (addresses, lanes, x, w, transposed, bias, epilogue, sizes, x_rows, y_rows,
                                       still, lines, buffers, y))  # fmt: skip


_STILL = np.zeros(1, np.int64)


def product(x: np.ndarray, w: np.ndarray, transposed: bool, b: np.ndarray | None, epilogue: int, y: np.ndarray) -> None:
    """Fill y (M, K) with x (M, F) times w (F, K), or with `transposed` times w' for w (K, F), plus b (K,).

    An epilogue (see `epilogue.py`) follows.
    """
    code, (M, F), K = tiles(x.dtype), x.shape, y.shape[1]
    made = cut(M, F, K, transposed, code.rows, MAX_VECTORS * code.lanes, x.itemsize)
    parallel = made.tasks > 1 and 2 * M * F * K > SERIAL_FLOPS
    threads = threads_for(parallel)
    buffers = scratch("panel", threads * made.held, x.dtype)[: threads * made.held].reshape(threads, made.held)
    bias = np.empty(0, x.dtype) if b is None else b
    call_parallel(parallel, _product, made.tasks, code.addresses, code.lanes, x, w, transposed, bias, int(epilogue),
                  made.sizes, made.x_rows, made.y_rows, _STILL, made.lines, buffers, y)  # fmt: skip
