"""Winograd's transforms F(4x4, 3x3) and F(2x2, 5x5) as vector code: a patch passes through the registers once.

Both multiply at the same 36 points, the values of polynomials at 0, 1, -1, 2, -2 and infinity in each direction; m x m
pixels of the output and r x r taps make m + r = 7. Every lane is a channel.

    input    V = B' x B    6x6 pixels to 36 points
    filter   U = G w G'    r x r taps to 36 points
    output   y = A' m A    36 points to m x m pixels, plus bias, clipped, summed up (`statistics_code.py`)
    gradient Y = A dy A'   m x m pixels of the output's gradient to 36 points
    weights  w = G' m G    36 points to the gradient by r x r taps

Point e = 6 * r + s of a patch stands at e * step from its first, its vectors of channels vector_pitch
apart. Written on `VectorFunction`, as the tile is.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.simd.epilogue_code import ClampEpilogue
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.statistics_code import StatisticsEpilogue
from fastcnn.kernels.cpu.simd.tile import tile_shape
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i64

TO_POINTS = Signature("source row_pitch pitch points step vector_pitch channels")
WEIGHTS = Signature("points step w tap_pitch channels accumulate")
OUTPUT = Signature("M step vector_pitch bias epilogue y row_pitch pixel_pitch channels high wide")
# Addresses in bytes, pitches and steps in elements; the first is of `input`, `filter` and `gradient`.
call_to_points, call_weights, call_output = TO_POINTS.call, WEIGHTS.call, OUTPUT.call

SCALES = (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1.0)  # of the points of a filter


class Transforms(NamedTuple):
    """Addresses of the functions for one dtype and filter size."""

    input: int
    filter: int
    output: int
    gradient: int
    weights: int


class _Transform:
    """Writes one transform; the arithmetic of one line of points is `along_*`."""

    def __init__(self, module: ir.Module, name: str, signature: Signature, dtype: np.dtype, lanes: int) -> None:
        self.f = VectorFunction(module, name, signature, dtype, lanes)

    def scaled(self, factor: float, x: Value, y: Value) -> Value:
        """Return factor * x + y."""
        f = self.f
        constant = ir.Constant(f.vector, [ir.Constant(f.element, factor)] * f.lanes)
        return f.b.call(f.fma, [constant, x, y])

    def along_input(self, d: Sequence[Value]) -> list[Value]:
        """Return B' d, six points of six pixels."""
        b = self.f.b
        near, far = b.fsub(d[3], d[1]), b.fsub(d[4], d[2])
        return [
            self.scaled(4.0, d[0], self.scaled(-5.0, d[2], d[4])),
            self.scaled(-4.0, b.fadd(d[1], d[2]), b.fadd(d[3], d[4])),
            self.scaled(4.0, b.fsub(d[1], d[2]), b.fsub(d[4], d[3])),
            self.scaled(2.0, near, far),
            self.scaled(-2.0, near, far),
            self.scaled(4.0, d[1], self.scaled(-5.0, d[3], d[5])),
        ]

    def along_filter(self, w: Sequence[Value]) -> list[Value]:
        """Return G w, six points of the taps."""
        return self.weighed(self.evaluated(w))

    def along_gradient(self, d: Sequence[Value]) -> list[Value]:
        """Return A d, six points of the pixels."""
        return self.evaluated(d)

    def along_output(self, count: int, m: Sequence[Value]) -> list[Value]:
        """Return A' m, `count` pixels of six points."""
        b = self.f.b
        even, odd = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
        far_even, far_odd = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
        sums = [self.scaled(2.0**j, (far_even, far_odd)[j % 2], (even, odd)[j % 2]) for j in range(count)]
        sums[0] = b.fadd(m[0], b.fadd(even, far_even))
        sums[-1] = b.fadd(sums[-1], m[5])
        return sums

    def along_weights(self, count: int, u: Sequence[Value]) -> list[Value]:
        """Return G' u, `count` taps of six points."""
        return self.along_output(count, self.weighed(u))

    def evaluated(self, values: Sequence[Value]) -> list[Value]:
        """Return the values at the six points of the polynomial with these coefficients."""
        b = self.f.b
        even, odd = ([self.horner(values[i::2], x) for x in (1.0, 4.0)] for i in (0, 1))
        twice = self.scaled(2.0, odd[1], self.f.zero)
        near = [b.fadd(even[0], odd[0]), b.fsub(even[0], odd[0])]
        return [values[0], *near, b.fadd(even[1], twice), b.fsub(even[1], twice), values[-1]]

    def horner(self, coefficients: Sequence[Value], x: float) -> Value:
        """Return the value at x of the polynomial with these coefficients."""
        total = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            total = self.scaled(x, total, coefficient)
        return total

    def weighed(self, points: Sequence[Value]) -> list[Value]:
        """Return the points of a filter times their scales."""
        return [
            point if scale == 1.0 else self.scaled(scale, point, self.f.zero)
            for scale, point in zip(SCALES, points, strict=True)
        ]

    def both(self, along: Callable[[Sequence[Value]], list[Value]], grid: list[list[Value]]) -> list[list[Value]]:
        """Transform every row of a grid, then every column; return rows."""
        rows = [along(row) for row in grid]
        return list(zip(*[along(column) for column in zip(*rows, strict=True)], strict=True))  # type: ignore[arg-type]

    def over_channels(self, body: Callable[[Value, Value], None]) -> None:
        """Emit `body(first channel, mask)` for each vector of channels, and return from the function."""
        f, b, channels = self.f, self.f.b, self.f.arguments.channels

        def step(i: Value, _: list[Value]) -> list[Value]:
            first = b.mul(i, i64(f.lanes))
            body(first, f.mask_below(b.sub(channels, first)))
            return []

        f.loop(b.sdiv(b.add(channels, i64(f.lanes - 1)), i64(f.lanes)), [], step)
        b.ret_void()

    def emit_to_points(self, along: Callable[[Sequence[Value]], list[Value]], size: int) -> None:
        """Write TO_POINTS: a size x size patch to its points.

        Whole vectors are stored, zeros in the lanes past `channels`.
        """
        f, b, given = self.f, self.f.b, self.f.arguments
        source, points = f.pointers("source points")
        offsets = [
            [b.add(b.mul(given.row_pitch, i64(r)), b.mul(given.pitch, i64(s))) for s in range(size)]
            for r in range(size)
        ]

        def body(first: Value, mask: Value) -> None:
            patch = [[f.load(f.at(source, b.add(first, offset)), mask) for offset in row] for row in offsets]
            target = b.mul(b.sdiv(first, i64(f.lanes)), given.vector_pitch)
            for r, row in enumerate(self.both(along, patch)):
                for s, point in enumerate(row):
                    f.store(point, f.at(points, b.add(target, b.mul(given.step, i64(6 * r + s)))))

        self.over_channels(body)

    def load_points(self, points: Value, first: Value, mask: Value | None) -> list[list[Value]]:
        """Return the 6x6 points of a vector of channels."""
        f, b, step = self.f, self.f.b, self.f.arguments.step
        return [
            [f.load(f.at(points, b.add(first, b.mul(step, i64(6 * r + s)))), mask) for s in range(6)] for r in range(6)
        ]

    def emit_weights(self, size: int) -> None:
        """Write WEIGHTS: the gradient by points to that by a filter's taps.

        It is added to w where `accumulate` is not 0.
        """
        f, b, given = self.f, self.f.b, self.f.arguments
        points, w = f.pointers("points w")
        nothing, adds = f.mask_below(i64(0)), b.icmp_signed("!=", given.accumulate, i64(0))
        along = partial(self.along_weights, size)

        def body(first: Value, mask: Value) -> None:
            for r, row in enumerate(self.both(along, self.load_points(points, first, mask))):
                for s, tap in enumerate(row):
                    place = f.at(w, b.add(first, b.mul(given.tap_pitch, i64(size * r + s))))
                    old = f.load(place, b.select(adds, mask, nothing))
                    f.store(b.fadd(old, tap), place, mask)

        self.over_channels(body)

    def emit_output(self, size: int) -> None:
        """Write OUTPUT, which stores high x wide pixels of a patch."""
        f, b, given = self.f, self.f.b, self.f.arguments
        M, bias, y = f.pointers("M bias y")
        clip, sums = ClampEpilogue(f, given.epilogue), StatisticsEpilogue(f, given.epilogue)
        nothing = f.mask_below(i64(0))
        whole = b.icmp_signed("==", b.add(given.high, given.wide), i64(2 * size))

        def body(first: Value, mask: Value) -> None:
            points = self.load_points(M, b.mul(b.sdiv(first, i64(f.lanes)), given.vector_pitch), None)
            full = b.and_(whole, b.icmp_signed("<=", b.add(first, i64(f.lanes)), given.channels))
            add, pixels = f.load(f.at(bias, first), mask), []
            for r, row in enumerate(self.both(partial(self.along_output, size), points)):
                for s, pixel in enumerate(row):
                    inside = b.and_(b.icmp_signed("<", i64(r), given.high), b.icmp_signed("<", i64(s), given.wide))
                    offset = b.add(b.mul(given.row_pitch, i64(r)), b.mul(given.pixel_pitch, i64(s)))
                    place, kept = f.at(y, b.add(first, offset)), b.select(inside, mask, nothing)
                    pixels.append((b.fadd(pixel, add), (place, kept)))
            places = [place for _, place in pixels]
            values = clip.finished([value for value, _ in pixels], places)
            summed = [(value, *place) for value, place in zip(values, places, strict=True)]
            sums.add(b.gep(bias, [first]), [(0, mask, summed)])
            with b.if_else(full) as (plain, edge):
                with plain:
                    for value, (place, _) in zip(values, places, strict=True):
                        f.store(value, place)
                with edge:
                    for value, (place, kept) in zip(values, places, strict=True):
                        f.store(value, place, kept)

        self.over_channels(body)


_loaded: dict[tuple[np.dtype, int], Transforms] = {}


def transforms(dtype: np.dtype, taps: int) -> Transforms:
    """Return the transforms of one dtype for filters of 3x3 or 5x5 taps, from the cache folder where they are."""
    return load_once(_loaded, (dtype, taps), lambda: _load(dtype, taps))


def _load(dtype: np.dtype, taps: int) -> Transforms:
    _, lanes = tile_shape(dtype.itemsize)
    pixels = 7 - taps

    def emit(module: ir.Module) -> None:
        new = lambda name, signature: _Transform(module, name, signature, dtype, lanes)  # noqa: E731
        for name, along, size in (("input", _Transform.along_input, 6), ("filter", _Transform.along_filter, taps),
                                  ("gradient", _Transform.along_gradient, pixels)):  # fmt: skip
            transform = new(name, TO_POINTS)
            transform.emit_to_points(partial(along, transform), size)
        new("output", OUTPUT).emit_output(pixels)
        new("weights", WEIGHTS).emit_weights(taps)

    address = load_functions(f"transforms-{dtype.name}-{taps}", emit)
    return Transforms(*map(address, Transforms._fields))
