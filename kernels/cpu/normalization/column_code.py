"""Sums of the columns of wide rows, and their scaling, as vector code: normalization of channels, both ways.

    square     first += sum of x - shift,   second += sum of its squares
    product    first += sum of dy,          second += sum of dy * (x - shift)
    scale      y = clip((x - shift) * scale + offset)
    scale_add  y = clip((x - shift) * scale + offset + residual)
    gradient   dx = dy * scale - ((x - shift) * slope + offset)

product_within and gradient_within are the same of the dy behind the clip of `scale`: 0 in place of dy where
(x - shift) * scale + lift is not within the bounds of clip.

x, y, dy, dx, residual are `count` elements in rows of W, all others W elements; factors stand one after the other:
shift, scale, offset (lift), and for the gradient slope and its offset. Sums of a few columns stay in registers while a
part of the rows passes that L1 holds.

Arrays that the caches would not hold are stored past them: memory then need not be read before it is written, and the
caches keep x for its second reading. Scaling takes a third less time so (Zen 5).
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.normalization.chunks import cut
from fastcnn.kernels.cpu.normalization.row_code import Rows
from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.streaming import streams
from fastcnn.kernels.cpu.simd.tile import lanes_of, tile_shape
from fastcnn.kernels.cpu.simd.vector import i64

SUMS = Signature("x dy count W factors bounds first second")
SCALE = Signature("x residual y factors bounds count W")
GRADIENT = Signature("x dy dx factors bounds count W")
call_sums, call_scale, call_gradient = SUMS.call, SCALE.call, GRADIENT.call  # addresses in bytes

PART = 1 << 12  # elements whose columns are summed block by block: 16 KiB of float32, in L1


class ChannelCode(NamedTuple):
    """The addresses of one dtype's functions."""

    square: int
    product: int
    product_within: int
    scale: int
    scale_add: int
    gradient: int
    gradient_within: int


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

    def bounds(self) -> tuple[Value, Value]:
        """Return the two bounds of clip, in all lanes."""
        f, b = self.f, self.f.b
        at = f.pointer(f.arguments.bounds)
        low, high = (f.splat(b.load(b.gep(at, [i64(i)]))) for i in range(2))
        return low, high

    def clip(self, value: Value, bounds: tuple[Value, Value]) -> Value:
        """Return a vector brought between the bounds; NaN stays."""
        b, (low, high) = self.f.b, bounds
        raised = b.select(b.fcmp_ordered("<", value, low), low, value)
        return b.select(b.fcmp_ordered(">", raised, high), high, raised)

    def within(self, dy: Value, value: Value, bounds: tuple[Value, Value]) -> Value:
        """Return dy where a value lies between the bounds or is NaN, else 0: the gradient of clip."""
        b, (low, high) = self.f.b, bounds
        inside = b.and_(b.fcmp_unordered(">", value, low), b.fcmp_unordered("<", value, high))
        return b.select(inside, dy, self.f.zero)

    def emit_column_sums(self, terms, within: bool = False) -> None:
        """Write one of SUMS, of each column; a last row may be short."""
        f, b, W, count = self.f, self.f.b, self.f.arguments.W, self.f.arguments.count
        x, dy, factors, first, second = f.pointers("x dy factors first second")
        bounds = self.bounds() if within else None
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
                made = [
                    self.factors_at(factors, W, b.add(column, i64(v * f.lanes)), mask, 3 if within else 1)
                    for v in range(vectors)
                ]

                def row(_: Value, carried: list[Value]) -> list[Value]:
                    at, *sums = carried
                    for v in range(vectors):
                        near = b.fsub(f.load(f.at(x, at, v), mask), made[v][0])
                        given = partial(f.load, f.at(dy, at, v), mask)
                        if bounds:
                            value = b.call(f.fma, [near, *made[v][1:]])
                            given = partial(self.within, given(), value, bounds)
                        sums[v], sums[vectors + v] = terms(f, near, given, sums[v], sums[vectors + v])
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

    def emit_channel_scale(self, adds: bool) -> None:
        """Write SCALE, with or without the residual."""
        f, b, W = self.f, self.f.b, self.f.arguments.W
        x, residual, y, factors = f.pointers("x residual y factors")
        bounds = self.bounds()

        def body(at: Value, column: Value, mask: Value | None) -> None:
            shift, scale, offset = self.factors_at(factors, W, column, mask, 3)
            near = b.fsub(f.load(f.at(x, at), mask), shift)
            value = b.call(f.fma, [near, scale, offset])
            if adds:
                value = b.fadd(value, f.load(f.at(residual, at), mask))
            self.store(self.clip(value, bounds), f.at(y, at), mask)

        self.over_rows(f.arguments.count, W, body)

    def emit_channel_gradient(self, within: bool) -> None:
        """Write GRADIENT, of all of dy or of what lies within the bounds."""
        f, b, W = self.f, self.f.b, self.f.arguments.W
        x, dy, dx, factors = f.pointers("x dy dx factors")
        bounds = self.bounds() if within else None

        def body(at: Value, column: Value, mask: Value | None) -> None:
            shift, scale, lift, slope, offset = self.factors_at(factors, W, column, mask, 5)
            near, given = b.fsub(f.load(f.at(x, at), mask), shift), f.load(f.at(dy, at), mask)
            taken = b.call(f.fma, [near, slope, offset])
            if bounds:
                given = self.within(given, b.call(f.fma, [near, scale, lift]), bounds)
            value = b.call(f.fma, [given, scale, b.fneg(taken)])
            self.store(value, f.at(dx, at), mask)

        self.over_rows(f.arguments.count, W, body)


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
        new("square", SUMS).emit_column_sums(_square)
        new("product", SUMS).emit_column_sums(_product)
        new("product_within", SUMS).emit_column_sums(_product, within=True)
        new("scale", SCALE).emit_channel_scale(adds=False)
        new("scale_add", SCALE).emit_channel_scale(adds=True)
        new("gradient", GRADIENT).emit_channel_gradient(within=False)
        new("gradient_within", GRADIENT).emit_channel_gradient(within=True)

    address = load_functions(f"channels-{dtype.name}{'-past' if past_caches else ''}", emit)
    return ChannelCode(*map(address, ChannelCode._fields))


def plan(*arrays):
    """Return how images are cut, and the code for them; the last array is the output."""
    x, y = arrays[0], arrays[-1]
    N, L, C = x.shape
    cuts = cut(L, C, lanes_of(x.itemsize))
    row = cuts[2] if N == 1 else math.gcd(cuts[2], L * C)
    return cuts, channel_code(x.dtype, streams(y, len(arrays), lanes_of(y.itemsize), row))
