"""Denormal numbers are zeros inside kernels: a processor takes a hundred cycles and more for each of them.

What a kernel computes or reads below 1.2e-38 (float32) counts as zero; what it only copies stays as it is. NumPy, and
so the reference, keeps denormals.
Two bits of the thread's floating-point control register say so (x86: MXCSR; ARM: FPCR). `flush` sets them and `restore`
puts back what the caller had: both write code into a function under construction.
"""

import platform

from llvmlite import ir
from numba.core import cgutils

MACHINE = platform.machine().lower()
X86, ARM = MACHINE in ("x86_64", "amd64"), MACHINE in ("aarch64", "arm64")
FLUSH = 0x8040 if X86 else 1 << 24  # results to zero and operands as zero; ARM's one bit stands for both

_void, _pointer = ir.VoidType(), ir.IntType(8).as_pointer()


def _call(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.fence("seq_cst", "singlethread")  # arithmetic stays on its side of the change
    value = builder.call(function, arguments)
    builder.fence("seq_cst", "singlethread")
    return value


def flush(builder):
    """Emit code that makes this thread take denormals for zeros; return the register as it was."""
    if X86:
        slot = builder.alloca(ir.IntType(32))
        _call(builder, "llvm.x86.sse.stmxcsr", _void, builder.bitcast(slot, _pointer))
        before = builder.load(slot)
    elif ARM:
        before = _call(builder, "llvm.aarch64.get.fpcr", ir.IntType(64))
    else:
        return None
    restore(builder, builder.or_(before, before.type(FLUSH)))
    return before


def restore(builder, before):
    """Emit code that sets the register."""
    if X86:
        slot = builder.alloca(before.type)
        builder.store(before, slot)
        _call(builder, "llvm.x86.sse.ldmxcsr", _void, builder.bitcast(slot, _pointer))
    elif ARM:
        _call(builder, "llvm.aarch64.set.fpcr", _void, before)
