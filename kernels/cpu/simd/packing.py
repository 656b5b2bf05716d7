"""What stands beside the register tile: copies into panels, dot products for few channels, sums of patches.

Written on `VectorFunction`; `tile.py` compiles them with the tiles and says how each is called.
"""

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i64

COPY = Signature("source step target rows channels")
COPY_ROWS = Signature("source step target pitch rows count")
TRANSPOSE = Signature("source step target panel rows columns")


def emit_copy(module: ir.Module, NV: int, dtype: np.dtype, lanes: int) -> None:
    """Write copy_NV: rows of `channels` elements, `step` apart, to packed rows of NV vectors, zeros past `channels`."""
    f = VectorFunction(module, f"copy_{NV}", COPY, dtype, lanes)
    b, given = f.b, f.arguments
    masks = [f.mask_below(b.sub(given.channels, i64(v * lanes))) for v in range(NV)]

    def body(_: Value, carried: list[Value]) -> list[Value]:
        from_, to = carried
        for v, mask in enumerate(masks):
            f.store(f.load(f.at(from_, i64(0), v), mask), f.at(to, i64(0), v))
        return [b.gep(from_, [given.step]), b.gep(to, [i64(NV * lanes)])]

    f.loop(given.rows, f.pointers("source target"), body)
    b.ret_void()


def emit_copy_rows(module: ir.Module, dtype: np.dtype, lanes: int) -> None:
    """Write copy_rows: rows of `count` elements, `step` apart, to rows `pitch` apart."""
    f = VectorFunction(module, "copy_rows", COPY_ROWS, dtype, lanes)
    b, given = f.b, f.arguments
    whole, rest = b.sdiv(given.count, i64(lanes)), b.srem(given.count, i64(lanes))
    mask, past = f.mask_below(rest), b.mul(whole, i64(lanes))

    def body(_: Value, carried: list[Value]) -> list[Value]:
        from_, to = carried

        def copy(i: Value, _: list[Value]) -> list[Value]:
            at = b.mul(i, i64(lanes))
            f.store(f.load(f.at(from_, at)), f.at(to, at))
            return []

        f.loop(whole, [], copy)
        f.store(f.load(f.at(from_, past), mask), f.at(to, past), mask)
        return [b.gep(from_, [given.step]), b.gep(to, [given.pitch])]

    f.loop(given.rows, f.pointers("source target"), body)
    b.ret_void()


def emit_transpose(module: ir.Module, dtype: np.dtype, lanes: int) -> None:
    """Write transpose: target[j, lane] = source[lane, j] for j < columns, zeros in the lanes from `rows` on.

    Rows of source stand `step` elements apart, those of target `panel`; squares of lanes pass through registers.
    """
    f = VectorFunction(module, "transpose", TRANSPOSE, dtype, lanes)
    b, given = f.b, f.arguments
    everything = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes)
    nothing = ir.Constant(ir.VectorType(ir.IntType(1), lanes), None)

    def body(_: Value, carried: list[Value]) -> list[Value]:
        from_, to, left = carried
        mask = f.mask_below(left)
        vectors = []
        for lane in range(lanes):
            exists = b.icmp_signed("<", i64(lane), given.rows)
            # A row that does not exist is loaded from the first one's place under an empty mask.
            place = f.at(from_, b.select(exists, b.mul(given.step, i64(lane)), i64(0)))
            vectors.append(f.load(place, b.select(exists, mask, nothing)))
        for j, vector in enumerate(f.transpose(vectors)):
            wanted = b.select(b.icmp_signed("<", i64(j), left), everything, nothing)
            f.store(vector, f.at(to, b.mul(given.panel, i64(j))), wanted)
        return [b.gep(from_, [i64(lanes)]), b.gep(to, [b.mul(given.panel, i64(lanes))]), b.sub(left, i64(lanes))]

    blocks = b.sdiv(b.add(given.columns, i64(lanes - 1)), i64(lanes))
    f.loop(blocks, [*f.pointers("source target"), given.columns], body)
    b.ret_void()
