"""The sum of few outer products: the weight gradient of a fully connected layer for a batch of few images.

    dw[f, k] = sum over m of x[m, f] * dy[m, k]

With so few rows the time is that of writing dw, and to pack x and dy for the register tile would take longer. A row of
dw stays in L1 while the rows of dy are added to it, one after the other: the order of the tile.
"""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_MOVES
from fastcnn.kernels.cpu.simd.streaming import streams

MOST_ROWS = 4  # of x: with more the tile is as fast (measured)
BLOCK = 1 << 13  # elements of dw of a task


def suits(M: int, dw: np.ndarray) -> bool:
    """Say whether M outer products are best added up in dw; one that the caches do not hold is for the tile."""
    return 0 < M <= MOST_ROWS and not streams(dw)


@jit(inner=True)
def _rows(task, thread, x, dy, rows, dw):
    """Fill some rows of dw (F, K)."""
    (M, F), K = x.shape, dy.shape[1]
    for f in range(task * rows, min(F, task * rows + rows)):
        row, factor = dw[f], x[0, f]
        for k in range(K):
            row[np.uintp(k)] = factor * dy[0, np.uintp(k)] + dw.dtype.type(0)
        for m in range(1, M):
            factor = x[m, f]
            for k in range(K):
                row[np.uintp(k)] += factor * dy[m, np.uintp(k)]


@jit
def _outer(team, tasks, x, dy, rows, dw):
    share(team, tasks, _rows, (x, dy, rows, dw))


def outer_products(x: np.ndarray, dy: np.ndarray, dw: np.ndarray) -> None:
    """Fill dw (F, K) with x' dy, from x (M, F) and dy (M, K)."""
    F, K = dw.shape
    rows = max(1, BLOCK // max(1, K))
    call_parallel(dw.size > SERIAL_MOVES, _outer, -(-F // rows), x, dy, rows, dw)
