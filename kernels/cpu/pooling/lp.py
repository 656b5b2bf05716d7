"""The p-norm of every window, (sum |x|^p)^(1/p), and its gradient; `pool.py` defines both.

Arrays: x (N, D, H, W, C), window (T, R, S), y (N, O, P, Q, C). The powers 1 and 2 are sweeps; others call `pow`.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.pooling.window_code import NORM, SIGNED, SIZES, TIMES
from fastcnn.kernels.cpu.pooling.window_loop import sweep
from fastcnn.kernels.cpu.pooling.window_tables import Tables, tables, window_axis
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS, SERIAL_POWERS
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.problem import Triple

BLOCK = 1 << 14  # elements a thread takes at once


class Meetings(NamedTuple):
    """Which elements the windows of a row meet: parts of `Tables`, and the rows of an image."""

    outer: int
    starts: np.ndarray
    rows: np.ndarray
    segments: np.ndarray
    columns: np.ndarray
    row: int
    image: int


@lru_cache(maxsize=256)
def _tables(transposed, C, image, output, window, stride) -> Tables:
    axes = list(map(window_axis, image, output, window, stride, (0, 0, 0)))
    return tables([axis.transpose() for axis in axes] if transposed else axes, C, codes=False)


@jit(inner=True)
def _norm_row(task, thread, met, x, power, y):
    """Fill one row of y, an element at a time."""
    _, starts, rows, segments, columns, _, image = met
    n, at, to, root = task // met.outer, task % met.outer, task * met.row, 1 / power
    for segment in range(segments.shape[0]):
        place, length = segments[segment, 0], segments[segment, 1]
        first, last = segments[segment, 2], segments[segment, 2] + segments[segment, 3]
        for i in range(length):
            total = 0.0
            for r in range(starts[at], starts[at + 1]):
                for c in range(first, last):
                    total += abs(x[n * image + rows[r, 0] + columns[c, 0] + i]) ** power
            y[to + place + i] = total**root


@jit(inner=True)
def _norm_back_row(task, thread, met, x, y, dy, power, dx):
    """Fill one row of dx; |x| / y is at most 1, so that no power of it overflows."""
    _, starts, rows, segments, columns, _, image = met
    n, at, to = task // met.outer, task % met.outer, task * met.row
    for segment in range(segments.shape[0]):
        place, length = segments[segment, 0], segments[segment, 1]
        first, last = segments[segment, 2], segments[segment, 2] + segments[segment, 3]
        for i in range(length):
            here = x[to + place + i]
            size, total = abs(here), 0.0
            for r in range(starts[at], starts[at + 1]):
                for c in range(first, last):
                    source = n * image + rows[r, 0] + columns[c, 0] + i
                    if y[source] != 0 and size != 0:
                        total += dy[source] * (size / y[source]) ** (power - 1)
            dx[to + place + i] = -total if here < 0 else total


@jit
def _norm_rows(team, tasks, met, x, power, y):
    share(team, tasks, _norm_row, (Meetings(*met), x, power, y))


@jit
def _norm_back_rows(team, tasks, met, x, y, dy, power, dx):
    share(team, tasks, _norm_back_row, (Meetings(*met), x, y, dy, power, dx))


@jit(inner=True)
def _quotient_block(block, thread, dy, y, out):
    """Fill a block of out with dy / y, and 0 where y is 0."""
    zero = y.dtype.type(0)
    for i in range(block * BLOCK, min(y.size, block * BLOCK + BLOCK)):
        quotient = dy[np.uintp(i)] / y[np.uintp(i)]
        out[np.uintp(i)] = zero if y[np.uintp(i)] == zero else quotient


@jit
def _quotients(team, dy, y, out):
    share(team, (y.size + BLOCK - 1) // BLOCK, _quotient_block, (dy, y, out))


def lp_pool_forward(x: np.ndarray, power: float, window: Triple, stride: Triple, y: np.ndarray) -> None:
    """Fill y with the p-norm of every window."""
    found = _tables(False, x.shape[4], x.shape[1:4], y.shape[1:4], window, stride)
    if power in (1, 2):
        sweep(NORM if power == 2 else SIZES, found, x, y)
    else:
        _by_element(_norm_rows, found, y, x.reshape(-1), power)


def lp_pool_backward_input(
    x: np.ndarray, y: np.ndarray, dy: np.ndarray, power: float, window: Triple, stride: Triple, dx: np.ndarray
) -> None:
    """Fill dx: every pixel collects dy sign(x) (|x| / y)^(p - 1) from its windows, and 0 from those whose y is 0."""
    found = _tables(True, dx.shape[4], dx.shape[1:4], dy.shape[1:4], window, stride)
    if power == 1:
        sweep(SIGNED, found, dy, dx, own=x)
    elif power == 2:
        quotients = scratch("quotients", dy.size, dy.dtype)[: dy.size]
        call_parallel(dy.size > SERIAL_ELEMENTS, _quotients, dy.reshape(-1), y.reshape(-1), quotients)
        sweep(TIMES, found, quotients.reshape(dy.shape), dx, own=x)
    else:
        _by_element(_norm_back_rows, found, dx, x.reshape(-1), y.reshape(-1), dy.reshape(-1), power)


def _by_element(kernel, found, out, *given):
    """Run a kernel over the rows of out."""
    outer = out.shape[1] * out.shape[2]
    met = outer, found.starts, found.rows, found.segments, found.columns, found.row, found.image
    tasks, power = out.shape[0] * outer, float(given[-1])
    call_parallel(out.size > SERIAL_POWERS, kernel, tasks, met, *given[:-1], power, out.reshape(-1))
