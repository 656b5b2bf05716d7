"""The gather kernel: forward convolution, and the gradient by the input, as Numba loops around the register tile.

A task is a block of output pixels of one image. Where taps fall outside the image, or its pixels lie so far apart that
those of a tile share a few sets of L1, the block's source pixels are first copied into a buffer that stays in L2,
zero-padded and an odd number of cache lines apart; else they are read in place. Then each panel of packed weights (two
vectors of output channels wide) meets all pixels of the block, as many to a tile as the registers hold.
"""

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

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


@jit(inner=True)
def _gather_task(task, thread, addresses, dots, dot, lanes, source, packed, bias, epilogue, numbers, batch, a_rows,
                 c_rows, lines, buffers, target):  # fmt: skip
    """Compute one block of output pixels for one chunk of panels."""
    (groups, reduce_channels, out_channels, run, panels, merge, start_d, start_h, start_w, step_d, step_h, step_w,
     out_start_d, out_start_h, out_start_w, out_step_d, out_step_h, out_step_w, count_d, count_h, count_w, extent_d,
     extent_h, extent_w, rows_block, columns_block, rows_blocks, columns_blocks, panel_chunks, pitch_d, pitch_h,
     pitch_w, skip_d, skip_h, skip_w) = to_fixed_tuple(numbers, 35)  # fmt: skip
    N, D, H, W, C = source.shape
    _, O, P, Q, K = target.shape
    buffer = buffers[thread]
    itemsize, tile_rows, block = source.itemsize, addresses.shape[0] - 1, 2 * lanes
    chunk, index = task % panel_chunks, task // panel_chunks
    n, o, p, q = block_start(index, count_d, rows_blocks, rows_block, columns_blocks, columns_block)
    rows, columns = min(rows_block, count_h - p), min(columns_block, count_w - q)
    d0, h0, w0 = start_d + o * step_d * skip_d, start_h + p * step_h * skip_h, start_w + q * step_w * skip_w
    if buffer.size > 0:
        copy_padded(addresses[1, 0], source, n, d0, h0, w0, 0, skip_d, skip_h, skip_w, extent_d,
                    (rows - 1) * step_h + extent_h, (columns - 1) * step_w + extent_w, C, pitch_d, pitch_h, pitch_w,
                    buffer.ctypes.data)  # fmt: skip
        a = buffer.ctypes.data
    else:
        a = source.ctypes.data + itemsize * ((((n * D + d0) * H + h0) * W + w0) * C)
    out_d, out_h, out_w = out_start_d + o * out_step_d, out_start_h + p * out_step_h, out_start_w + q * out_step_w
    c = target.ctypes.data + itemsize * ((((n * O + out_d) * P + out_h) * Q + out_w) * K)
    edge = np.int64(columns < columns_block)
    biases = bias.ctypes.data + itemsize * bias.shape[1] * min(index, bias.shape[0] - 1) if bias.size > 0 else 0
    a_table, c_table = a_rows[edge].ctypes.data, c_rows[edge].ctypes.data
    pixels = rows * ((columns + merge - 1) // merge)
    if dot:
        for m in range(0, pixels, DOT_ROWS):
            call_dot(dots[min(DOT_ROWS, pixels - m), K], a, a_table + 8 * m, batch.ctypes.data, packed.ctypes.data,
                     batch.size * run, c, c_table + 8 * m, run, batch.size, biases, epilogue)  # fmt: skip
        finish(epilogue, c, rows, out_step_h * Q * K, columns, out_step_w * K, K, itemsize)
        return
    # While this block is computed, the source of the next one is asked for: most likely this thread will take it.
    next_n, o, p, q = block_start(index + 1, count_d, rows_blocks, rows_block, columns_blocks, columns_block)
    pixel = (next_n * D + start_d + o * step_d * skip_d) * H + start_h + p * step_h * skip_h
    pixel = pixel * W + start_w + q * step_w * skip_w
    fetch, steps = source.ctypes.data + itemsize * pixel * C, run * batch.size
    cursor = 0 if next_n < N and panel_chunks == 1 else lines.size
    tiles_needed = (pixels + tile_rows - 1) // tile_rows
    high, higher = pixels // tiles_needed, pixels % tiles_needed  # rows of a tile; so many tiles have one more
    panels_per_group = panels // groups
    for panel in range(chunk * panels // panel_chunks, (chunk + 1) * panels // panel_chunks):
        g, k = panel // panels_per_group, panel % panels_per_group * block
        channels = min(block, merge * out_channels - k)
        vectors = (channels + lanes - 1) // lanes
        channel = g * out_channels + k
        after = 0
        for i in range(tiles_needed):
            m, after = after, after + high + np.int64(i < higher)
            call_tile(
                addresses[after - m, vectors], a + itemsize * g * reduce_channels, a_table + 8 * m,
                batch.ctypes.data, 1, packed.ctypes.data + itemsize * panel * batch.size * run * block, run * block,
                block, c + itemsize * channel, c_table + 8 * m, run, batch.size,
                biases + itemsize * channel if bias.size > 0 else 0, channels - (vectors - 1) * lanes, 0, epilogue,
                fetch, lines.ctypes.data + 8 * min(cursor, lines.size - steps), np.int64(cursor < lines.size - steps),
            )  # fmt: skip
            cursor += steps
    first_panel, after = chunk * panels // panel_chunks, (chunk + 1) * panels // panel_chunks
    if panel_chunks == 1:
        finish(epilogue, c, rows, out_step_h * Q * K, columns, out_step_w * K, K, itemsize)
    else:
        for panel in range(first_panel, after):
            k = panel % panels_per_group * block
            finish(epilogue, c + itemsize * (panel // panels_per_group * out_channels + k), rows, out_step_h * Q * K,
                   columns, out_step_w * K, min(block, out_channels - k), itemsize)  # fmt: skip


@jit
def _gather_tasks(team, tasks, addresses, dots, dot, lanes, source, packed, bias, epilogue, numbers, batch, a_rows,
                  c_rows, lines, buffers, target):  # fmt: skip
    share(team, tasks, _gather_task, (addresses, dots, dot, lanes, source, packed, bias, epilogue, numbers, batch,
                                      a_rows, c_rows, lines, buffers, target))  # fmt: skip


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
    call_parallel(plan.parallel, _gather_tasks, plan.tasks, tiles.addresses, tiles.dots, plan.dot, tiles.lanes, source,
                  rows, given, epilogue, plan.numbers, plan.batch, plan.a_rows, plan.c_rows, plan.lines, buffers,
                  target)  # fmt: skip


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
