"""Arrays by address, so that one compiled kernel takes any number of arrays; and copies of runs of elements.

A tuple of arrays would be compiled anew for each length; their addresses are one array of integers. Runs are copied in
whole vectors, in the kernel itself; `stream_run` stores those past the caches that fill a vector's place in memory.
"""

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.simd.vector import vector_registers

LONGEST = 1 << 40  # elements: the length such an array shows, which no loop relies on

VECTOR_BYTES = vector_registers()[0]


@intrinsic
def array_at(typingctx, address, like):
    """Return the flat array at an address, of the element type of the array `like`; its caller keeps it alive."""
    kind = types.Array(like.dtype, 1, "C")

    def codegen(context, builder, sig, args):
        array, word = context.make_array(kind)(context, builder), ir.IntType(64)
        size = word(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        context.populate_array(
            array, data=builder.inttoptr(args[0], array.data.type), shape=[word(LONGEST)], strides=[size],
            itemsize=size, meminfo=None,
        )  # fmt: skip
        return array._getvalue()

    return kind(types.int64, like), codegen


class _Vectors:
    """Writes copies of vectors of one element type, at offsets from two places."""

    def __init__(self, context, builder, array, source, target):
        self.b, self.source, self.target = builder, source, target
        self.element, self.size = context.get_data_type(array.dtype), array.dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.element, self.lanes)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)

    def at(self, place, offset):
        return self.b.bitcast(self.b.gep(place, [offset]), self.vector.as_pointer())

    def whole(self, offset, past_caches=False):
        """Copy a vector; `past_caches`: to a multiple of its size."""
        value = self.b.load(self.at(self.source, offset), align=self.size)
        stored = self.b.store(value, self.at(self.target, offset), align=VECTOR_BYTES if past_caches else self.size)
        if past_caches:
            stored.set_metadata("nontemporal", self.b.module.add_metadata([ir.IntType(32)(1)]))

    def part(self, offset, count):
        """Copy fewer elements than a vector has, touching no others."""
        b, i32, pointer = self.b, ir.IntType(32), self.vector.as_pointer()
        ends = b.insert_element(ir.Constant(ir.VectorType(count.type, self.lanes), ir.Undefined), count, i32(0))
        ends = b.shuffle_vector(ends, ends, ir.Constant(ir.VectorType(i32, self.lanes), None))
        mask = b.icmp_signed("<", ir.Constant(ends.type, list(range(self.lanes))), ends)
        name = f"v{self.lanes}f{8 * self.size}.p0"
        kinds = [pointer, i32, self.mask, self.vector], [self.vector, pointer, i32, self.mask]
        load = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(self.vector, kinds[0]), f"llvm.masked.load.{name}"
        )
        store = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(ir.VoidType(), kinds[1]), f"llvm.masked.store.{name}"
        )
        zero = ir.Constant(self.vector, None)
        value = b.call(load, [self.at(self.source, offset), i32(self.size), mask, zero])
        b.call(store, [value, self.at(self.target, offset), i32(self.size), mask])


def _copy(past_caches):
    """Return a compiled copy of `count` elements of x from `at` to y from `to`; the two do not overlap."""

    @intrinsic
    def copy(typingctx, x, at, y, to, count):
        def codegen(context, builder, sig, args):
            def place(array, kind, start):
                return builder.gep(context.make_array(kind)(context, builder, array).data, [start])

            source, target, count = place(args[0], sig.args[0], args[1]), place(args[2], sig.args[2], args[3]), args[4]
            v = _Vectors(context, builder, x, source, target)
            word, lanes = count.type, count.type(v.lanes)
            start = word(0)
            if past_caches:
                left = builder.and_(builder.neg(builder.ptrtoint(target, word)), word(VECTOR_BYTES - 1))
                left = builder.udiv(left, word(v.size))
                start = builder.select(builder.icmp_signed("<", left, count), left, count)
                with builder.if_then(builder.icmp_signed(">", start, word(0))):
                    v.part(word(0), start)
            rest = builder.sub(count, start)
            whole = builder.sdiv(rest, lanes)
            with cgutils.for_range(builder, whole) as loop:
                v.whole(builder.add(start, builder.mul(loop.index, lanes)), past_caches)
            done = builder.mul(whole, lanes)
            with builder.if_then(builder.icmp_signed("<", done, rest)):
                v.part(builder.add(start, done), builder.sub(rest, done))
            return context.get_dummy_value()

        return types.void(x, types.int64, y, types.int64, types.int64), codegen

    return copy


copy_run = _copy(past_caches=False)
stream_run = _copy(past_caches=True)


def addresses_of(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return the addresses of arrays, 0 for None."""
    return np.array([0 if a is None else a.__array_interface__["data"][0] for a in arrays], np.int64)
