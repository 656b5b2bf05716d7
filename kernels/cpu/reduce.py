"""Sums over pixels in a fixed order, the same for any number of threads."""

import numpy as np
from numba import prange

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.workspace import scratch

CHUNK = 16384  # elements of one partial sum
SERIAL_ELEMENTS = 100_000  # fewer are summed by one thread: a parallel region costs 9 us


@jit
def _sum_chunk(a, first, last, total):
    total[:] = 0
    for i in range(first, last):
        for k in range(a.shape[1]):
            total[k] += a[i, k]


@jit(parallel=True)
def _sum_rows(a, chunks, partial, total):
    rows = a.shape[0]
    for chunk in prange(chunks):
        _sum_chunk(a, rows * chunk // chunks, rows * (chunk + 1) // chunks, partial[chunk])
    for k in range(a.shape[1]):
        exact = 0.0
        for chunk in range(chunks):
            exact += partial[chunk, k]
        total[k] = exact


def sum_pixels(a: np.ndarray, total: np.ndarray) -> None:
    """Fill total (K,) with the column sums of a (M, K): chunks cut by shape, added in order in double precision."""
    chunks = max(1, a.size // CHUNK)
    partial = scratch("sums", chunks * total.size, a.dtype)[: chunks * total.size].reshape(chunks, total.size)
    call_parallel(a.size > SERIAL_ELEMENTS, _sum_rows, a, chunks, partial, total)
