"""The gather kernel: forward convolution, and the gradient by the input, as Numba loops around the register tile.

A task is a block of output pixels of one image. Where taps fall outside the image, or its pixels lie so far apart that
those of a tile share a few sets of L1, the block's source pixels are first copied into a buffer that stays in L2,
zero-padded and an odd number of cache lines apart; else they are read in place. Then each panel of packed weights (two
vectors of output channels wide) meets all pixels of the block, as many to a tile as the registers hold.
"""

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastcnn.kernels.cpu.clip import AHEAD
from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.epilogue import finish, in_memory, stored
from fastcnn.kernels.cpu.geometry import Gather
from fastcnn.kernels.cpu.host import cache_bytes
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel, call_serial, threads_for
from fastcnn.kernels.cpu.tile import (
    DOT_ROWS,
    MAX_VECTORS,
    Tiles,
    call_copy,
    call_copy_rows,
    call_dot,
    call_tile,
    call_transpose,
    copy_bytes,
    zero_bytes,
)
from fastcnn.kernels.cpu.workspace import packed, scratch

CLEARED = 16384  # elements that one task sets to zero
PARALLEL_CLEARED = 8  # such tasks that one thread does as fast
SERIAL_WEIGHTS = 65536  # elements; fewer are packed by one thread


@jit(inner=True)
def copy_padded(copy, source, n, d0, h0, w0, c0, skip_d, skip_h, skip_w, depth, rows, columns, channels, pitch_d,
                pitch_h, pitch_w, target):  # fmt: skip
    """Copy a box of pixels of image n, from (d0, h0, w0, c0) on, to the address target; pixels outside become zero.

    source (N, D, H, W, C), of which every skip-th pixel is taken; pitches in elements between target's slices, rows
    and pixels (pitch_w >= channels). The address of copy_rows serves where not all channels or pixels are taken, or
    pixels are set apart.
    """
    _, D, H, W, C = source.shape
    size = source.itemsize
    first, last = min(max(0, -(w0 // skip_w)), columns), max(0, min(columns, (W - w0 + skip_w - 1) // skip_w))
    for i in range(depth):
        for j in range(rows):
            d, h = d0 + i * skip_d, h0 + j * skip_h
            at = target + size * (i * pitch_d + j * pitch_h)
            if d < 0 or d >= D or h < 0 or h >= H or first >= last:
                zero_bytes(at, size * columns * pitch_w)
                continue
            zero_bytes(at, size * first * pitch_w)
            zero_bytes(at + size * last * pitch_w, size * (columns - last) * pitch_w)
            row = source.ctypes.data + size * ((((n * D + d) * H + h) * W + w0 + first * skip_w) * C + c0)
            at += size * first * pitch_w
            if pitch_w == channels == C and skip_w == 1:
                copy_bytes(at, row, size * (last - first) * C)
            else:
                call_copy_rows(copy, row, skip_w * C, at, pitch_w, last - first, channels)


@jit(inner=True)
def _pack_panel(panel, thread, addresses, w, taps, groups, transposed, block, packed):
    """Fill one panel: for each tap and reduced channel, `block` output channels side by side, zeros past the last."""
    C, K = w.shape[1], w.shape[2]
    reduce, out = (K // groups, C) if transposed else (C, K // groups)
    blocks = (out + block - 1) // block
    g, first = panel // blocks, panel % blocks * block
    wide, lanes = min(block, out - first), block // MAX_VECTORS
    for i in range(taps.size):
        target = packed[(panel * taps.size + i) * reduce * block :][: reduce * block].reshape(reduce, block)
        if transposed:
            for k in range(0, block, lanes):
                source = w.ctypes.data + w.itemsize * ((taps[i] * C + min(first + k, C - 1)) * K + g * reduce)
                call_transpose(addresses[0, 0], source, K, target.ctypes.data + w.itemsize * k, block,
                               max(0, min(lanes, wide - k)), reduce)  # fmt: skip
        else:
            source = w.ctypes.data + w.itemsize * (taps[i] * C * K + g * out + first)
            call_copy(addresses[0, MAX_VECTORS], source, K, target.ctypes.data, reduce, wide)


@jit
def pack_weights(team, addresses, w, taps, groups, transposed, panels, block, packed):
    """Fill packed (panels, taps, reduced channels, block) from w (taps of the filter, C / groups, K)."""
    share(team, panels, _pack_panel, (addresses, w, taps, groups, transposed, block, packed))


@jit
def pack_merged(w, bias, taps, columns, step, merge, transposed, block, packed, repeated):
    """Fill one panel (rows of taps, widened run, block) whose lanes are (pixel, channel) of `merge` pixels.

    Pixel g's filter starts g * step columns further on; the other places are zero. The bias is `repeated` for each.
    """
    C, K = w.shape[1], w.shape[2]
    reduce, out = (K, C) if transposed else (C, K)
    run = (columns + (merge - 1) * step) * reduce
    packed[: taps.size // columns * run * block] = 0
    for i in range(taps.size):
        row, column = i // columns, i % columns
        for j in range(reduce):
            for k in range(out):
                value = w[taps[i], k, j] if transposed else w[taps[i], j, k]
                for g in range(merge):
                    packed[(row * run + (column + g * step) * reduce + j) * block + g * out + k] = value
    for i in range(repeated.size):
        repeated[i] = bias[i % bias.size]


@jit
def pack_rows(w, taps, transposed, packed):
    """Fill packed (output channels, taps, reduced channels): every output channel's filter in one run."""
    C, K = w.shape[1], w.shape[2]
    reduce, out = (K, C) if transposed else (C, K)
    for k in range(out):
        for i in range(taps.size):
            at = (k * taps.size + i) * reduce
            for j in range(reduce):
                packed[at + j] = w[taps[i], k, j] if transposed else w[taps[i], j, k]


@jit(inner=True)
def block_start(index, depth, rows_blocks, rows_block, columns_blocks, columns_block):
    """Return (image, slice, row, column) of the first output of block `index`; columns count fastest."""
    q_block, rest = index % columns_blocks, index // columns_blocks
    p_block, rest = rest % rows_blocks, rest // rows_blocks
    return rest // depth, rest % depth, p_block * rows_block, q_block * columns_block


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


def past_caches(target: np.ndarray, lanes: int) -> bool:
    """Say whether an array should be stored past the caches: it and its source exceed them, and whole vectors align."""
    return 2 * target.nbytes > cache_bytes().L3 and target.ctypes.data % (lanes * target.itemsize) == 0


def pack_filter(
    tiles: Tiles, w: np.ndarray, bias: np.ndarray | None, taps: np.ndarray, groups: int, transposed: bool, runs: int,
    merge: int, step: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return (packed panels, bias) of the filter w (T, R, S, C / groups, K), or of its transpose, for `runs` of taps.

    With `merge` > 1 the lanes are (pixel, channel), the pixels `step` taps apart. No bias is an empty array.
    """
    flat, block = w.reshape(-1, w.shape[3], w.shape[4]), 2 * tiles.lanes
    reduced, out = (w.shape[4] // groups, w.shape[3]) if transposed else (w.shape[3], w.shape[4] // groups)
    given = np.empty(0, w.dtype) if bias is None else bias
    if merge > 1:
        columns = taps.size // runs
        panel = packed("weights", w, runs * (columns + (merge - 1) * step) * reduced * block, w.dtype)
        repeated = packed("bias", w, merge * given.size, w.dtype)[: merge * given.size]
        call_serial(pack_merged, flat, given, taps, columns, step, merge, transposed, block, panel, repeated, packs=w)
        return panel, repeated
    panels = groups * -(-out // block)
    rows = packed("weights", w, panels * taps.size * reduced * block, w.dtype)
    call_parallel(w.size > SERIAL_WEIGHTS, pack_weights, tiles.addresses, flat, taps, groups, transposed, panels, block,
                  rows, packs=w)  # fmt: skip
    return rows, given


def gather(
    tiles: Tiles, source: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: Gather, transposed: bool,
    epilogue: int, target: np.ndarray,
) -> None:  # fmt: skip
    """Run a planned gather of source through the filter w (or its transpose) into target.

    Where the epilogue measures, `bias` (blocks, pitch) holds a record for each of the plan's blocks (`measure.py`).
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
    epilogue = stored(epilogue, whole and past_caches(target, tiles.lanes)) | (0 if plan.dot else AHEAD)
    given = given if given.ndim == 2 else given[np.newaxis]  # one for each block, or for all
    threads = threads_for(plan.parallel)
    buffers = scratch("source", threads * plan.scratch, dtype)[: threads * plan.scratch].reshape(threads, plan.scratch)
    call_parallel(plan.parallel, _gather_tasks, plan.tasks, tiles.addresses, tiles.dots, plan.dot, tiles.lanes, source,
                  rows, given, epilogue, plan.numbers, plan.batch, plan.a_rows, plan.c_rows, plan.lines, buffers,
                  target)  # fmt: skip
