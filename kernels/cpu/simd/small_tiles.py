"""Tiles of few output channels: dot products, and sums scattered over patches."""

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.simd.epilogue_code import ClampEpilogue
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i64

DOT = Signature("a a_rows a_batch b b_step c c_rows run R bias epilogue")
PATCHES = Signature("target target_rows source source_rows offsets scales count tail")


class Dot:
    """Writes dot_MR_NK: the tile for very few output channels, whose lanes run along the reduction.

    C[m, k] = bias[k] + sum over i < R, j < run of A[a_rows[m] + a_batch[i] + j] * B[k * b_step + i * run + j]
    """

    def __init__(self, module: ir.Module, MR: int, NK: int, dtype: np.dtype, lanes: int) -> None:
        self.f = VectorFunction(module, f"dot_{MR}_{NK}", DOT, dtype, lanes)
        self.MR, self.NK = MR, NK

    def emit(self) -> None:
        """Dot products, sums over the lanes, bias and clip."""
        f, b, given = self.f, self.f.b, self.f.arguments
        a, bb, c = f.pointers("a b c")
        a_rows, a_batch, c_rows = f.pointers("a_rows a_batch c_rows", i64)
        self.a_offsets = [b.load(b.gep(a_rows, [i64(m)])) for m in range(self.MR)]
        self.b_offsets = [b.mul(given.b_step, i64(k)) for k in range(self.NK)]
        places = [
            b.gep(c, [b.add(b.load(b.gep(c_rows, [i64(m)])), i64(k))]) for m in range(self.MR) for k in range(self.NK)
        ]
        whole, rest = b.sdiv(given.run, i64(f.lanes)), b.srem(given.run, i64(f.lanes))
        mask, any_rest = f.mask_below(rest), b.zext(b.icmp_signed(">", rest, i64(0)), i64)

        def batch(i: Value, carried: list[Value]) -> list[Value]:
            b_i, *sums = carried
            start = [b.gep(a, [b.load(b.gep(a_batch, [i]))]), b_i, *sums]
            inner = f.loop(whole, start, lambda _, held: self._step(held, None))
            return [b.gep(b_i, [given.run]), *f.loop(any_rest, inner, lambda _, held: self._step(held, mask))[2:]]

        sums = f.loop(given.R, [bb, *[f.zero] * (self.MR * self.NK)], batch)[1:]
        biases = self._biases(given.bias)
        clip = ClampEpilogue(f, given.epilogue)
        for n, (total, place) in enumerate(zip(sums, places, strict=True)):
            value = b.fadd(f.sum_lanes(total), biases[n % self.NK])
            b.store(clip.number(value), place)
        b.ret_void()

    def _step(self, carried: list[Value], mask: Value | None) -> list[Value]:
        f, b = self.f, self.f.b
        a_j, b_j, *sums = carried
        filters = [f.load(f.at(b_j, offset), mask) for offset in self.b_offsets]
        result = []
        for m, offset in enumerate(self.a_offsets):
            pixel = f.load(f.at(a_j, offset), mask)
            result += [b.call(f.fma, [pixel, filters[k], sums[m * self.NK + k]]) for k in range(self.NK)]
        return [b.gep(a_j, [i64(f.lanes)]), b.gep(b_j, [i64(f.lanes)]), *result]

    def _biases(self, bias: Value) -> list[Value]:
        """Return the biases of the channels, zeros where the address is 0."""
        f, b, before = self.f, self.f.b, self.f.b.block
        given, ready = f.function.append_basic_block("given"), f.function.append_basic_block("ready")
        b.cbranch(b.icmp_signed("!=", bias, i64(0)), given, ready)
        b.position_at_end(given)
        loaded = [b.load(b.gep(f.pointer(bias), [i64(k)])) for k in range(self.NK)]
        b.branch(ready)
        b.position_at_end(ready)
        biases = []
        for value in loaded:
            phi = b.phi(f.element)
            phi.add_incoming(value, given)
            phi.add_incoming(ir.Constant(f.element, 0.0), before)
            biases.append(phi)
        return biases


def emit_patches(module: ir.Module, R: int, NV: int, dtype: np.dtype, lanes: int) -> None:
    """Write patches_R_NV: target[r] += sum over i < count of scales[i] * source[offsets[i]][r].

    Target and source are patches: R rows of NV vectors (the last masked by `tail`) at the places that two tables of
    row offsets give. The target's rows stay in registers for the whole sum.
    """
    f = VectorFunction(module, f"patches_{R}_{NV}", PATCHES, dtype, lanes)
    b, given = f.b, f.arguments
    target, source, scales = f.pointers("target source scales")
    target_rows, source_rows, offsets = f.pointers("target_rows source_rows offsets", i64)
    last = f.mask_below(given.tail)
    masks = [last if v == NV - 1 else None for _ in range(R) for v in range(NV)]
    to, from_ = ([b.load(b.gep(table, [i64(r)])) for r in range(R)] for table in (target_rows, source_rows))
    places = [f.at(target, offset, v) for offset in to for v in range(NV)]

    def body(i: Value, sums: list[Value]) -> list[Value]:
        scale = f.splat(b.load(b.gep(scales, [i])))
        patch = b.gep(source, [b.load(b.gep(offsets, [i]))])
        rows = [f.at(patch, offset, v) for offset in from_ for v in range(NV)]
        return [
            b.call(f.fma, [scale, f.load(row, mask), total]) for row, mask, total in zip(rows, masks, sums, strict=True)
        ]

    start = [f.load(place, mask) for place, mask in zip(places, masks, strict=True)]
    for total, place, mask in zip(f.loop(given.count, start, body), places, masks, strict=True):
        f.store(total, place, mask)
    b.ret_void()
