"""Winograd's transforms F(4x4, 3x3) as vector code: every lane is a channel, a patch passes through the registers once.

    input    V = B' x B    6x6 pixels to 36 points
    filter   U = G w G'    3x3 taps to 36 points
    output   y = A' m A    36 points to 4x4 pixels, plus bias, cut at zero for ReLU

Point e = 6 * r + s of a patch stands at e * step from its first. Written on `VectorFunction`, as the tile is.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.extending import intrinsic

from fastcnn.kernels.cpu.tile import caller, tile_shape
from fastcnn.kernels.cpu.vector import VectorFunction, i64, load_functions

INPUT_ARGUMENTS, FILTER_ARGUMENTS, OUTPUT_ARGUMENTS = 6, 5, 10


class Transforms(NamedTuple):
    """Addresses of the three functions for one dtype."""

    input: int
    filter: int
    output: int


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

    def emit_input(self) -> None:
        """input(source, row pitch, pixel pitch, V, step, channels)."""
        f, b = self.f, self.f.b
        source, row_pitch, pixel_pitch, V, step, channels = self.arguments
        source, V = f.pointer(source), f.pointer(V)
        offsets = [[b.add(b.mul(row_pitch, i64(r)), b.mul(pixel_pitch, i64(s))) for s in range(6)] for r in range(6)]

        def body(first: Value, mask: Value) -> None:
            pixels = [[f.load(f.at(source, b.add(first, offset)), mask) for offset in row] for row in offsets]
            for r, row in enumerate(self.both(self.along_input, pixels)):
                for s, point in enumerate(row):
                    f.store(point, f.at(V, b.add(first, b.mul(step, i64(6 * r + s)))), mask)

        self.over_channels(channels, body)

    def emit_filter(self) -> None:
        """filter(w, tap pitch, U, step, channels); the lanes of the last vector past `channels` are stored as zeros."""
        f, b = self.f, self.f.b
        w, tap_pitch, U, step, channels = self.arguments
        w, U = f.pointer(w), f.pointer(U)

        def body(first: Value, mask: Value) -> None:
            taps = [
                [f.load(f.at(w, b.add(first, b.mul(tap_pitch, i64(3 * r + s)))), mask) for s in range(3)]
                for r in range(3)
            ]
            for r, row in enumerate(self.both(self.along_filter, taps)):
                for s, point in enumerate(row):
                    f.store(point, f.at(U, b.add(first, b.mul(step, i64(6 * r + s)))))

        self.over_channels(channels, body)

    def emit_output(self) -> None:
        """output(M, step, bias, relu, y, row pitch, pixel pitch, channels, high, wide): high x wide of 4x4 pixels."""
        f, b = self.f, self.f.b
        M, step, bias, relu, y, row_pitch, pixel_pitch, channels, high, wide = self.arguments
        M, bias, y = f.pointer(M), f.pointer(bias), f.pointer(y)
        cut, nothing = f.splat(b.icmp_signed("!=", relu, i64(0))), f.mask_below(i64(0))

        def body(first: Value, mask: Value) -> None:
            points = [
                [f.load(f.at(M, b.add(first, b.mul(step, i64(6 * r + s)))), mask) for s in range(6)] for r in range(6)
            ]
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
                _Transform(module, "input", INPUT_ARGUMENTS, dtype, lanes).emit_input()
                _Transform(module, "filter", FILTER_ARGUMENTS, dtype, lanes).emit_filter()
                _Transform(module, "output", OUTPUT_ARGUMENTS, dtype, lanes).emit_output()

            address = load_functions(f"transforms-{dtype.name}", emit)
            _loaded[dtype] = Transforms(address("input"), address("filter"), address("output"))
        return _loaded[dtype]


@intrinsic
def call_input(typingctx, address, source, row_pitch, pixel_pitch, V, step, channels):
    """Call the input transform at `address`: addresses in bytes, pitches and steps in elements."""
    return caller(INPUT_ARGUMENTS)


@intrinsic
def call_filter(typingctx, address, w, tap_pitch, U, step, channels):
    """Call the filter transform at `address`."""
    return caller(FILTER_ARGUMENTS)


@intrinsic
def call_output(typingctx, address, M, step, bias, relu, y, row_pitch, pixel_pitch, channels, high, wide):
    """Call the output transform at `address`."""
    return caller(OUTPUT_ARGUMENTS)
