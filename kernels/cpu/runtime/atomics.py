"""Words of memory that threads share, as kernels see them: atomic access by address, a pause, C functions by address.

All are sequentially consistent: a thread that reads a word has seen what was written before it.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

i64 = ir.IntType(64)
WORD = types.int64
C_ARGUMENTS = 4  # of a call; a C function leaves those alone that it does not have
MACHINE = platform.machine().lower()


def _word(builder, address):
    return builder.inttoptr(address, i64.as_pointer())


@intrinsic
def read(typingctx, address):
    """Return the int64 at an address."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_word(builder, args[0]), "seq_cst", 8)

    return WORD(WORD), codegen


@intrinsic
def write(typingctx, address, value):
    """Set the int64 at an address."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], _word(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(WORD, WORD), codegen


@intrinsic
def add(typingctx, address, value):
    """Add to the int64 at an address."""

    def codegen(context, builder, sig, args):
        builder.atomic_rmw("add", _word(builder, args[0]), args[1], "seq_cst")
        return context.get_dummy_value()

    return types.void(WORD, WORD), codegen


@intrinsic
def replace(typingctx, address, old, new):
    """Set the int64 at an address to `new` if it is `old`; return whether it was."""

    def codegen(context, builder, sig, args):
        found = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(WORD, WORD, WORD), codegen


@intrinsic
def pause(typingctx):
    """Wait for some tens of cycles, sparing the core's other thread."""

    def codegen(context, builder, sig, args):
        if MACHINE in ("x86_64", "amd64"):
            name, arguments = "llvm.x86.sse2.pause", []
        elif MACHINE in ("aarch64", "arm64"):
            name, arguments = "llvm.aarch64.isb", [ir.IntType(32)(15)]
        else:
            return context.get_dummy_value()
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call(typingctx, function, a, b, c, d):
    """Call the C function at an address."""
    kind = ir.FunctionType(ir.VoidType(), [i64] * C_ARGUMENTS)

    def codegen(context, builder, sig, args):
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[WORD] * (C_ARGUMENTS + 1)), codegen
