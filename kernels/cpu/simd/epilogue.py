"""What a convolution does to the outputs it has just finished, while they are in cache.

An epilogue is one int64, so that every kernel takes it as it takes a number. Its lowest bits are those of
`epilogue_code.py`, which act in registers. What is left without them is 0, or the address of six words: of the machine
code of a loop over a run of elements (`elementwise/map.py`), of the function's numbers a and b, and how far from the
outputs another array stands that the function takes, too, element by element; 0 is none. The last two are those of
`statistics_code.py`.
"""

import struct

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.cpu.simd.epilogue_code import ADD, AWAY, BITS, MEASURE, PAST_CACHES
from fastcnn.kernels.cpu.simd.tile import copy_bytes

RUN_BYTES = 4096  # of finished outputs that a function takes at once, out of a buffer that stays in L1

Words = tuple[int, float, float, int, int, int]
_words: dict[Words, np.ndarray] = {}  # for as long as the process lives: kernels hold addresses


def epilogue_of(
    run: int, a: float = 0.0, b: float = 0.0, away: int = 0, pitch: int = 0, source: int = 0
) -> int:  # fmt: skip
    """Return the epilogue that applies the loop at an address, with its two numbers, to outputs.

    With another array `away` bytes from the outputs it is a loop of two inputs. `pitch` and `source`: elements between
    the rows of a record, and bytes from the outputs to the array that they are summed with.
    """
    key = run, float(a), float(b), away, pitch, source
    if key not in _words:
        words = aligned_empty(len(key), np.dtype(np.int64))
        words[...] = np.frombuffer(struct.pack("=qddqqq", *key), np.int64)
        _words.setdefault(key, words)
    address: int = _words[key].ctypes.data
    return address


def stored(epilogue: int, past_caches: bool) -> int:
    """Return an epilogue whose outputs may go past the caches: not where a function still has to read them."""
    in_registers = epilogue & (ADD | MEASURE) or not epilogue & ~BITS
    return int(epilogue) | (PAST_CACHES if past_caches and in_registers else 0)


def in_memory(epilogue: int) -> int:
    """Return an epilogue for a kernel that adds nothing in registers: its function adds, and cuts."""
    return int(epilogue) & ~BITS if epilogue & ADD else int(epilogue)


@intrinsic
def _buffer(typingctx):
    """Return the address of RUN_BYTES bytes of the caller's stack."""

    def codegen(context, builder, signature, args):
        space = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(64), RUN_BYTES // 8))
        return builder.ptrtoint(space, ir.IntType(64))

    return types.int64(), codegen


@intrinsic
def _word(typingctx, address):
    """Return the int64 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), codegen


@intrinsic
def _number(typingctx, address):
    """Return the float64 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.DoubleType().as_pointer()))

    return types.float64(types.int64), codegen


@jit(inner=True)
def added_away(epilogue):
    """Return how far from the outputs the array stands that kernels add in registers, or 0."""
    return _word((epilogue & ~BITS) + 8 * AWAY) if epilogue & ADD else 0


@jit(inner=True)
def finish(epilogue, place, rows, row_pitch, columns, column_pitch, channels, size):
    """Apply an epilogue's function to rows x columns pixels of `channels` elements of `size` bytes, from `place` on.

    Pitches are in elements. Nothing happens where the epilogue has no function, or one that was applied in
    registers.
    """
    words = epilogue & ~BITS
    if words == 0 or epilogue & (ADD | MEASURE):
        return
    run, a, b, away, buffer = _word(words), _number(words + 8), _number(words + 16), _word(words + 24), _buffer()
    together = column_pitch == channels
    pieces, length = (1, columns * channels) if together else (columns, channels)
    most = RUN_BYTES // size
    for row in range(rows):
        for piece in range(pieces):
            at = place + size * (row * row_pitch + piece * column_pitch)
            for first in range(0, length, most):
                count = min(most, length - first)
                output = at + size * first
                copy_bytes(buffer, output, size * count)
                call_run(run, buffer, output + away if away else buffer, output, count, a, b)


@intrinsic
def call_run(typingctx, run, x, dy, y, count, a, b):
    """Call the loop at an address: addresses of inputs and output, which lie apart, number of elements, a and b."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4 + [ir.DoubleType()] * 2)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, types.float64, types.float64), codegen
