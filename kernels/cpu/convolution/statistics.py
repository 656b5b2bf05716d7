"""What a convolution's kernel summed up for the normalization beside it, from its records (`statistics_code.py`).

On the way forward: the statistics of its outputs. Sums are taken around a number for each channel that is known
beforehand, such as a running mean. In the dtype of the outputs they lose what such a number is off: where that is more
than FAR deviations of a channel, or the sums are not finite (as around a number that is not), the outputs are read
after all, and measured as `norm.py` does it.

On the way back, of a gradient dx by what a normalization of x made, the sums of `normalization/groups_backward.py`.

Records are joined in the order of their blocks, in float64.
"""

import numpy as np

from fastcnn.kernels.cpu.normalization.chunks import set_factors, workspace
from fastcnn.kernels.cpu.normalization.column_code import plan
from fastcnn.kernels.cpu.normalization.statistics import join_chunks, measure_chunk
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import LINE, scratch
from fastcnn.kernels.cpu.simd.epilogue import epilogue_of
from fastcnn.kernels.cpu.simd.epilogue_code import ADD, MEASURE
from fastcnn.kernels.cpu.simd.statistics_code import BIAS, FIRST, LIFT, ROWS, ROWS_BACK, SCALE, SECOND, SHIFT

Norm = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, tuple[float, float]]
"""A normalization: its input x, gamma, beta, mean and variance (1, K), eps, and between what it brings its output."""

FAR = 4.0  # squares around a number so many deviations from the mean are 17 times those around the mean
NO_SPREAD = 0.01  # of eps, added to the variance: less is nothing to the normalization, where nothing is off by more
SMALL = 1 << 15  # elements: for fewer no second thread wakes


def space(K: int, blocks: int, rows: int, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """Return records (blocks, rows * pitch) of K channels, and their pitch."""
    line = LINE // dtype.itemsize
    pitch = -(-K // line) * line
    size = blocks * rows * pitch
    return scratch("records", size, dtype)[:size].reshape(blocks, rows * pitch), pitch


@jit
def _begin(bias, shift, pitch, records):
    """Fill records whose sums are empty."""
    for block in range(records.shape[0]):
        record = records[block]
        for k in range(shift.size):
            record[np.uintp(BIAS * pitch + k)] = bias[np.uintp(k)] if bias.size > 0 else 0
            record[np.uintp(SHIFT * pitch + k)] = shift[np.uintp(k)]
            record[np.uintp(FIRST * pitch + k)] = 0
            record[np.uintp(SECOND * pitch + k)] = 0


def begin(bias: np.ndarray | None, shift: np.ndarray, blocks: int) -> tuple[np.ndarray, int, int]:
    """Return empty records for sums of y - shift (K,), their pitch, and the epilogue that takes them."""
    records, pitch = space(shift.size, blocks, ROWS, shift.dtype)
    call_serial(_begin, np.empty(0, shift.dtype) if bias is None else bias, shift, pitch, records)
    return records, pitch, epilogue_of(0, pitch=pitch) | MEASURE


@jit(inner=True)
def _sum_records(records, row, total):
    """Fill total (K,) with the sums of a row of all records."""
    total[:] = 0
    for block in range(records.shape[0]):
        for k in range(total.size):
            total[np.uintp(k)] += np.float64(records[np.uintp(block), np.uintp(row + k)])


@jit
def _join(team, code, y, records, pitch, shift, eps, cuts, parts, mean, variance):
    """Do `join`; where there are no sums, or they lost too much or left the range of the dtype, read y."""
    (_, L, C), centre, around, far = y.shape, mean[0], variance[0], records.shape[0] == 0
    if records.shape[0] > 0:
        _sum_records(records, FIRST * pitch, centre)
        _sum_records(records, SECOND * pitch, around)
    for k in range(C if records.shape[0] > 0 else 0):
        off = centre[k] / L
        squares = around[k] - off * centre[k]
        spread = max(squares, 0.0) / L if squares == squares else np.nan
        far = far or not (off * off <= FAR * FAR * (spread + NO_SPREAD * eps) < np.inf)
        centre[k], around[k] = np.float64(shift[k]) + off, spread
    if far:
        share(team, cuts[1], measure_chunk, (0, code, y, cuts, parts))
        join_chunks(0, C, L, cuts, parts, mean, variance)


def join(
    y: np.ndarray, records: np.ndarray, pitch: int, shift: np.ndarray, eps: float, mean: np.ndarray,
    variance: np.ndarray,
) -> None:  # fmt: skip
    """Fill the mean and biased variance (1, K), float64, of y (M, K), from records or, where there are none, from y.

    A shift is far where it is off by more than FAR times the square root of the variance and a small part of eps, or
    where these are not finite.
    """
    rows = y.reshape(1, -1, y.shape[-1])
    cuts, code = plan(rows)
    parts, _ = workspace(1, cuts[1], rows.shape[2], cuts[2], y.dtype)
    how = pitch, shift, float(eps), cuts, parts, mean, variance
    call_parallel(y.size > SMALL, _join, code, rows, records, *how)


@jit
def _begin_back(gamma, beta, mean, variance, eps, pitch, factors, records):
    """Fill records whose sums are empty, and what tells which gradients a clip let pass."""
    set_factors(gamma, beta, eps, mean, variance, factors)
    for block in range(records.shape[0]):
        record = records[block]
        for k in range(gamma.size):
            record[np.uintp(BIAS * pitch + k)] = 0
            record[np.uintp(SHIFT * pitch + k)] = factors[0, np.uintp(k)]
            record[np.uintp(FIRST * pitch + k)] = 0
            record[np.uintp(SECOND * pitch + k)] = 0
            record[np.uintp(SCALE * pitch + k)] = factors[1, np.uintp(k)]
            record[np.uintp(LIFT * pitch + k)] = factors[2, np.uintp(k)]


def begin_back(norm: Norm, dx: np.ndarray, total: np.ndarray | None, blocks: int) -> tuple[np.ndarray, int, int]:
    """Return empty records for sums of dx, plus `total`, their pitch, and the epilogue that adds and sums."""
    x, gamma, beta, mean, variance, eps, bounds = norm
    records, pitch = space(gamma.size, blocks, ROWS_BACK, x.dtype)
    factors = scratch("record factors", 5 * gamma.size, x.dtype)[: 5 * gamma.size].reshape(5, gamma.size)
    call_serial(_begin_back, gamma, beta, mean[0], variance[0], float(eps), pitch, factors, records)
    away = 0 if total is None else total.ctypes.data - dx.ctypes.data
    words = epilogue_of(0, *bounds, away, pitch, x.ctypes.data - dx.ctypes.data)
    return records, pitch, words | MEASURE | (0 if total is None else ADD)


@jit
def _join_back(records, pitch, sums):
    _sum_records(records, FIRST * pitch, sums[0])
    _sum_records(records, SECOND * pitch, sums[1])


def join_back(records: np.ndarray, pitch: int, sums: np.ndarray) -> None:
    """Fill the sums (2, K), float64, of g and of g * (x - shift), from records."""
    call_serial(_join_back, records, pitch, sums)
