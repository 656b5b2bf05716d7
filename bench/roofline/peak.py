"""The roofs of this machine, measured: multiply-adds out of L1, and bytes out of memory.

The first is the full register tile run over panels that stay in L1, by every thread: what the
convolution kernels could reach if their data were always at hand. The second is the triad a = b + s
* c over arrays that no cache holds, counting 12 bytes (float32) an element, as STREAM does
(McCalpin 1995).
"""

import time

import numpy as np

from fastcnn.kernels.cpu.runtime import launch
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.simd.tile import MAX_VECTORS, call_tile, tiles

STEPS = 64  # of the inner loop: panels of STEPS * (2 vectors + rows) elements, at most 16 KB
BATCH = 64  # times that one call runs over its panels: its loads and stores of C become negligible
CALLS = 200  # of the tile by each thread between two readings of the clock: milliseconds
REPEATS = 15
TRIAD_BYTES = 128 << 20  # of each of the three arrays


@jit(inner=True)
def _repeat_tile(t, thread, address, a, b, c, a_rows, batch_offsets, c_rows, lanes, calls):
    size = a.itemsize
    for _ in range(calls):
        call_tile(
            address,
            a.ctypes.data + t * a.shape[1] * size,
            a_rows.ctypes.data, batch_offsets.ctypes.data, 1,
            b.ctypes.data + t * b.shape[1] * size, 0, b.shape[1] // STEPS,
            c.ctypes.data + t * c.shape[1] * size, c_rows.ctypes.data,
            STEPS, batch_offsets.size, 0, lanes, 0, 0, a.ctypes.data, batch_offsets.ctypes.data, 0,
        )  # fmt: skip


@jit
def _run_tiles(team, address, a, b, c, a_rows, batch_offsets, c_rows, lanes, calls):
    """Run the tile `calls` times in each thread; a, b, c hold one panel per thread."""
    share(team, team[0], _repeat_tile, (address, a, b, c, a_rows, batch_offsets, c_rows, lanes, calls))


@jit(inner=True)
def _triad_chunk(i, thread, a, b, c, scale, chunk):
    part = slice(i * chunk, (i + 1) * chunk)
    to, first, second = a[part], b[part], c[part]
    for j in range(chunk):
        to[j] = first[j] + scale * second[j]


@jit
def _triad(team, a, b, c, scale, chunk):
    """Fill a with b + scale * c; views from 0 spare the loop the test for a negative index."""
    share(team, a.size // chunk, _triad_chunk, (a, b, c, scale, chunk))


def _median_seconds(threads, call):
    """Return the median time of `call` on this many threads, after one call to warm up."""
    before = launch.thread_count()
    launch.set_thread_count(threads)
    try:
        call()
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    finally:
        launch.set_thread_count(before)
    return float(np.median(seconds))


def measure(threads: int, dtype: np.dtype | type = np.float32) -> float:
    """Return the multiply-add peak of this many threads, in GFLOP/s (a multiply-add counts 2)."""
    table = tiles(dtype)
    width = MAX_VECTORS * table.lanes
    random = np.random.default_rng(0)
    a = random.standard_normal((threads, table.rows * STEPS)).astype(dtype)
    b = random.standard_normal((threads, STEPS * width)).astype(dtype)
    c = np.zeros((threads, table.rows * width), dtype)
    a_rows = np.arange(table.rows, dtype=np.int64) * STEPS
    c_rows = np.arange(table.rows, dtype=np.int64) * width
    batch_offsets = np.zeros(BATCH, np.int64)
    address = table.addresses[table.rows, MAX_VECTORS]
    seconds = _median_seconds(
        threads,
        lambda: call_parallel(True, _run_tiles, address, a, b, c, a_rows, batch_offsets, c_rows, table.lanes, CALLS),
    )
    return 2 * threads * CALLS * BATCH * STEPS * table.rows * width / seconds / 1e9


def bandwidth(threads: int) -> float:
    """Return the triad bandwidth of this many threads, in GB/s."""
    size = TRIAD_BYTES // 4
    a, b, c = (np.full(size, value, np.float32) for value in (0, 1, 2))
    seconds = _median_seconds(threads, lambda: call_parallel(True, _triad, a, b, c, np.float32(3), 1 << 16))
    return 3 * 4 * size / seconds / 1e9
