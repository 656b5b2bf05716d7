"""Filters packed into panels of output channels, as the register tile reads them."""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import packed
from fastcnn.kernels.cpu.simd.tile import MAX_VECTORS, Tiles, call_copy, call_transpose

SERIAL_WEIGHTS = 65536  # elements; fewer are packed by one thread


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
