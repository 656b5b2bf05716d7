"""Arrays by address, so that one compiled kernel takes any number of arrays; and runs of elements copied as bytes.

A tuple of arrays would be compiled anew for each length; their addresses are one array of integers.
"""

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.compiler import jit

LONGEST = 1 << 40  # elements: the length such an array shows, which no loop relies on

SHORT = 16  # elements: for fewer the call of the C library's copy takes longer than a loop (measured)


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


@intrinsic
def _copy_bytes(typingctx, x, at, y, to, count):
    """Copy `count` elements of x from `at` to y from `to`; the two do not overlap."""

    def codegen(context, builder, sig, args):
        def place(array, kind, start):
            return builder.gep(context.make_array(kind)(context, builder, array).data, [start])

        source, target = place(args[0], sig.args[0], args[1]), place(args[2], sig.args[2], args[3])
        cgutils.raw_memcpy(builder, target, source, args[4], x.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(x, types.int64, y, types.int64, types.int64), codegen


@jit(inner=True)
def copy_run(x, at, y, to, count):
    """Copy `count` elements of x from `at` to y from `to`; the two do not overlap.

    A loop that is vectorized would do the last few dozen elements of every run one by one.
    """
    if count < SHORT:
        for i in range(count):
            y[np.uintp(to + i)] = x[np.uintp(at + i)]
    else:
        _copy_bytes(x, at, y, to, count)


def addresses_of(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return the addresses of arrays, 0 for None."""
    return np.array([0 if a is None else a.__array_interface__["data"][0] for a in arrays], np.int64)
