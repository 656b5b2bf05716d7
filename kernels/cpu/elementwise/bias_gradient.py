"""The gradient through an activation and its sums over the pixels, a layer's gradient by its bias, in one pass.

    dy[m, k] = g(kept[m, k], dy[m, k], a, b)     db[k] = sum over m of dy[m, k]

A run of dy is summed while L1 holds it; a pass of its own would read all of dy from memory again. The sums are cut as
`reduction/pixels.py` cuts them, and have the same bits.
"""

import numpy as np

from fastcnn.kernels.cpu.elementwise.map import RUN, Pair, fetch_ahead
from fastcnn.kernels.cpu.reduction.pixels import SERIAL_ELEMENTS, add_chunks, chunks_of
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.cpu_info import cache_bytes
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.epilogue import call_run
from fastcnn.kernels.cpu.simd.tile import copy_bytes


@jit(inner=True)
def _chunk(chunk, thread, run, kept, dy, a, b, ahead, buffers, partial):
    """Take one chunk of dy's rows through the gradient, and add it up."""
    (rows, K), size, buffer, total = dy.shape, dy.itemsize, buffers[thread], partial[chunk]
    step, last = buffer.size // K, rows * (chunk + 1) // partial.shape[0]
    total[:] = 0
    for row in range(rows * chunk // partial.shape[0], last, step):
        count, at = min(step, last - row), size * row * K
        given, back = kept.ctypes.data + at, dy.ctypes.data + at
        if ahead:
            fetch_ahead(given + buffer.nbytes, back + buffer.nbytes, size * count * K)
        call_run(run, given, back, buffer.ctypes.data, count * K, a, b)
        copy_bytes(back, buffer.ctypes.data, size * count * K)
        for i in range(count):
            for k in range(K):
                total[np.uintp(k)] += buffer[np.uintp(i * K + k)]


@jit
def _gradient_sums(team, run, kept, dy, a, b, ahead, buffers, partial, db):
    share(team, partial.shape[0], _chunk, (run, kept, dy, a, b, ahead, buffers, partial))
    share((1, team[1]), db.size, add_chunks, (partial, db))


def apply_gradient_sums(
    pair: Pair, kept: np.ndarray, dy: np.ndarray, db: np.ndarray, a: float = 0.0, b: float = 0.0
) -> None:
    """Take dy (..., K) through the gradient of a pair, in place, and fill db (K,) with its sums."""
    K, chunks = db.size, chunks_of(dy)
    parallel = dy.size > SERIAL_ELEMENTS
    threads, held = threads_for(parallel), max(1, RUN // K) * K
    buffers = scratch("runs", threads * held, dy.dtype)[: threads * held].reshape(threads, held)
    partial = scratch("sums", chunks * K, dy.dtype)[: chunks * K].reshape(chunks, K)
    call_parallel(parallel, _gradient_sums, pair.address("g", dy.dtype), kept.reshape(-1, K), dy.reshape(-1, K),
                  float(a), float(b), 2 * dy.nbytes > cache_bytes().L2, buffers, partial, db)  # fmt: skip
