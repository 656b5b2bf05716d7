"""Several arrays in one: sums, products and concatenation, and how their gradients part again.

    sum             y = x_1 + x_2 + ...          dx_i = dy
    concatenation   x_i (A, L_i)   y (A, sum of L_i)   rows side by side
    gate            x (A, B, C)   gate (A, C)   y = x * gate   dgate = sum over B of dy * x

All are bound by memory: every array crosses the bus once, in blocks that stay in the first cache for
as long as they are worked on.
"""

from collections.abc import Sequence

import numpy as np

from fastcnn.kernels.cpu.elementwise.map import Pair, call
from fastcnn.kernels.cpu.gain import PRODUCT
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_MOVES
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.copy import VECTOR_BYTES, addresses_of, array_at, copy_run, stream_run
from fastcnn.kernels.cpu.simd.streaming import streams

BLOCK = 1 << 14  # elements of a task: with those of two inputs they stay in the second cache
NARROW = 16  # elements: rows up to so many are copied column by column, which has no loop of a few turns inside
PIECE = 1 << 12  # elements of a task that does so: they stay in the first cache
LONG = 1 << 9  # elements of a row: of shorter ones too many lines are stored in two parts
LEAST_ROWS = 32  # of a part of B, whose sums are one row more
LANES = 64  # elements: rows shorter than half of it are taken several at a time


@jit(inner=True)
def add_block(block, thread, addresses, y):
    """Fill a block of y with the sum of the arrays at the addresses."""
    first, last, start = block * BLOCK, min(y.size, block * BLOCK + BLOCK), 1
    if addresses[0] != y.ctypes.data:
        a = array_at(addresses[0], y)
        if addresses.size == 1:
            for i in range(first, last):
                y[np.uintp(i)] = a[np.uintp(i)]
        else:
            b, start = array_at(addresses[1], y), 2
            for i in range(first, last):
                y[np.uintp(i)] = a[np.uintp(i)] + b[np.uintp(i)]
    for k in range(start, addresses.size):
        b = array_at(addresses[k], y)
        for i in range(first, last):
            y[np.uintp(i)] += b[np.uintp(i)]


@jit
def add_blocks(team, addresses, y):
    """Do `add_forward` on flat arrays."""
    share(team, (y.size + BLOCK - 1) // BLOCK, add_block, (addresses, y))


@jit(inner=True)
def plus(x, z, a, b):
    """Return x + z."""
    return x + z


SUM = Pair(None, plus)


def add_forward(xs: Sequence[np.ndarray], y: np.ndarray) -> None:
    """Fill y with the sum of the xs, added up in their order; y may be the first."""
    if len(xs) == 2 and y is not xs[0]:
        call(SUM.address("g", y.dtype), xs[0], 0, xs[1], y)
    else:
        call_parallel(y.size > SERIAL_MOVES, add_blocks, addresses_of(xs), y.reshape(-1))


@jit(inner=True)
def spread_block(block, thread, dy, addresses):
    """Copy a block of dy to the arrays at the addresses."""
    first, last = block * BLOCK, min(dy.size, block * BLOCK + BLOCK)
    for k in range(addresses.size):
        if addresses[k]:
            dx = array_at(addresses[k], dy)
            for i in range(first, last):
                dx[np.uintp(i)] = dy[np.uintp(i)]


@jit
def spread_blocks(team, dy, addresses):
    """Do `add_backward_input` on flat arrays."""
    share(team, (dy.size + BLOCK - 1) // BLOCK, spread_block, (dy, addresses))


def add_backward_input(dy: np.ndarray, dxs: Sequence[np.ndarray | None]) -> None:
    """Fill every array of dxs with dy."""
    call_parallel(dy.size > SERIAL_MOVES, spread_blocks, dy.reshape(-1), addresses_of(dxs))


@jit(inner=True)
def concat_block(block, thread, addresses, widths, row, joining, past_caches, y):
    """Copy a block of y, of rows of `row` elements, from the arrays at the addresses or (not `joining`) to them."""
    at, last = block * BLOCK, min(y.size, block * BLOCK + BLOCK)
    n, inside, k = at // row, at % row, 0
    while inside >= widths[k]:
        inside -= widths[k]
        k += 1
    while at < last:
        width = widths[k]
        count, start = min(width - inside, last - at), n * width + inside
        if addresses[k]:
            x = array_at(addresses[k], y)
            source, place, target, to = (x, start, y, at) if joining else (y, at, x, start)
            if past_caches:
                stream_run(source, place, target, to, count)
            else:
                copy_run(source, place, target, to, count)
        at += count
        inside, k = 0, k + 1
        if k == widths.size:
            k, n = 0, n + 1


@jit(inner=True)
def concat_columns(task, thread, addresses, widths, row, joining, y):
    """Copy some whole rows of y from the arrays at the addresses or (not `joining`) to them, column by column."""
    height = max(1, PIECE // row)
    first, last, column = task * height, min(y.size // row, task * height + height), 0
    for k in range(widths.size):
        width = widths[k]
        if addresses[k]:
            x = array_at(addresses[k], y)
            for i in range(width):
                if joining:
                    for n in range(first, last):
                        y[np.uintp(n * row + column + i)] = x[np.uintp(n * width + i)]
                else:
                    for n in range(first, last):
                        x[np.uintp(n * width + i)] = y[np.uintp(n * row + column + i)]
        column += width


@jit
def concat_blocks(team, addresses, widths, joining, past_caches, y):
    """Do `concat_forward` or `concat_backward_input` on flat arrays."""
    row = widths.sum()
    if y.size and widths.max() <= NARROW:
        height = max(1, PIECE // row)
        share(team, (y.size // row + height - 1) // height, concat_columns, (addresses, widths, row, joining, y))
    else:
        given = (addresses, widths, row, joining, past_caches, y)
        share(team, (y.size + BLOCK - 1) // BLOCK, concat_block, given)


def concat_forward(xs: Sequence[np.ndarray], y: np.ndarray) -> None:
    """Fill the rows of y (A, sum of L_i) with those of the xs (A, L_i), side by side."""
    concat(addresses_of(xs), [x.shape[1] for x in xs], True, y)


def concat_backward_input(dy: np.ndarray, widths: Sequence[int], dxs: Sequence[np.ndarray | None]) -> None:
    """Fill dxs (A, L_i), of these widths, with their parts of dy's rows; None is left out."""
    concat(addresses_of(dxs), widths, False, dy)


def concat(addresses: np.ndarray, widths: Sequence[int], joining: bool, y: np.ndarray) -> None:
    """Share the blocks of y among threads; those of whole cache lines, or of many, are stored past the caches."""
    lines = all(width * y.itemsize % VECTOR_BYTES == 0 for width in widths)
    past_caches = streams(y) and (lines or sum(widths) >= LONG)
    array = np.array(widths, np.int64)
    call_parallel(y.size > SERIAL_MOVES, concat_blocks, addresses, array, joining, past_caches, y.reshape(-1))


@jit
def cut(A, B, C):
    """Return how many of A a task takes, and into how many parts, of how many rows, it cuts B: one of the two is 1."""
    if B * C <= 2 * BLOCK:
        return max(1, BLOCK // max(1, B * C)), 1, B
    rows = max(LEAST_ROWS, BLOCK // C)
    return 1, (B + rows - 1) // rows, rows


@jit(inner=True)
def repeats(C):
    """Return how many rows of C elements are taken at a time."""
    return 1 if 2 * C >= LANES else LANES // C


@jit(inner=True)
def gate_rows(x, gate, y, at, rows, C, factors):
    """Fill `rows` rows of y from `at` on with those of x times a gate of C elements; `factors` has room for them."""
    width, length = repeats(C) * C, rows * C
    if width == C:
        factors = gate
    for start in range(0, width if width > C else 0, C):
        for c in range(C):
            factors[np.uintp(start + c)] = gate[np.uintp(c)]
    for start in range(0, length, width):
        for i in range(min(width, length - start)):
            y[np.uintp(at + start + i)] = x[np.uintp(at + start + i)] * factors[np.uintp(i)]


@jit(inner=True)
def gate_block(task, thread, x, gate, y, A, B, C):
    """Multiply some of A, or a part of B, by their gates."""
    several, parts, rows = cut(A, B, C)
    factors = np.empty(repeats(C) * C, y.dtype)
    a, b = task // parts * several, task % parts * rows
    for image in range(a, min(A, a + several)):
        at, count = (image * B + b) * C, min(rows, B - b)
        if C == 1:
            factor = gate[np.uintp(image)]
            for i in range(at, at + count):
                y[np.uintp(i)] = x[np.uintp(i)] * factor
        else:
            gate_rows(x, gate[image * C : image * C + C], y, at, count, C, factors)


@jit
def gate_blocks(team, x, gate, y, A, B, C):
    """Do `multiply_forward` on flat arrays."""
    if y.size:
        several, parts, _ = cut(A, B, C)
        share(team, (A + several - 1) // several * parts, gate_block, (x, gate, y, A, B, C))


def multiply_forward(x: np.ndarray, gate: np.ndarray, y: np.ndarray) -> None:
    """Fill y (A, B, C) with x (A, B, C) times gate (A, C); with dy for x this is the gradient by x."""
    if x.shape[1] == 1:
        call(PRODUCT.address("g", y.dtype), gate, 0, x, y)
    else:
        call_parallel(y.size > SERIAL_MOVES, gate_blocks, x.reshape(-1), gate.reshape(-1), y.reshape(-1), *x.shape)


@jit(inner=True)
def gate_sums(x, dy, at, rows, C, sums, partial, to):
    """Fill C elements of `partial` from `to` on with the sums of dy * x over `rows` rows; `sums` has room for them.

    The sums are float64, whatever the arrays are: memory is slower all the same.
    """
    width, length = repeats(C) * C, rows * C
    sums[:] = 0
    for start in range(0, length, width):
        for i in range(min(width, length - start)):
            sums[np.uintp(i)] += np.float64(dy[np.uintp(at + start + i)]) * np.float64(x[np.uintp(at + start + i)])
    for c in range(C):
        partial[np.uintp(to + c)] = sums[np.uintp(c)]
    for start in range(C, width, C):
        for c in range(C):
            partial[np.uintp(to + c)] += sums[np.uintp(start + c)]


@jit(inner=True)
def gate_sum_block(task, thread, x, dy, partial, A, B, C):
    """Sum over B for some of A, or over a part of B; the sums of parts stand side by side in `partial`."""
    several, parts, rows = cut(A, B, C)
    sums = np.empty(repeats(C) * C, np.float64)
    a, b = task // parts * several, task % parts * rows
    for image in range(a, min(A, a + several)):
        at, to = (image * B + b) * C, (image * parts + task % parts) * C
        gate_sums(x, dy, at, min(rows, B - b), C, sums, partial, to)


@jit
def gate_sum_blocks(team, x, dy, partial, dgate, A, B, C):
    """Do `multiply_backward_gate` on flat arrays; `partial` holds the sums of parts."""
    several, parts, _ = cut(A, B, C)
    share(team, (A + several - 1) // several * parts, gate_sum_block, (x, dy, partial, A, B, C))
    for a in range(A):
        for part in range(1, parts):
            for c in range(C):
                partial[np.uintp(a * parts * C + c)] += partial[np.uintp((a * parts + part) * C + c)]
        for c in range(C):
            dgate[np.uintp(a * C + c)] = partial[np.uintp(a * parts * C + c)]


def multiply_backward_gate(x: np.ndarray, dy: np.ndarray, dgate: np.ndarray) -> None:
    """Fill dgate (A, C) with the sum of dy * x over B."""
    if not dgate.size:
        return
    A, B, C = x.shape
    flat = x.reshape(-1), dy.reshape(-1)
    if B == 1:
        multiply_forward(x, dy.reshape(A, C), dgate.reshape(A, 1, C))
        return
    partial = scratch("gate sums", A * cut(A, B, C)[1] * C, np.dtype(np.float64))
    call_parallel(x.size > SERIAL_MOVES, gate_sum_blocks, *flat, partial, dgate.reshape(-1), A, B, C)
