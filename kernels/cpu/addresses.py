"""Arrays by address: how one compiled kernel takes any number of arrays.

A tuple of arrays would be compiled anew for each length; their addresses are one array of integers.
"""

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LONGEST = 1 << 40  # elements: the length such an array shows, which no loop relies on


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


def addresses_of(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return the addresses of arrays, 0 for None."""
    return np.array([0 if a is None else a.__array_interface__["data"][0] for a in arrays], np.int64)
