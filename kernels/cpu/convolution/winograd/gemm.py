"""The matrix products of Winograd's transforms as vector code, all points in one call.

    products    M[e, p, k]  = sum over channels c of V[e, p, c] * U[e, c, k]    patches by output channels
    sums        S[e, c, k] += sum over patches p of V[e, p, c] * Y[e, p, k]     for the gradient by weights

V (points, vectors of C, patches, lanes), M and Y (points, vectors of K, patches, lanes): the patches of a vector of
channels lie side by side, so that all rows of a tile stand at constants from one address, and one vector of outputs
(16 channels) keeps the multiply-add units as busy as two. U (points, C, 2 * lanes) is one panel, S (points, C, vectors
of K, lanes). No lane is masked: those past the last channel are zeros, in M and S products of zeros.

On the way they ask for cache lines: of two streams, one step of so many bytes a vector of channels (`products`) or a
point (`sums`). Products will be stored in the lines of the second one, and what stands `away` from these will be read.
Written on `VectorFunction`, as the tile is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.runtime.partition import LINE
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.tile import MAX_VECTORS, tile_shape
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i8, i64

PRODUCTS = Signature("V v_pitch vector_pitch U u_pitch M m_pitch C points fetch fetch_step store store_step away")
SUMS = Signature("V v_pitch Y y_pitch vector_pitch S s_pitch s_row patches points fetch fetch_step other other_step")
call_products, call_sums = PRODUCTS.call, SUMS.call  # addresses and steps in bytes, pitches in elements

UNROLL = 2  # channels at a time: with more, the loads of U made early would not leave registers for the largest tile

Body = Callable[[Value, list[Value]], list[Value]]


class PointProducts(NamedTuple):
    """Addresses: products[MR, NV] for MR patches, sums[MR, NV] for MR input channels, by NV vectors."""

    products: np.ndarray
    sums: np.ndarray


class _Points:
    """Writes one function that goes over the points: MR rows by NV vectors."""

    def __init__(self, module: ir.Module, name: str, signature: Signature, MR: int, NV: int, dtype: np.dtype) -> None:
        lanes = tile_shape(dtype.itemsize)[1]
        self.f = VectorFunction(module, f"{name}_{MR}_{NV}", signature, dtype, lanes)
        self.MR, self.NV = MR, NV

    def emit_products(self) -> None:
        """Write PRODUCTS: pitches of V's points and vectors, of U and of M, and two streams to ask for."""
        f, b, given = self.f, self.f.b, self.f.arguments
        vectors = b.sdiv(b.add(given.C, i64(f.lanes - 1)), i64(f.lanes))

        def point(_: Value, carried: list[Value]) -> list[Value]:
            v, u, m, *asked = carried

            def vector(i: Value, carried: list[Value]) -> list[Value]:
                a, panel, *rest = carried
                asked, sums = rest[:4], rest[4:]
                asked = [*self._ask(asked[:2], given.fetch_step), *self._ask(asked[2:], given.store_step, given.away)]
                left = b.sub(given.C, b.mul(i, i64(f.lanes)))
                count = b.select(b.icmp_signed("<", left, i64(f.lanes)), left, i64(f.lanes))
                after, panel, *sums = f.loop(b.sdiv(count, i64(UNROLL)), [a, panel, *sums], self._channels(UNROLL))
                _, panel, *sums = f.loop(b.srem(count, i64(UNROLL)), [after, panel, *sums], self._channels(1))
                return [b.gep(a, [given.vector_pitch]), panel, *asked, *sums]

            _, _, *rest = f.loop(vectors, [v, u, *asked, *[f.zero] * (self.MR * self.NV)], vector)
            for n, value in enumerate(rest[4:]):
                f.store(value, f.at(m, b.mul(given.vector_pitch, i64(n % self.NV)), n // self.NV))
            pitches = given.v_pitch, given.u_pitch, given.m_pitch
            return [*(b.gep(at, [pitch]) for at, pitch in zip((v, u, m), pitches, strict=True)), *rest[:4]]

        asked = [given.fetch] * 2 + [given.store] * 2
        f.loop(given.points, [*f.pointers("V U M"), *asked], point)
        b.ret_void()

    def _channels(self, count: int) -> Body:
        """Return the body that adds the products of `count` channels."""
        f, b = self.f, self.f.b

        def body(_: Value, carried: list[Value]) -> list[Value]:
            a, panel, *sums = carried
            for u in range(count):
                outputs = [f.load(f.at(panel, i64(0), MAX_VECTORS * u + j)) for j in range(self.NV)]
                sums = self._multiply_add([i64(r * f.lanes + u) for r in range(self.MR)], a, outputs, sums)
            return [b.gep(a, [i64(count)]), b.gep(panel, [i64(MAX_VECTORS * f.lanes * count)]), *sums]

        return body

    def emit_sums(self) -> None:
        """Write SUMS: pitches of V, of Y's points and vectors, of S's points and rows, and two streams to ask for."""
        f, b, given = self.f, self.f.b, self.f.arguments
        places = [(b.mul(given.s_row, i64(r)), j) for r in range(self.MR) for j in range(self.NV)]

        def point(_: Value, carried: list[Value]) -> list[Value]:
            v, y, s, *asked = carried
            asked = [*self._ask(asked[:2], given.fetch_step), *self._ask(asked[2:], given.other_step)]

            def patch(_: Value, carried: list[Value]) -> list[Value]:
                a, d, *sums = carried
                outputs = [f.load(f.at(d, b.mul(given.vector_pitch, i64(j)))) for j in range(self.NV)]
                sums = self._multiply_add([i64(r) for r in range(self.MR)], a, outputs, sums)
                return [b.gep(a, [i64(f.lanes)]), b.gep(d, [i64(f.lanes)]), *sums]

            _, _, *sums = f.loop(given.patches, [v, y, *(f.load(f.at(s, *place)) for place in places)], patch)
            for value, place in zip(sums, places, strict=True):
                f.store(value, f.at(s, *place))
            pitches = given.v_pitch, given.y_pitch, given.s_pitch
            return [*(b.gep(at, [pitch]) for at, pitch in zip((v, y, s), pitches, strict=True)), *asked]

        asked = [given.fetch] * 2 + [given.other] * 2
        f.loop(given.points, [*f.pointers("V Y S"), *asked], point)
        b.ret_void()

    def _multiply_add(self, rows: list[Value], a: Value, outputs: list[Value], sums: list[Value]) -> list[Value]:
        """Return the sums after the products of each row's element of `a` with the outputs."""
        f, b = self.f, self.f.b
        result = []
        for r, row in enumerate(rows):
            scalar = f.splat(b.load(b.gep(a, [row]), align=f.size))
            result += [b.call(f.fma, [scalar, outputs[j], sums[r * self.NV + j]]) for j in range(self.NV)]
        return result

    def _ask(self, asked: list[Value], step: Value, away: Value | None = None) -> list[Value]:
        """Ask for the lines of the next `step` bytes; `asked`, returned for the next time, is (next line, end).

        With `away` they will be written, and those that many bytes from them read.
        """
        f, b = self.f, self.f.b
        place, due = asked[0], b.add(asked[1], step)

        def line(_: Value, carried: list[Value]) -> list[Value]:
            f.prefetch(f.pointer(carried[0], i8), away is not None)
            if away is not None:
                f.prefetch(f.pointer(b.add(carried[0], away), i8))
            return [b.add(carried[0], i64(LINE))]

        return [*f.loop(b.sdiv(b.add(b.sub(due, place), i64(LINE - 1)), i64(LINE)), [place], line), due]


_loaded: dict[np.dtype, PointProducts] = {}


def point_products(dtype: np.dtype) -> PointProducts:
    """Return the products of one dtype, from the cache folder where they are already compiled."""
    return load_once(_loaded, dtype, lambda: _load(dtype))


def _load(dtype: np.dtype) -> PointProducts:
    rows, lanes = tile_shape(dtype.itemsize)
    vectors = range(1, MAX_VECTORS + 1)
    shapes = [(MR, NV) for MR in range(1, rows + 1) for NV in vectors]
    sum_shapes = [(lanes // NV // part, NV) for NV in vectors for part in (1, 2, 4) if lanes // NV // part]

    def emit(module: ir.Module) -> None:
        for shape in shapes:
            _Points(module, "products", PRODUCTS, *shape, dtype).emit_products()
        for shape in sum_shapes:
            _Points(module, "sums", SUMS, *shape, dtype).emit_sums()

    address = load_functions(f"point-products-{dtype.name}", emit)
    products, sums = (np.zeros((most + 1, MAX_VECTORS + 1), np.int64) for most in (rows, lanes))
    for MR, NV in shapes:
        products[MR, NV] = address(f"products_{MR}_{NV}")
    for MR, NV in sum_shapes:
        sums[MR, NV] = address(f"sums_{MR}_{NV}")
    return PointProducts(products, sums)
