"""Winograd's transforms F(4x4, 3x3) as vector code: every lane is a channel, a patch passes through the registers once.

    input    V = B' x B    6x6 pixels to 36 points
    filter   U = G w G'    3x3 taps to 36 points
    output   y = A' m A    36 points to 4x4 pixels, plus bias, cut at zero for ReLU
    gradient Y = A dy A'   4x4 pixels of the output's gradient to 36 points
    weights  w = G' m G    36 points to the gradient by 3x3 taps

Point e = 6 * r + s of a patch stands at e * step from its first. Written on `VectorFunction`, as the tile is.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.extending import intrinsic

from fastcnn.kernels.cpu.tile import caller, tile_shape
from fastcnn.kernels.cpu.vector import VectorFunction, i64, load_functions

POINT_ARGUMENTS, WEIGHT_ARGUMENTS, OUTPUT_ARGUMENTS = 6, 6, 10


class Transforms(NamedTuple):
    """Addresses of the functions for one dtype."""

    input: int
    filter: int
    output: int
    gradient: int
    weights: int


class _Transform:
    """Writes one transform; the arithmetic of one line of points is `along_*`."""

    def __init__(self, module: ir.Module, name: str, arguments: int, dtype: np.dtype, lanes: int) -> None:
        self.f = VectorFunction(module, name, arguments, dtype, lanes)
        self.arguments = self.f.function.args

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
        """Return G w, six points of three taps."""
        b, zero = self.f.b, self.f.zero
        even, odd = self.scaled(1 / 6, b.fadd(w[0], w[2]), zero), self.scaled(1 / 6, w[1], zero)
        far, twice = self.scaled(1 / 24, w[0], self.scaled(1 / 6, w[2], zero)), self.scaled(1 / 12, w[1], zero)
        quarter, minus = self.scaled(0.25, w[0], zero), b.fsub(zero, b.fadd(even, odd))
        return [quarter, minus, b.fsub(odd, even), b.fadd(far, twice), b.fsub(far, twice), w[2]]

    def along_output(self, m: Sequence[Value]) -> list[Value]:
        """Return A' m, four pixels of six points."""
        b = self.f.b
        a, c = b.fadd(m[1], m[2]), b.fadd(m[3], m[4])
        odd, far = b.fsub(m[1], m[2]), b.fsub(m[3], m[4])
        return [
            b.fadd(m[0], b.fadd(a, c)),
            self.scaled(2.0, far, odd),
            self.scaled(4.0, c, a),
            b.fadd(self.scaled(8.0, far, odd), m[5]),
        ]

    def along_gradient(self, d: Sequence[Value]) -> list[Value]:
        """Return A d, six points of four pixels."""
        b = self.f.b
        even, odd = b.fadd(d[0], d[2]), b.fadd(d[1], d[3])
        far, twice = self.scaled(4.0, d[2], d[0]), self.scaled(2.0, self.scaled(4.0, d[3], d[1]), self.f.zero)
        return [d[0], b.fadd(even, odd), b.fsub(even, odd), b.fadd(far, twice), b.fsub(far, twice), d[3]]

    def along_weights(self, u: Sequence[Value]) -> list[Value]:
        """Return G' u, three taps of six points."""
        b, zero = self.f.b, self.f.zero
        near, far = b.fadd(u[1], u[2]), b.fadd(u[3], u[4])
        return [
            self.scaled(0.25, u[0], self.scaled(-1 / 6, near, self.scaled(1 / 24, far, zero))),
            self.scaled(1 / 6, b.fsub(u[2], u[1]), self.scaled(1 / 12, b.fsub(u[3], u[4]), zero)),
            self.scaled(1 / 6, b.fsub(far, near), u[5]),
        ]

    def both(self, along: Callable[[Sequence[Value]], list[Value]], grid: list[list[Value]]) -> list[list[Value]]:
        """Transform every row of a grid, then every column; return rows."""
        rows = [along(row) for row in grid]
        return list(zip(*[along(column) for column in zip(*rows, strict=True)], strict=True))  # type: ignore[arg-type]

    def over_channels(self, channels: Value, body: Callable[[Value, Value], None]) -> None:
        """Emit `body(first channel, mask)` for each vector of channels, and return from the function."""
        f, b = self.f, self.f.b

        def step(i: Value, _: list[Value]) -> list[Value]:
            first = b.mul(i, i64(f.lanes))
            body(first, f.mask_below(b.sub(channels, first)))
            return []

        f.loop(b.sdiv(b.add(channels, i64(f.lanes - 1)), i64(f.lanes)), [], step)
        b.ret_void()

    def emit_to_points(self, along: Callable[[Sequence[Value]], list[Value]], size: int, whole: bool) -> None:
        """f(source, row pitch, pitch, points, step, channels): a size x size patch to its points.

        With `whole`, whole vectors are stored, zeros in the lanes past `channels`: the layout of a tile's B.
        """
        f, b = self.f, self.f.b
        source, row_pitch, pitch, points, step, channels = self.arguments
        source, points = f.pointer(source), f.pointer(points)
        offsets = [[b.add(b.mul(row_pitch, i64(r)), b.mul(pitch, i64(s))) for s in range(size)] for r in range(size)]

        def body(first: Value, mask: Value) -> None:
            patch = [[f.load(f.at(source, b.add(first, offset)), mask) for offset in row] for row in offsets]
            for r, row in enumerate(self.both(along, patch)):
                for s, point in enumerate(row):
                    place = f.at(points, b.add(first, b.mul(step, i64(6 * r + s))))
                    f.store(point, place, None if whole else mask)

        self.over_channels(channels, body)

    def load_points(self, points: Value, first: Value, step: Value, mask: Value) -> list[list[Value]]:
        """Return the 6x6 points of a vector of channels."""
        f, b = self.f, self.f.b
        return [
            [f.load(f.at(points, b.add(first, b.mul(step, i64(6 * r + s)))), mask) for s in range(6)] for r in range(6)
        ]

    def emit_weights(self) -> None:
        """weights(points, step, w, tap pitch, channels, accumulate): the gradient by points to that by a filter's taps.

        It is added to w where `accumulate` is not 0.
        """
        f, b = self.f, self.f.b
        points, step, w, tap_pitch, channels, accumulate = self.arguments
        points, w = f.pointer(points), f.pointer(w)
        nothing, adds = f.mask_below(i64(0)), b.icmp_signed("!=", accumulate, i64(0))

        def body(first: Value, mask: Value) -> None:
            for r, row in enumerate(self.both(self.along_weights, self.load_points(points, first, step, mask))):
                for s, tap in enumerate(row):
                    place = f.at(w, b.add(first, b.mul(tap_pitch, i64(3 * r + s))))
                    old = f.load(place, b.select(adds, mask, nothing))
                    f.store(b.fadd(old, tap), place, mask)

        self.over_channels(channels, body)

    def emit_output(self) -> None:
        """output(M, step, bias, relu, y, row pitch, pixel pitch, channels, high, wide): high x wide of 4x4 pixels."""
        f, b = self.f, self.f.b
        M, step, bias, relu, y, row_pitch, pixel_pitch, channels, high, wide = self.arguments
        M, bias, y = f.pointer(M), f.pointer(bias), f.pointer(y)
        cut, nothing = f.splat(b.icmp_signed("!=", relu, i64(0))), f.mask_below(i64(0))

        def body(first: Value, mask: Value) -> None:
            points = self.load_points(M, first, step, mask)
            add = f.load(f.at(bias, first), mask)
            for r, row in enumerate(self.both(self.along_output, points)):
                for s, pixel in enumerate(row):
                    value = b.fadd(pixel, add)
                    value = b.select(b.and_(cut, b.fcmp_ordered("<", value, f.zero)), f.zero, value)
                    inside = b.and_(b.icmp_signed("<", i64(r), high), b.icmp_signed("<", i64(s), wide))
                    offset = b.add(b.mul(row_pitch, i64(r)), b.mul(pixel_pitch, i64(s)))
                    f.store(value, f.at(y, b.add(first, offset)), b.select(inside, mask, nothing))

        self.over_channels(channels, body)


_loaded: dict[np.dtype, Transforms] = {}
_lock = threading.Lock()


def transforms(dtype: np.dtype) -> Transforms:
    """Return the transforms of one dtype, from the cache folder where they are already compiled."""
    with _lock:
        if dtype not in _loaded:
            _, lanes = tile_shape(dtype.itemsize)

            def emit(module: ir.Module) -> None:
                new = lambda name, arguments: _Transform(module, name, arguments, dtype, lanes)  # noqa: E731
                for name, along, size, whole in (("input", _Transform.along_input, 6, False),
                                                 ("filter", _Transform.along_filter, 3, True),
                                                 ("gradient", _Transform.along_gradient, 4, True)):  # fmt: skip
                    transform = new(name, POINT_ARGUMENTS)
                    transform.emit_to_points(partial(along, transform), size, whole)
                new("output", OUTPUT_ARGUMENTS).emit_output()
                new("weights", WEIGHT_ARGUMENTS).emit_weights()

            address = load_functions(f"transforms-{dtype.name}", emit)
            _loaded[dtype] = Transforms(*map(address, Transforms._fields))
        return _loaded[dtype]


@intrinsic
def call_to_points(typingctx, address, source, row_pitch, pitch, points, step, channels):
    """Call the input, filter or gradient transform: addresses in bytes, pitches and steps in elements."""
    return caller(POINT_ARGUMENTS)


@intrinsic
def call_weights(typingctx, address, points, step, w, tap_pitch, channels, accumulate):
    """Call the transform of the gradient by a filter's points to that by its taps."""
    return caller(WEIGHT_ARGUMENTS)


@intrinsic
def call_output(typingctx, address, M, step, bias, relu, y, row_pitch, pixel_pitch, channels, high, wide):
    """Call the output transform at `address`."""
    return caller(OUTPUT_ARGUMENTS)
