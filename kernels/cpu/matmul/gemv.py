"""The product of very few rows with a large matrix: the matrix is read once, where it lies, as fast as memory gives it.

    y[m, k] = b[k] + sum over t, f of x[m, t, f] * w[t, f, k]     or, transposed, x[m, f] * w[k, f]

With so few rows nothing is done twice with an element of w, and a copy of it in the caches (`skinny_gemm.py`) would
take longer than the sums. A task goes down a long run of rows of w, several at a time, from end to end: the
numbers of x stay in registers, the sums in L1, and w comes in a few long streams. Tasks are runs of rows of w, not
columns, which would be short stretches of memory; each leaves sums of its own, and those are added up at the end, in
the order of the tasks, which are cut by the shape alone. The transposed product is one of dot products with rows of w.
"""

from functools import cache, lru_cache

import numpy as np
from llvmlite import ir

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_MOVES
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.epilogue import finish, in_memory
from fastcnn.kernels.cpu.simd.epilogue_code import clip_run
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.tile import (
    DOT_CHANNELS,
    DOT_MIN_RUN,
    DOT_ROWS,
    call_dot,
    tile_shape,
    tiles,
    zero_bytes,
)
from fastcnn.kernels.cpu.simd.vector import Value, VectorFunction, i64, vector_registers

MOST_LINES = 8  # rows of w at a time: as many streams as the fetching hardware of CPUs follows
FEWEST_LINES = 2  # with fewer the sums pass between L1 and registers as often as w comes
MOST_ROWS = 5  # of x, too, for that reason: with more a copy of w pays (measured)
FEWEST_COLUMNS = 64  # below which the sums of a column are added one after the other, each waiting for the last
MOST_WIDTH = 1 << 12  # columns of a task: the sums of a row stay in L1
MOST_PARTS = 32  # runs of rows of w, enough for 16 threads: their sums are hardly anything beside w
FEWEST_ELEMENTS = 1 << 14  # of w in a part
FINISHED = 1 << 9  # columns whose sums are added up at once

STREAM = Signature("x x_rows w step y pitch rows columns")
call_stream = STREAM.call  # addresses in bytes, steps and offsets in elements


@cache
def most_rows() -> int:
    """Return the rows of x that fit: half of the registers hold their numbers."""
    return min(MOST_ROWS, vector_registers()[1] // 2 // FEWEST_LINES)


def suits(M: int, F: int, K: int, transposed: bool) -> bool:
    """Say whether w is best read where it lies, for M rows of x of F elements and of y of K."""
    if transposed:
        return F >= DOT_MIN_RUN and M <= DOT_ROWS
    return K >= FEWEST_COLUMNS and most_rows() >= M


def _emit_stream(module: ir.Module, M: int, dtype: np.dtype, lanes: int) -> None:
    """Write stream_M: y[m] += sum over f < rows of x[m, f] * w[f], for M rows of x and of y and `columns` of w.

    The rows of x stand at the offsets of a table, those of w `step` elements apart and those of y `pitch`.
    """
    f = VectorFunction(module, f"stream_{M}", STREAM, dtype, lanes)
    b, given = f.b, f.arguments
    (x, w, y), x_rows = f.pointers("x w y"), f.pointer(given.x_rows, i64)
    xs = [b.gep(x, [b.load(b.gep(x_rows, [i64(m)]))]) for m in range(M)]
    ys = [b.gep(y, [b.mul(given.pitch, i64(m))]) for m in range(M)]
    whole = b.sdiv(given.columns, i64(lanes))
    past = b.mul(whole, i64(lanes))
    last = f.mask_below(b.sub(given.columns, past))

    def lines(count: int):
        def body(_: Value, carried: list[Value]) -> list[Value]:
            w_f, *x_f = carried
            numbers = [[f.splat(b.load(b.gep(row, [i64(u)]), align=f.size)) for u in range(count)] for row in x_f]
            starts = [b.gep(w_f, [b.mul(given.step, i64(u))]) for u in range(count)]

            def column(at: Value, mask: Value | None = None) -> list[Value]:
                vectors = [f.load(f.at(start, at), mask) for start in starts]
                for factors, row in zip(numbers, ys, strict=True):
                    place = f.at(row, at)
                    total = f.load(place, mask)
                    for factor, vector in zip(factors, vectors, strict=True):
                        total = b.call(f.fma, [factor, vector, total])
                    f.store(total, place, mask)
                return []

            f.loop(whole, [], lambda i, _: column(b.mul(i, i64(lanes))))
            column(past, last)
            return [b.gep(w_f, [b.mul(given.step, i64(count))]), *(b.gep(row, [i64(count)]) for row in x_f)]

        return body

    together = min(MOST_LINES, vector_registers()[1] // 2 // M)
    carried = f.loop(b.sdiv(given.rows, i64(together)), [w, *xs], lines(together))
    f.loop(b.srem(given.rows, i64(together)), carried, lines(1))
    b.ret_void()


_loaded: dict[np.dtype, np.ndarray] = {}


def _load(dtype: np.dtype) -> np.ndarray:
    lanes, shapes = tile_shape(dtype.itemsize)[1], range(1, most_rows() + 1)

    def emit(module: ir.Module) -> None:
        for M in shapes:
            _emit_stream(module, M, dtype, lanes)

    address = load_functions(f"stream-{dtype.name}", emit)
    return np.array([0, *(address(f"stream_{M}") for M in shapes)])


@lru_cache(maxsize=256)
def cut(lines: int, K: int) -> tuple[int, int, int, int]:
    """Return (rows of w of a part, parts, columns of a task, blocks of columns) for w of so many lines of K."""
    blocks = -(-K // MOST_WIDTH)
    parts = max(1, min(MOST_PARTS // blocks, lines * K // FEWEST_ELEMENTS, lines // MOST_LINES))
    each = -(-lines // parts)
    return each, -(-lines // each), -(-K // blocks), blocks


@jit(inner=True)
def _stream_task(task, thread, address, x, F, w, places, starts, sizes, sums):
    """Fill a block of columns of one part's sums."""
    (_, M, K), size, (each, wide, blocks) = sums.shape, sums.itemsize, sizes
    part, first = task // blocks, task % blocks * wide
    columns, line, end = min(wide, K - first), part * each, min((part + 1) * each, starts.size * F)
    target = sums.ctypes.data + size * (part * M * K + first)
    for m in range(M):
        zero_bytes(target + size * m * K, size * columns)
    while line < end:
        t, f = line // F, line % F
        lines, source = min(end - line, F - f), w.ctypes.data + size * (line * K + first)
        from_ = x.ctypes.data + size * (starts[t] + f)
        call_stream(address, from_, places.ctypes.data, source, K, target, K, lines, columns)
        line += lines


@jit(inner=True)
def _add_task(task, thread, sums, bias, epilogue, y):
    """Fill some columns of y with the sums of all parts, in their order."""
    (parts, M, K), first = sums.shape, task * FINISHED
    last = min(K, first + FINISHED)
    for m in range(M):
        for k in range(first, last):
            y[m, np.uintp(k)] = sums[0, m, np.uintp(k)] + (bias[np.uintp(k)] if bias.size > 0 else 0)
        for part in range(1, parts):
            for k in range(first, last):
                y[m, np.uintp(k)] += sums[part, m, np.uintp(k)]
        clip_run(y[m], first, last, epilogue)
    finish(epilogue, y.ctypes.data + y.itemsize * first, M, K, 1, last - first, last - first, y.itemsize)


@jit
def _product(team, address, x, F, w, places, starts, sizes, sums, bias, epilogue, y):
    parts, _, K = sums.shape
    share(team, parts * sizes[2], _stream_task, (address, x, F, w, places, starts, sizes, sums))
    share(team, (K + FINISHED - 1) // FINISHED, _add_task, (sums, bias, epilogue, y))


def product(
    x: np.ndarray, places: np.ndarray, starts: np.ndarray, w: np.ndarray, b: np.ndarray | None, epilogue: int,
    y: np.ndarray,
) -> None:  # fmt: skip
    """Fill y (M, K) with rows of x times w (parts, F, K), plus b (K,), after an epilogue (see `simd/epilogue.py`).

    Row m of part t begins at places[m] + starts[t], in elements from the first of x.
    """
    (T, F, K), M, dtype = w.shape, len(y), w.dtype
    each, parts, wide, blocks = cut(T * F, K)
    addresses = load_once(_loaded, dtype, lambda: _load(dtype))
    sums = scratch("parts of sums", parts * y.size, dtype)[: parts * y.size].reshape(parts, M, K)
    bias = np.empty(0, dtype) if b is None else b
    call_parallel(w.size > SERIAL_MOVES, _product, addresses[M], x.reshape(-1), F, w.reshape(-1), places, starts,
                  (each, wide, blocks), sums, bias, in_memory(epilogue), y)  # fmt: skip


@jit(inner=True)
def _dot_task(task, thread, dots, x, w, places, starts, each, y, y_rows):
    """Fill the columns of y that belong to a run of w's rows."""
    (K, F), M, size = w.shape, y.shape[0], y.itemsize
    end = min(K, (task + 1) * each)
    for k in range(task * each, end, DOT_CHANNELS):
        source, target = w.ctypes.data + size * k * F, y.ctypes.data + size * k
        call_dot(dots[M, min(DOT_CHANNELS, end - k)], x.ctypes.data, places.ctypes.data, starts.ctypes.data, source, F,
                 target, y_rows.ctypes.data, F, 1, 0, 0)  # fmt: skip


@jit
def _dots(team, tasks, dots, x, w, places, starts, each, y, y_rows):
    share(team, tasks, _dot_task, (dots, x, w, places, starts, each, y, y_rows))


def product_transposed(
    x: np.ndarray, places: np.ndarray, starts: np.ndarray, w: np.ndarray, y_rows: np.ndarray, y: np.ndarray
) -> None:
    """Fill y (M, K) with rows of x times w' for w (K, F): dot products with the rows of w, a few at a time."""
    K, F = w.shape
    each = DOT_CHANNELS * max(-(-K // (DOT_CHANNELS * MOST_PARTS)), -(-FEWEST_ELEMENTS // (DOT_CHANNELS * F)))
    call_parallel(w.size > SERIAL_MOVES, _dots, -(-K // each), tiles(x.dtype).dots, x.reshape(-1), w, places, starts,
                  each, y, y_rows)  # fmt: skip
