"""Sums over pixels in a fixed order, the same for any number of threads."""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import scratch

CHUNK = 16384  # elements of one partial sum
SERIAL_ELEMENTS = 100_000  # fewer are summed by one thread: waking a helper costs about 1 us


@jit(inner=True)
def _sum_chunk(chunk, thread, a, partial):
    (rows, _), (chunks, _), total = a.shape, partial.shape, partial[chunk]
    total[:] = 0
    for i in range(rows * chunk // chunks, rows * (chunk + 1) // chunks):
        for k in range(a.shape[1]):
            total[k] += a[i, k]


@jit(inner=True)
def add_chunks(k, thread, partial, total):
    """Fill total[k] with the sum of partial (chunks, K), in double precision."""
    exact = 0.0
    for chunk in range(partial.shape[0]):
        exact += partial[chunk, k]
    total[k] = exact


@jit
def _sum_rows(team, a, chunks, partial, total):
    share(team, chunks, _sum_chunk, (a, partial))
    share((1, team[1]), total.size, add_chunks, (partial, total))


def chunks_of(a: np.ndarray) -> int:
    """Return into how many chunks the rows of an array are cut."""
    return max(1, a.size // CHUNK)


def sum_pixels(a: np.ndarray, total: np.ndarray) -> None:
    """Fill total (K,) with the column sums of a (M, K): chunks cut by shape, added in order in double precision."""
    chunks = chunks_of(a)
    partial = scratch("sums", chunks * total.size, a.dtype)[: chunks * total.size].reshape(chunks, total.size)
    call_parallel(a.size > SERIAL_ELEMENTS, _sum_rows, a, chunks, partial, total)


@jit(inner=True)
def _chunks_part(task, thread, partial, total):
    first, after = task * CHUNK, min((task + 1) * CHUNK, total.size)
    for i in range(first, after):
        total[i] = partial[0, i]
    for chunk in range(1, partial.shape[0]):
        for i in range(first, after):
            total[i] += partial[chunk, i]


@jit
def sum_chunks(team, partial, total):
    """Fill total (elements,) with the sum of partial (chunks, elements), added in the order of the chunks."""
    share(team, (total.size + CHUNK - 1) // CHUNK, _chunks_part, (partial, total))


@jit(inner=True)
def _panels_row(row, thread, partial, panels_per_group, dw):
    chunks, panels, _, block = partial.shape
    out_channels = dw.shape[1] * panels_per_group // panels
    for panel in range(panels):
        g, k = panel // panels_per_group, panel % panels_per_group * block
        first = g * out_channels + k
        for lane in range(min(block, out_channels - k)):
            dw[row, first + lane] = partial[0, panel, row, lane]
        for chunk in range(1, chunks):
            for lane in range(min(block, out_channels - k)):
                dw[row, first + lane] += partial[chunk, panel, row, lane]


@jit
def sum_panels(team, partial, panels_per_group, dw):
    """Fill dw (rows, K) from chunks' sums (chunks, panels, rows, block lanes), added in the order of the chunks."""
    share(team, dw.shape[0], _panels_row, (partial, panels_per_group, dw))


@jit(inner=True)
def _merged_row(row, thread, partial, taps, channels, step, merge, dw):
    tap, c = row // channels, row % channels
    wide = taps + (merge - 1) * step
    place = (tap // taps * wide + tap % taps) * channels + c
    for k in range(dw.shape[1]):
        total = dw.dtype.type(0)
        for chunk in range(partial.shape[0]):
            for g in range(merge):
                total += partial[chunk, place + g * step * channels, g * dw.shape[1] + k]
        dw[row, k] = total


@jit
def sum_merged(team, partial, taps, channels, step, merge, dw):
    """Fill dw (rows, K) from sums (chunks, widened rows, lanes) whose lanes are (pixel, channel).

    Pixel g of a vector met the filter g * step taps further on.
    """
    share(team, dw.shape[0], _merged_row, (partial, taps, channels, step, merge, dw))


@jit(inner=True)
def _patches_row(row, thread, partial, dw):
    rows = dw.shape[0]
    for k in range(dw.shape[1]):
        total = dw.dtype.type(0)
        for chunk in range(partial.shape[0]):
            total += partial[chunk, k * rows + row]
        dw[row, k] = total


@jit
def sum_patches(team, partial, dw):
    """Fill dw (rows, K) from sums (chunks, ...) that hold the channels' whole filters one after the other."""
    share(team, dw.shape[0], _patches_row, (partial, dw))
