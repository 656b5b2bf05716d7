"""Sums of the columns of wide rows, and their scaling, as vector code: normalization of channels, both ways.

    square     first += sum of x - shift,   second += sum of its squares
    product    first += sum of dy,          second += sum of dy * (x - shift)
    scale      y = (x - shift) * scale + offset
    gradient   dx = dy * scale - ((x - shift) * slope + offset)

x, y, dy, dx are `count` elements in rows of W, all others W elements; factors stand one after the other in the order
above. Sums of a few columns stay in registers while a part of the rows passes that L1 holds.

Arrays that the caches would not hold are stored past them: memory then need not be read before it is written, and the
caches keep x for its second reading. Scaling takes a third less time so (Zen 5).
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.extending import intrinsic

from fastcnn.kernels.cpu.channel_sums import cut, lanes_of, passes_caches
from fastcnn.kernels.cpu.row_code import Rows
from fastcnn.kernels.cpu.tile import caller, tile_shape
from fastcnn.kernels.cpu.vector import i64, load_functions, load_once

SUM_ARGUMENTS, SCALE_ARGUMENTS, GRADIENT_ARGUMENTS = 7, 5, 6
PART = 1 << 12  # elements whose columns are summed block by block: 16 KiB of float32, in L1


class ChannelCode(NamedTuple):
    """The addresses of one dtype's functions."""

    square: int
    product: int
    scale: int
    gradient: int


class _Wide(Rows):
    """Writes one function of wide rows; `past_caches`: its output starts at a multiple of a vector, and so do rows."""

    def over_rows(self, count: Value, W: Value, body) -> None:
        """Emit body(offset, column, mask) for each vector of the rows."""
        b = self.f.b

        def row(at: Value, columns: Value) -> None:
            def vector(column: Value, mask: Value | None, _: list[Value]) -> list[Value]:
                body(b.add(at, column), column, mask)
                return []

            self.over_columns(columns, [], vector)

        def whole(i: Value, _: list[Value]) -> list[Value]:
            row(b.mul(i, W), W)
            return []

        rest = b.srem(count, W)
        self.f.loop(b.sdiv(count, W), [], whole)
        row(b.sub(count, rest), rest)
        b.ret_void()

    def emit_column_sums(self, terms) -> None:
        """Write name(x, dy, count, W, shift, first, second), sums of each column; a last row may be short."""
        f, b = self.f, self.f.b
        x, dy, count, W, *held = f.function.args
        x, dy, shift, first, second = map(f.pointer, (x, dy, *held))
        rows, rest = b.sdiv(count, W), b.srem(count, W)
        most = b.sdiv(i64(PART), W)
        most = b.select(b.icmp_signed(">", most, i64(1)), most, i64(1))
        parts = b.sdiv(b.add(rows, b.sub(most, i64(1))), most)

        def part(i: Value, _: list[Value]) -> list[Value]:
            whole, start = b.icmp_signed("<", i, parts), b.mul(i, most)
            left = b.sub(rows, start)
            high = b.select(whole, b.select(b.icmp_signed("<", left, most), left, most), i64(1))
            begin = b.mul(b.select(whole, start, rows), W)

            def block(column: Value, mask: Value | None, vectors: int) -> None:
                places = [f.at(a, column, v) for a in (first, second) for v in range(vectors)]
                shifts = [f.load(f.at(shift, column, v), mask) for v in range(vectors)]

                def row(_: Value, carried: list[Value]) -> list[Value]:
                    at, *sums = carried
                    for v in range(vectors):
                        near = b.fsub(f.load(f.at(x, at, v), mask), shifts[v])
                        pair = terms(f, near, partial(f.load, f.at(dy, at, v), mask), sums[v], sums[vectors + v])
                        sums[v], sums[vectors + v] = pair
                    return [b.add(at, W), *sums]

                start = [b.add(begin, column), *(f.load(place, mask) for place in places)]
                for total, place in zip(f.loop(high, start, row)[1:], places, strict=True):
                    f.store(total, place, mask)

            self.over_blocks(b.select(whole, W, rest), block)
            return []

        f.loop(b.add(parts, b.zext(b.icmp_signed(">", rest, i64(0)), i64)), [], part)
        b.ret_void()

    def factors_at(self, factors: Value, W: Value, column: Value, mask: Value | None, count: int) -> list[Value]:
        """Return the factors of a vector of columns."""
        f, b = self.f, self.f.b
        return [f.load(f.at(factors, b.add(column, b.mul(W, i64(i)))), mask) for i in range(count)]

    def emit_scale(self) -> None:
        """Write scale(x, y, factors, count, W)."""
        f, b = self.f, self.f.b
        x, y, factors, count, W = f.function.args
        x, y, factors = map(f.pointer, (x, y, factors))

        def body(at: Value, column: Value, mask: Value | None) -> None:
            shift, scale, offset = self.factors_at(factors, W, column, mask, 3)
            near = b.fsub(f.load(f.at(x, at), mask), shift)
            self.store(b.call(f.fma, [near, scale, offset]), f.at(y, at), mask)

        self.over_rows(count, W, body)

    def emit_gradient(self) -> None:
        """Write gradient(x, dy, dx, factors, count, W)."""
        f, b = self.f, self.f.b
        x, dy, dx, factors, count, W = f.function.args
        x, dy, dx, factors = map(f.pointer, (x, dy, dx, factors))

        def body(at: Value, column: Value, mask: Value | None) -> None:
            shift, scale, slope, offset = self.factors_at(factors, W, column, mask, 4)
            near = b.fsub(f.load(f.at(x, at), mask), shift)
            taken = b.call(f.fma, [near, slope, offset])
            value = b.call(f.fma, [f.load(f.at(dy, at), mask), scale, b.fneg(taken)])
            self.store(value, f.at(dx, at), mask)

        self.over_rows(count, W, body)


def _square(f, near, dy, total, square):
    return f.b.fadd(total, near), f.b.call(f.fma, [near, near, square])


def _product(f, near, dy, total, product):
    given = dy()
    return f.b.fadd(total, given), f.b.call(f.fma, [given, near, product])


_loaded: dict[tuple[np.dtype, bool], ChannelCode] = {}


def channel_code(dtype: np.dtype, past_caches: bool) -> ChannelCode:
    """Return the functions of one dtype, from the cache folder where they are already compiled."""
    return load_once(_loaded, (dtype, past_caches), lambda: _load(dtype, past_caches))


def _load(dtype: np.dtype, past_caches: bool) -> ChannelCode:
    _, lanes = tile_shape(dtype.itemsize)

    def emit(module: ir.Module) -> None:
        new = partial(_Wide, module, dtype=dtype, lanes=lanes, past_caches=past_caches)
        new("square", SUM_ARGUMENTS).emit_column_sums(_square)
        new("product", SUM_ARGUMENTS).emit_column_sums(_product)
        new("scale", SCALE_ARGUMENTS).emit_scale()
        new("gradient", GRADIENT_ARGUMENTS).emit_gradient()

    address = load_functions(f"channels-{dtype.name}{'-past' if past_caches else ''}", emit)
    return ChannelCode(*map(address, ChannelCode._fields))


def plan(x, *others):
    """Return how images are cut, and the code for them; the last array is the output."""
    N, L, C = x.shape
    cuts = cut(L, C, lanes_of(x.itemsize))
    row = cuts[2] if N == 1 else math.gcd(cuts[2], L * C)
    return cuts, channel_code(x.dtype, passes_caches(row, x, *others))


@intrinsic
def call_sums(typingctx, address, x, dy, count, W, shift, first, second):
    """Call the sums at `address`: addresses in bytes, all int64."""
    return caller(SUM_ARGUMENTS)


@intrinsic
def call_scale(typingctx, address, x, y, factors, count, W):
    """Call the scaling at `address`: addresses in bytes, all int64."""
    return caller(SCALE_ARGUMENTS)


@intrinsic
def call_gradient(typingctx, address, x, dy, dx, factors, count, W):
    """Call the gradient at `address`: addresses in bytes, all int64."""
    return caller(GRADIENT_ARGUMENTS)
