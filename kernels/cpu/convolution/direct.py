"""The gather kernel: forward convolution, and the gradient by the input, as Numba loops around the register tile.

A task is a block of output pixels of one image. Where taps fall outside the image, or its pixels lie so far apart that
those of a tile share a few sets of L1, the block's source pixels are first copied into a buffer that stays in L2,
zero-padded and an odd number of cache lines apart; else they are read in place. Then each panel of packed weights (two
vectors of output channels wide) meets all pixels of the block, as many to a tile as the registers hold.
"""

import numpy as np

from fastcnn.kernels.cpu.convolution.copy_padded import block_start, copy_padded
from fastcnn.kernels.cpu.convolution.direct_plan import Gather, plan_gathers
from fastcnn.kernels.cpu.convolution.pack_filter import pack_filter, pack_rows
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import packed, scratch
from fastcnn.kernels.cpu.simd.epilogue import finish, in_memory, stored
from fastcnn.kernels.cpu.simd.epilogue_code import AHEAD
from fastcnn.kernels.cpu.simd.streaming import streams
from fastcnn.kernels.cpu.simd.tile import (
    DOT_ROWS,
    Tiles,
    call_dot,
    call_tile,
    zero_bytes,
)
from fastcnn.kernels.problem import ConvProblem

CLEARED = 16384  # elements that one task sets to zero
PARALLEL_CLEARED = 8  # such tasks that one thread does as fast


@jit(inner=True, inline=True)
def _first_pixel(plan, index):
    """Return (image, slice, row, column) of the first source pixel of block `index`, which may lie outside."""
    rows, columns = plan.block
    n, o, p, q = block_start(index, plan.counts[0], plan.blocks_across[0], rows, plan.blocks_across[1], columns)
    d, h, w = plan.start
    step_d, step_h, step_w = plan.step
    skip_d, skip_h, skip_w = plan.skip
    return n, d + o * step_d * skip_d, h + p * step_h * skip_h, w + q * step_w * skip_w


@jit(inner=True, inline=True)
def _read_source(plan, copy, source, index, rows, columns, buffer):
    """Return the address of the source of a block of rows x columns outputs: in place, or in a padded copy."""
    _, D, H, W, C = source.shape
    n, d, h, w = _first_pixel(plan, index)
    if buffer.size == 0:
        return source.ctypes.data + source.itemsize * ((((n * D + d) * H + h) * W + w) * C)
    (_, step_h, step_w), (extent_d, extent_h, extent_w) = plan.step, plan.extent
    sizes = extent_d, (rows - 1) * step_h + extent_h, (columns - 1) * step_w + extent_w, C
    copy_padded(copy, source, (n, d, h, w, 0), plan.skip, sizes, plan.pitch, buffer.ctypes.data)
    return buffer.ctypes.data


@jit(inner=True, inline=True)
def _next_source(plan, source, index):
    """Return the address of the next block's source and the line of the table to begin with, past the end if none.

    While a block is computed, the source of the next one is prefetched: most likely this thread will take it.
    """
    _, D, H, W, C = source.shape
    n, d, h, w = _first_pixel(plan, index + 1)
    reads = n < source.shape[0] and plan.panel_chunks == 1
    return source.ctypes.data + source.itemsize * (((n * D + d) * H + h) * W + w) * C, 0 if reads else plan.lines.size


@jit(inner=True, inline=True)
def _multiply(tiles, plan, panels, pixels, a, a_table, packed, biases, epilogue, c, c_table, ahead):
    """Compute so many pixels of the panels from the first to the last: `a` and `c` are addresses of their places.

    `ahead` is what `_next_source` returns.
    """
    lanes, itemsize, steps = tiles.lanes, packed.itemsize, plan.run * plan.batch.size
    block, most, batch, lines = 2 * lanes, plan.lines.size - steps, plan.batch.ctypes.data, plan.lines.ctypes.data
    reduce_channels, out_channels = plan.channels
    fetch, cursor = ahead
    needed = (pixels + tiles.rows - 1) // tiles.rows
    high, higher = pixels // needed, pixels % needed  # rows of a tile; so many tiles have one more
    panels_per_group = plan.panels // plan.groups
    for panel in range(*panels):
        g, k = panel // panels_per_group, panel % panels_per_group * block
        channels = min(block, plan.merge * out_channels - k)
        vectors = (channels + lanes - 1) // lanes
        channel = g * out_channels + k
        after = 0
        for i in range(needed):
            m, after = after, after + high + np.int64(i < higher)
            call_tile(
                tiles.addresses[after - m, vectors], a + itemsize * g * reduce_channels, a_table + 8 * m, batch, 1,
                packed.ctypes.data + itemsize * panel * steps * block, plan.run * block, block,
                c + itemsize * channel, c_table + 8 * m, plan.run, plan.batch.size,
                biases + itemsize * channel if biases != 0 else 0, channels - (vectors - 1) * lanes, 0, epilogue,
                fetch, lines + 8 * min(cursor, most), np.int64(cursor < most),
            )  # fmt: skip
            cursor += steps


@jit(inner=True, inline=True)
def _multiply_dots(tiles, plan, channels, pixels, a, a_table, packed, biases, epilogue, c, c_table):
    """Compute so many pixels of very few channels."""
    batch, runs = plan.batch.ctypes.data, plan.batch.size
    for m in range(0, pixels, DOT_ROWS):
        call_dot(tiles.dots[min(DOT_ROWS, pixels - m), channels], a, a_table + 8 * m, batch, packed.ctypes.data,
                 runs * plan.run, c, c_table + 8 * m, plan.run, runs, biases, epilogue)  # fmt: skip


@jit(inner=True, inline=True)
def _finish_block(plan, panels, block, epilogue, c, rows, columns, target):
    """Apply the epilogue's function to what a task has computed of a block of rows x columns pixels."""
    (_, _, _, Q, K), itemsize, (_, out_channels) = target.shape, target.itemsize, plan.channels
    row_pitch, column_pitch = plan.out_step[1] * Q * K, plan.out_step[2] * K
    if plan.panel_chunks == 1:
        finish(epilogue, c, rows, row_pitch, columns, column_pitch, K, itemsize)
        return
    panels_per_group = plan.panels // plan.groups
    for panel in range(*panels):
        k = panel % panels_per_group * block
        finish(epilogue, c + itemsize * (panel // panels_per_group * out_channels + k), rows, row_pitch, columns,
               column_pitch, min(block, out_channels - k), itemsize)  # fmt: skip


@jit(inner=True)
def _direct_task(task, thread, tiles, plan, source, packed, bias, epilogue, buffers, target):
    """Compute one block of output pixels for one chunk of panels."""
    (_, O, P, Q, K), itemsize = target.shape, source.itemsize
    chunk, index = task % plan.panel_chunks, task // plan.panel_chunks
    panels = chunk * plan.panels // plan.panel_chunks, (chunk + 1) * plan.panels // plan.panel_chunks
    (most_rows, most_columns), (down, across) = plan.block, plan.blocks_across
    n, o, p, q = block_start(index, plan.counts[0], down, most_rows, across, most_columns)
    rows, columns = min(most_rows, plan.counts[1] - p), min(most_columns, plan.counts[2] - q)
    a = _read_source(plan, tiles.addresses[1, 0], source, index, rows, columns, buffers[thread])
    (first_d, first_h, first_w), (step_d, step_h, step_w) = plan.out_start, plan.out_step
    out_d, out_h, out_w = first_d + o * step_d, first_h + p * step_h, first_w + q * step_w
    c = target.ctypes.data + itemsize * ((((n * O + out_d) * P + out_h) * Q + out_w) * K)
    edge = np.int64(columns < most_columns)
    biases = bias.ctypes.data + itemsize * bias.shape[1] * min(index, bias.shape[0] - 1) if bias.size > 0 else 0
    a_table, c_table = plan.a_rows[edge].ctypes.data, plan.c_rows[edge].ctypes.data
    pixels = rows * ((columns + plan.merge - 1) // plan.merge)
    if plan.dot:
        _multiply_dots(tiles, plan, K, pixels, a, a_table, packed, biases, epilogue, c, c_table)
    else:
        _multiply(tiles, plan, panels, pixels, a, a_table, packed, biases, epilogue, c, c_table,
                  _next_source(plan, source, index))  # fmt: skip
    _finish_block(plan, panels, 2 * tiles.lanes, epilogue, c, rows, columns, target)


@jit
def _direct_tasks(team, tiles, plan, source, packed, bias, epilogue, buffers, target):
    share(team, plan.tasks, _direct_task, (tiles, plan, source, packed, bias, epilogue, buffers, target))


@jit(inner=True)
def _clear_part(task, thread, a):
    first, after = task * CLEARED, min((task + 1) * CLEARED, a.size)
    zero_bytes(a.ctypes.data + a.itemsize * first, a.itemsize * (after - first))


@jit
def _clear_parts(team, tasks, a):
    share(team, tasks, _clear_part, (a,))


def clear(target: np.ndarray) -> None:
    """Fill target with zeros."""
    tasks = -(-target.size // CLEARED)
    call_parallel(tasks > PARALLEL_CLEARED, _clear_parts, tasks, target.reshape(-1))


def gather(
    tiles: Tiles, source: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: Gather, transposed: bool,
    epilogue: int, target: np.ndarray,
) -> None:  # fmt: skip
    """Run a planned gather of source through the filter w (or its transpose) into target.

    Where the epilogue measures, `bias` (blocks, pitch) holds a record (`statistics_code.py`) for every block.
    """
    dtype = source.dtype
    if plan.dot:
        rows, given = packed("weights", w, w.size, dtype), np.empty(0, dtype) if bias is None else bias
        call_serial(pack_rows, w.reshape(-1, w.shape[3], w.shape[4]), plan.taps, transposed, rows, packs=w)
    else:
        rows, given = pack_filter(tiles, w, bias, plan.taps, plan.groups, transposed, plan.batch.size, plan.merge,
                                    plan.merge_step)  # fmt: skip
    epilogue = in_memory(epilogue) if plan.dot else epilogue
    whole = plan.merge == 1 and not plan.dot and target.shape[4] // plan.groups % tiles.lanes == 0
    epilogue = stored(epilogue, whole and streams(target, lanes=tiles.lanes)) | (0 if plan.dot else AHEAD)
    given = given if given.ndim == 2 else given[np.newaxis]  # one for each block, or for all
    threads = threads_for(plan.parallel)
    buffers = scratch("source", threads * plan.scratch, dtype)[: threads * plan.scratch].reshape(threads, plan.scratch)
    call_parallel(plan.parallel, _direct_tasks, tiles, plan, source, rows, given, epilogue, buffers, target)


def gather_all(
    tiles: Tiles, source: np.ndarray, w: np.ndarray, bias: np.ndarray | None, problem: ConvProblem, transposed: bool,
    epilogue: int, target: np.ndarray,
) -> None:  # fmt: skip
    """Fill target with the convolution of source by w; `transposed`: source is dy, target dx, one gather a phase."""
    plans = plan_gathers(problem, transposed, tiles.lanes, tiles.rows, source.itemsize)
    meeting = [plan for plan in plans if bias is not None or epilogue or plan.batch.size]
    if len(meeting) < len(plans):
        clear(target)  # pixels that no tap meets, and the others between them
    first = 0
    for plan in meeting:
        own = bias[first : first + plan.blocks] if bias is not None and bias.ndim == 2 else bias  # its blocks' records
        gather(tiles, source, w, own, plan, transposed, epilogue, target)
        first += plan.blocks
