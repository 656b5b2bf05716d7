"""Launches from machine code: a kernel by its entry point and a block of words, its arguments."""

import hashlib
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fastcnn.kernels.cpu.runtime.atomics import C_ARGUMENTS, call, pause, read, replace, write
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import Launch
from fastcnn.kernels.cpu.runtime.machine_code import function_type, i64, load_functions, load_once
from fastcnn.kernels.cpu.runtime.thread_pool import C_YIELD

FUNCTION, STATUS, ARGUMENTS = range(3)  # the words of a launch: the kernel's address, what it returned, its arguments
TURN_SPINS = 4000  # pauses, of some 20 ns: about what a thread takes to wake, and more than Python between two programs
AWAKE_SPINS = 500  # then it yields its core, which the other may need
WIDTHS = {"float": 32, "double": 64}  # in bits, of the arguments that travel in vector registers


@jit
def run_launches(table, turn, pool):
    """Launch kernel after kernel; return how many there were before one that failed.

    `turn` is the address of a word that is 1 while a thread that runs programs is between two of them, in Python, and
    0 otherwise; or 0. A thread that wants back waits for its turn here, awake: where Python let it wait for its lock,
    asleep, the system would take longer to wake it, and put it on the core of another, than a small network takes.
    """
    if turn != 0:
        write(turn, 0)
    launched = 0
    while launched < table.shape[0]:
        words = table[launched, 1]
        call(table[launched, 0], words, 0, 0, 0)
        if read(words + 8 * STATUS) != 0:
            break
        launched += 1
    if turn != 0:
        for spins in range(TURN_SPINS):
            if read(turn) == 0 and replace(turn, 0, 1):
                break
            if spins % AWAKE_SPINS == AWAKE_SPINS - 1:
                call(read(pool + C_YIELD), 0, 0, 0, 0)
            pause()
    return launched


def _native(launch: Launch) -> tuple[int, np.ndarray] | None:
    """Return the entry point and the words of a launch, or None for one that machine code cannot make by itself."""
    kernel, arguments = launch.kernel, launch.arguments
    compiled = kernel.overloads.get(tuple(kernel.typeof_pyval(argument) for argument in arguments))
    if compiled is None or compiled.signature.return_type != types.none:
        return None
    kinds = compiled.signature.args
    widths = [_width(kind) for kind in compiled.target_context.get_arg_packer(kinds).argument_types]
    words = _all_words(kinds, arguments)
    if words is None or len(words) != len(widths):
        return None
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return entry_point(tuple(widths)), np.array([address, 0, *words], np.int64)


def prepare(kernel: Any, arguments: tuple[Any, ...]) -> None:
    """Compile what a launch needs, for a program too, and start nothing."""
    kernel.compile(tuple(kernel.typeof_pyval(argument) for argument in arguments))
    _native(Launch(kernel, arguments, False))


def _all_words(kinds: Any, values: Any) -> list[int] | None:
    """Return the words of several arguments."""
    parts = [_words(kind, value) for kind, value in zip(kinds, values, strict=True)]
    return None if any(part is None for part in parts) else [word for part in parts for word in part or ()]


def _words(kind: Any, value: Any) -> list[int] | None:
    """Return an argument as machine code takes it, each part in a word of 64 bits."""
    if isinstance(kind, types.Array):
        owners = [0, 0]  # kernels own nothing: the caller keeps arrays alive
        return [*owners, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    if isinstance(kind, types.BaseTuple):
        return _all_words(kind, value)
    if isinstance(kind, types.Integer | types.Boolean):
        return [int(np.uint64(int(value) & (1 << 64) - 1).astype(np.int64))]
    if isinstance(kind, types.Float):
        bits = np.array(value, f"f{kind.bitwidth // 8}").view(f"i{kind.bitwidth // 8}")
        return [int(bits)]
    return [0] if kind == types.none else None


def _width(kind: ir.Type) -> str:
    """Return how an argument travels: by its bits as a whole number or pointer, or by name in a vector register."""
    if isinstance(kind, ir.IntType):
        return str(kind.width)
    return str(kind) if str(kind) in WIDTHS else "64"


_entries: dict[tuple[str, ...], int] = {}


def entry_point(widths: tuple[str, ...]) -> int:
    """Return the address of a function that launches a kernel, with arguments of these widths, from its words."""
    return load_once(_entries, widths, lambda: _load_entry(widths))


def _load_entry(widths: tuple[str, ...]) -> int:
    """Write a function that follows Numba's calling convention: a place for the result, one for errors, arguments."""
    name = hashlib.sha256(" ".join(widths).encode()).hexdigest()[:16]
    kinds = [
        {"float": ir.FloatType(), "double": ir.DoubleType()}.get(width) or ir.IntType(int(width)) for width in widths
    ]

    def emit(module: ir.Module) -> None:
        function = ir.Function(module, function_type(C_ARGUMENTS), "launch")
        b = ir.IRBuilder(function.append_basic_block("entry"))
        words = b.inttoptr(function.args[0], i64.as_pointer())
        places = [b.ptrtoint(b.alloca(i64), i64) for _ in range(2)]
        given = []
        for i, kind in enumerate(kinds):
            word = b.load(b.gep(words, [i64(ARGUMENTS + i)]))
            if isinstance(kind, ir.IntType):
                given.append(word if kind.width == 64 else b.trunc(word, kind))
            else:
                whole = ir.IntType(WIDTHS[str(kind)])
                given.append(b.bitcast(word if whole.width == 64 else b.trunc(word, whole), kind))
        convention = ir.FunctionType(ir.IntType(32), [i64, i64, *kinds])
        kernel = b.inttoptr(b.load(b.gep(words, [i64(FUNCTION)])), convention.as_pointer())
        status = b.call(kernel, [*places, *given])
        b.store(b.zext(status, i64), b.gep(words, [i64(STATUS)]))
        b.ret_void()

    return load_functions(f"launch-{name}", emit)("launch")
