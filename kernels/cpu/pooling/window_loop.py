"""Sweeps: pooling's one loop over rows of outputs, shared among threads; `window_code.py` does a row."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastcnn.kernels.cpu.pooling.window_code import MAX, PICK, SCATTERS, call_sweep, sweep_code
from fastcnn.kernels.cpu.pooling.window_tables import Tables
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.simd.streaming import streams
from fastcnn.kernels.cpu.simd.tile import lanes_of

FETCHED = 1 << 18  # bytes of a source from which on what the next row needs is asked for ahead
FEW_ROWS, CUT = 16, 256  # fewer rows are cut into tasks of so many elements of each segment, or more


class Sweep(NamedTuple):
    """A sweep but for its arrays: all that shapes and dtypes decide."""

    code: int
    cuts: int
    cut: int
    outer: int
    steps: np.ndarray  # (2, 4): bytes from image to image and row to row, of source, winner, own, out
    sizes: tuple[int, int, int]
    image_size: int
    ahead: int
    starts: np.ndarray
    rows: np.ndarray
    row_values: np.ndarray
    segments: np.ndarray
    columns: np.ndarray


@jit(inner=True)
def _sweep_row(task, thread, sweep, places):
    """Do one cut of one row."""
    steps, sizes, ahead, outer = sweep.steps, sweep.sizes, sweep.ahead, sweep.outer
    starts, rows, segments, columns = sweep.starts, sweep.rows, sweep.segments, sweep.columns
    row, begin = task // sweep.cuts, task % sweep.cuts * sweep.cut
    image, at = row // outer, row % outer
    first, last = starts[at], starts[at + 1]
    source = places[0] + image * steps[0, 0] + row * steps[1, 0]
    winner = places[1] + image * steps[0, 1] + row * steps[1, 1]
    fetch = more = 0
    if ahead > 0 and at + 1 < outer and last > first and starts[at + 2] > last:
        # Beyond what this row meets, the next one meets as many rows as the windows move on.
        fetch = rows[last - 1, 0] + ahead
        more = rows[starts[at + 2] - 1, 0] - rows[last - 1, 0]
        if more < 0 or more > (starts[at + 2] - last) * ahead:  # rows in between are skipped
            more = 0
    elif ahead > 0 and at + 1 == outer and starts[1] > 0:
        fetch = sweep.image_size + rows[0, 0]
        more = rows[starts[1] - 1, 0] - rows[0, 0] + ahead
    winner_more = more * sizes[1] // sizes[2]
    more = more * sizes[0] // sizes[2]
    call_sweep(
        sweep.code, source, winner,
        rows.ctypes.data + first * rows.strides[0], last - first, sweep.row_values[at],
        segments.ctypes.data, segments.shape[0], columns.ctypes.data, begin, begin + sweep.cut,
        places[2] + image * steps[0, 2] + row * steps[1, 2],
        places[3] + image * steps[0, 3] + row * steps[1, 3],
        source + fetch * sizes[0], more, winner + fetch * sizes[1], winner_more,
    )  # fmt: skip


@jit
def _sweep_rows(team, tasks, fields, places):
    share(team, tasks, _sweep_row, (Sweep(*fields), places))


@lru_cache(maxsize=1024)
def _job(mode: int, tables: Tables, images: int, outer: int, channels: int, size: int, winner_size: int, large: bool,
         past: bool) -> tuple[int, tuple[Any, ...]]:  # fmt: skip
    """Return the tasks of a sweep and its fields, a plain tuple: Numba tells its types fast."""
    count = images * outer
    cuts = 1 if count >= FEW_ROWS else max(1, min(tables.longest // CUT, -(-FEW_ROWS // max(1, count))))
    cut = max(1, -(-tables.longest // (cuts * CUT))) * CUT
    lanes = lanes_of(size)
    image, row = (tables.image, 0), (0, tables.row)
    (of_source, of_out) = (row, image) if mode in SCATTERS else (image, row)
    of_winner = of_out if mode == MAX else of_source
    steps = np.array([of_source, of_winner, of_out, of_out], np.int64).T * (size, winner_size, size, size)
    vectors = -(-tables.row // lanes)
    fetched = (size, winner_size if mode == PICK else 0, max(1, vectors))
    ahead = tables.pitch if large and mode not in SCATTERS and cuts == 1 else 0
    code = sweep_code(mode, np.dtype(f"f{size}"), winner_size, past and channels % lanes == 0)
    return count * cuts, tuple(Sweep(
        code, cuts, cut, outer, np.ascontiguousarray(steps), fetched, tables.image, ahead, tables.starts, tables.rows,
        tables.row_values, tables.segments, tables.columns,
    ))  # fmt: skip


def sweep(
    mode: int, tables: Tables, source: np.ndarray, out: np.ndarray, winner: np.ndarray | None = None,
    own: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Fill out from source (N, D, H, W, C each) in a mode of `window_code.py`; MAX fills the winner, too."""
    images, depth, height, _, channels = (source if mode in SCATTERS else out).shape
    if out.size == 0:
        return
    winner_size = 0 if winner is None else winner.itemsize
    past = streams(out, lanes=lanes_of(out.itemsize))
    tasks, fields = _job(
        mode, tables, images, depth * height, channels, out.itemsize, winner_size, source.nbytes >= FETCHED, past
    )
    places = np.array([0 if array is None else array.ctypes.data for array in (source, winner, own, out)])
    call_parallel(max(source.size, out.size) > SERIAL_ELEMENTS, _sweep_rows, tasks, fields, places)
