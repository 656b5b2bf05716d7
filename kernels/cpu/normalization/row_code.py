"""Sums and scaling of short rows, as vector code: a row of a few dozen elements is too short for a loop of its own.

    total     first[m] = sum of x[m] - shift[m]
    square    first[m] = sum of x[m] - shift[m],       second[m] = sum of its squares
    product   first[m] = sum of dy[m] * gamma,         second[m] = sum of dy[m] * gamma * (x[m] - shift[m])
    scale     y[m] = gamma * ((x[m] - shift[m]) * scale[m] + offset[m]) + beta
    gradient  dx[m] = dy[m] * gamma * scale[m] - ((x[m] - shift[m]) * slope[m] + offset[m]), and, added over all rows,
              along += dy[m] * ((x[m] - shift[m]) * scale[m] + lift[m]),    given += dy[m]

x, y, dy, dx (rows, F), and along, given, gamma, beta (F,). Sums go over as many rows side by side as a vector has
lanes: the lanes of two rows' sums are added in pairs to one vector, those of two such vectors again, until one vector
holds a sum of each row; so no row ends in a reduction of its own, and what is computed of the sums is, for all rows, in
vectors too. The gradients by gamma and beta stay in registers while the rows pass.

Written on `VectorFunction`, as the tile is.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.tile import tile_shape
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i32, i64

SUMS = Signature("x dy gamma pitch rows count shift shift_step first second")
SCALE = Signature("x y gamma beta rows F factors pitch ahead")
GRADIENT = Signature("x dy dx gamma rows F factors pitch along given ahead")
# Addresses in bytes; steps, `pitch` (between the factors) and `ahead` in elements.
call_sums, call_scale, call_gradient = SUMS.call, SCALE.call, GRADIENT.call

TOGETHER = 4  # rows whose sums grow at once: one addition waits for the one before it four cycles
COLUMNS = 4  # vectors of gamma's and beta's gradients held in registers, with four of gamma and five factors of a row


class RowCode(NamedTuple):
    """The addresses of one dtype's functions, and its vectors' lanes: the sums of so many rows are stored at once."""

    total: int
    square: int
    product: int
    scale: int
    gradient: int
    lanes: int


class Rows:
    """Writes one function of rows; `past_caches`: its output is aligned, and stored so."""

    def __init__(
        self, module: ir.Module, name: str, signature: Signature, dtype: np.dtype, lanes: int, past_caches: bool
    ) -> None:
        self.f, self.past_caches = VectorFunction(module, name, signature, dtype, lanes), past_caches

    def store(self, value: Value, place: Value, mask: Value | None) -> None:
        """Store a vector of the output."""
        self.f.store(value, place, mask, self.past_caches and mask is None)

    def over_columns(
        self, count: Value, carried: list[Value], body: Callable[[Value, Value | None, list[Value]], list[Value]]
    ) -> list[Value]:
        """Emit body(offset, mask, carried) for each vector of a row of `count` elements, the last one masked."""
        f, b = self.f, self.f.b
        whole, rest = b.sdiv(count, i64(f.lanes)), b.srem(count, i64(f.lanes))
        carried = f.loop(whole, carried, lambda i, held: body(b.mul(i, i64(f.lanes)), None, held))
        mask, last = f.mask_below(rest), b.mul(whole, i64(f.lanes))
        exists = b.zext(b.icmp_signed(">", rest, i64(0)), i64)
        return f.loop(exists, carried, lambda _, held: body(last, mask, held))

    def over_blocks(self, count: Value, body: Callable[[Value, Value | None, int], None]) -> None:
        """Emit body(offset, mask, vectors) for the blocks of a row of `count` elements, large ones first."""
        f, b = self.f, self.f.b

        def one(start: Value, vectors: int, i: Value, _: list[Value]) -> list[Value]:
            body(b.add(start, b.mul(i, i64(vectors * f.lanes))), None, vectors)
            return []

        at, left, vectors = i64(0), count, COLUMNS
        while vectors:
            size = i64(vectors * f.lanes)
            many = b.sdiv(left, size)
            f.loop(many, [], partial(one, at, vectors))
            at, left, vectors = b.add(at, b.mul(many, size)), b.srem(left, size), vectors // 2

        def last(_: Value, __: list[Value]) -> list[Value]:
            body(at, f.mask_below(left), 1)
            return []

        f.loop(b.zext(b.icmp_signed(">", left, i64(0)), i64), [], last)

    def emit_sums(self, sums: int, terms: Callable[..., list[Value]]) -> None:
        """Write one of SUMS, with one sum or two."""
        f, b, given = self.f, self.f.b, self.f.arguments
        x, dy, gamma, shift = f.pointers("x dy gamma shift")
        out, rows = f.pointers("first second" if sums > 1 else "first"), given.rows
        together = min(TOGETHER, f.lanes)

        def load_of(places: dict[str, tuple[Value, Value]], mask: Value | None, name: str) -> Value:
            return f.load(f.at(*places[name]), mask)

        def sum_rows(first: Value) -> list[Value]:
            """Return the sums of a few rows from `first`, each of them in a vector's every `together`-th lane."""
            # A row that does not exist stands for the last one, and its sums are not looked at.
            at = [b.add(first, i64(r)) for r in range(together)]
            at = [b.select(b.icmp_signed("<", m, rows), m, b.sub(rows, i64(1))) for m in at]
            shifts = [f.splat(b.load(b.gep(shift, [b.mul(m, given.shift_step)]))) for m in at]
            offsets = [b.mul(m, given.pitch) for m in at]

            def body(column: Value, mask: Value | None, held: list[Value]) -> list[Value]:
                found = []
                for r, offset in enumerate(offsets):
                    places = {
                        "x": (x, b.add(offset, column)),
                        "dy": (dy, b.add(offset, column)),
                        "gamma": (gamma, column),
                    }
                    load = partial(load_of, places, mask)
                    found += terms(f, load, shifts[r], mask, held[sums * r : sums * (r + 1)])
                return found

            totals = self.over_columns(given.count, [f.zero] * (sums * together), body)
            return [self.pair_up(totals[s::sums], 1) for s in range(sums)]

        def group(g: Value, _: list[Value]) -> list[Value]:
            first = b.mul(g, i64(f.lanes))
            parts = [sum_rows(b.add(first, i64(r))) for r in range(0, f.lanes, together)]
            for s, place in enumerate(out):
                f.store(self.pair_up([part[s] for part in parts], together), f.at(place, first))
            return []

        f.loop(b.sdiv(b.add(rows, i64(f.lanes - 1)), i64(f.lanes)), [], group)
        b.ret_void()

    def pair_up(self, vectors: list[Value], half: int) -> Value:
        """Return the vectors' sums in one vector: lanes `half` apart are added first, of two vectors side by side."""
        f, b = self.f, self.f.b
        while len(vectors) > 1:
            low = [i if i & half == 0 else f.lanes + i - half for i in range(f.lanes)]
            high = [i + half if i & half == 0 else f.lanes + i for i in range(f.lanes)]
            orders = [ir.Constant(ir.VectorType(i32, f.lanes), order) for order in (low, high)]
            vectors = [
                b.fadd(*(b.shuffle_vector(*pair, order) for order in orders))
                for pair in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            half *= 2
        return vectors[0]

    def emit_scale(self) -> None:
        """Write SCALE; factors stand `pitch` apart."""
        f, b, F, given = self.f, self.f.b, self.f.arguments.F, self.f.arguments
        x, y, gamma, beta, factors = f.pointers("x y gamma beta factors")

        def row(m: Value, carried: list[Value]) -> list[Value]:
            x_m, y_m = carried
            shift, scale, offset = self.factors_of(factors, given.pitch, m, 3)

            def body(column: Value, mask: Value | None, _: list[Value]) -> list[Value]:
                f.prefetch(b.gep(x_m, [b.add(column, given.ahead)]))
                near = b.fsub(f.load(f.at(x_m, column), mask), shift)
                xhat = b.call(f.fma, [near, scale, offset])
                times, plus = (f.load(f.at(a, column), mask) for a in (gamma, beta))
                self.store(b.call(f.fma, [xhat, times, plus]), f.at(y_m, column), mask)
                return []

            self.over_columns(F, [], body)
            return [b.gep(x_m, [F]), b.gep(y_m, [F])]

        f.loop(given.rows, [x, y], row)
        b.ret_void()

    def factors_of(self, factors: Value, pitch: Value, m: Value, count: int) -> list[Value]:
        """Return the factors of row m, each in all lanes."""
        f, b = self.f, self.f.b
        return [f.splat(b.load(b.gep(factors, [b.add(m, b.mul(pitch, i64(i)))]))) for i in range(count)]

    def emit_gradient(self) -> None:
        """Write GRADIENT."""
        f, b, F, numbers = self.f, self.f.b, self.f.arguments.F, self.f.arguments
        x, dy, dx, gamma, factors, along, given = f.pointers("x dy dx gamma factors along given")

        def block(first: Value, mask: Value | None, vectors: int) -> None:
            times = [f.load(f.at(gamma, first, v), mask) for v in range(vectors)]
            places = [f.at(a, first, v) for a in (along, given) for v in range(vectors)]

            def row(m: Value, carried: list[Value]) -> list[Value]:
                at, *sums = carried
                shift, scale, slope, offset, lift = self.factors_of(factors, numbers.pitch, m, 5)
                for v in range(vectors):
                    for a in (x, dy):
                        f.prefetch(b.gep(a, [b.add(at, b.add(numbers.ahead, i64(v * f.lanes)))]))
                    near = b.fsub(f.load(f.at(x, at, v), mask), shift)
                    g = f.load(f.at(dy, at, v), mask)
                    taken = b.call(f.fma, [near, slope, offset])
                    value = b.call(f.fma, [b.fmul(g, times[v]), scale, b.fneg(taken)])
                    self.store(value, f.at(dx, at, v), mask)
                    xhat = b.call(f.fma, [near, scale, lift])
                    sums[v] = b.call(f.fma, [g, xhat, sums[v]])
                    sums[vectors + v] = b.fadd(sums[vectors + v], g)
                return [b.add(at, F), *sums]

            start = [first, *(f.load(place, mask) for place in places)]
            for total, place in zip(f.loop(numbers.rows, start, row)[1:], places, strict=True):
                f.store(total, place, mask)

        self.over_blocks(F, block)
        b.ret_void()


def _near(f, load, shift, mask):
    """Return x - shift, zero in the lanes that the mask leaves out."""
    near = f.b.fsub(load("x"), shift)
    return near if mask is None else f.b.select(mask, near, f.zero)


def _total(f, load, shift, mask, held):
    return [f.b.fadd(held[0], _near(f, load, shift, mask))]


def _square(f, load, shift, mask, held):
    near = _near(f, load, shift, mask)
    return [f.b.fadd(held[0], near), f.b.call(f.fma, [near, near, held[1]])]


def _product(f, load, shift, mask, held):
    """Where the mask leaves out lanes, dy is loaded as zero."""
    given = f.b.fmul(load("dy"), load("gamma"))
    return [f.b.fadd(held[0], given), f.b.call(f.fma, [given, f.b.fsub(load("x"), shift), held[1]])]


_loaded: dict[tuple[np.dtype, bool], RowCode] = {}


def row_code(dtype: np.dtype, past_caches: bool) -> RowCode:
    """Return the functions of one dtype, from the cache folder where they are already compiled."""
    return load_once(_loaded, (dtype, past_caches), lambda: _load(dtype, past_caches))


def _load(dtype: np.dtype, past_caches: bool) -> RowCode:
    _, lanes = tile_shape(dtype.itemsize)

    def emit(module: ir.Module) -> None:
        new = partial(Rows, module, dtype=dtype, lanes=lanes, past_caches=past_caches)
        for name, sums, terms in (("total", 1, _total), ("square", 2, _square), ("product", 2, _product)):
            new(name, SUMS).emit_sums(sums, terms)
        new("scale", SCALE).emit_scale()
        new("gradient", GRADIENT).emit_gradient()

    address = load_functions(f"rows-{dtype.name}{'-past' if past_caches else ''}", emit)
    return RowCode(**{name: address(name) for name in RowCode._fields[:-1]}, lanes=lanes)
