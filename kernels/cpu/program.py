"""Programs: what doors launched once, launched again without them, all in one call from Python.

A door chooses the kernels for its arrays' shapes, plans their cuts and finds scratch memory, in Python. Called again
with the same arrays it would launch the same kernels with the same arguments: so a program runs its calls twice through
the doors (the first time scratch memory still grows), notes the launches, and from then on repeats those. A launch is
an entry point and a block of words, the kernel's arguments as machine code takes them; one kernel goes through a list
of launches. Calls of functions that are not `repeatable` stay calls.

A kernel that raises ends the run where it stands: so a guard (`guard.py`) keeps what follows from running.

A program may keep what is packed from constant arrays (filters, folded normalizations) in memory of its own: those
launches are repeated only where the constants may have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types

from fastcnn.kernels.cpu.atomic import C_ARGUMENTS, call, pause, read, replace, write
from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.helpers import C_YIELD
from fastcnn.kernels.cpu.threads import POOL, Launch, ensure_helpers, recording, thread_count
from fastcnn.kernels.cpu.vector import function_type, i64, load_functions, load_once
from fastcnn.kernels.cpu.workspace import Keeper, keeping, memory, rehearses, turn

Call: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]
"""A door, or any function, and its arguments."""

FUNCTION, STATUS, ARGUMENTS = range(3)  # the words of a launch: the kernel's address, what it returned, its arguments
TURN_SPINS = 4000  # pauses, of some 20 ns: about what a thread takes to wake, and more than Python between two programs
AWAKE_SPINS = 500  # then it yields its core, which the other may need
WIDTHS = {"float": 32, "double": 64}  # in bits, of the arguments that travel in vector registers


class Program:
    """Calls to be run many times on the same arrays.

    Parameters
    ----------
    calls
        Functions and their arguments. What a `repeatable` one does must not depend on anything but numbers and shapes
        in Python.
    constants
        The arrays that change only where `run` is told; None keeps nothing.
    """

    def __init__(self, calls: Sequence[Call], constants: Sequence[np.ndarray] | None = None) -> None:
        self._calls = list(calls)
        self._constants = constants
        self._keeper: Keeper | None = None
        self._seen: object = None
        self._tape: _Tape | None = None
        self._version: object = None

    @property
    def kept_bytes(self) -> int:
        """The bytes that the program keeps of what is packed from constants."""
        return self._keeper.bytes if self._keeper else 0

    def run(self, version: object = None) -> None:
        """Run the calls; constants are as they were at the last run that was given an equal `version`, but for None.

        What a call raises ends the run: the calls before it have run, and those after it have not.
        """
        where = memory(), thread_count()
        if rehearses() or self._seen != where:
            self._seen, self._tape = where, None
            self._run_calls(_Tape())
            if not rehearses():
                self._seen = memory(), thread_count()
        elif self._tape is None:
            tape = _Tape()
            self._run_calls(tape)
            self._version = version
            if (memory(), thread_count()) == where:
                self._tape = tape.joined()
        else:
            ensure_helpers(where[1])
            if version is None or version != self._version:
                self._tape.prepare()
                self._version = version
            self._tape.run()

    def _run_calls(self, tape: _Tape) -> None:
        """Run every call through its door, and note on a tape what to do in its place."""
        self._keeper = None if self._constants is None else Keeper(self._constants)
        with keeping(self._keeper):
            for function, arguments in self._calls:
                if getattr(function, "repeatable", False):
                    with recording() as launches:
                        function(*arguments)
                    tape.add_launches(launches)
                else:
                    run_call(function, arguments)
                    tape.add_call(function, arguments)


def run_call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Call a function; what overflows becomes infinite without a warning, as it does in kernels."""
    with np.errstate(over="ignore", invalid="ignore"):
        function(*arguments)


class _Tape:
    """What a program does from its third run on."""

    def __init__(self) -> None:
        self._constant: list[Launch | Call] = []
        self._others: list[Launch | Call] = []
        self._steps: tuple[list[Call], list[Call]] = [], []

    def add_launches(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            (self._constant if launch.constant else self._others).append(launch)

    def add_call(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._others.append((function, arguments))

    def joined(self) -> _Tape:
        """Make one call of launches that follow each other; return the tape."""
        self._steps = _joined(self._constant), _joined(self._others)
        return self

    def prepare(self) -> None:
        """Do what depends on constants alone."""
        for function, arguments in self._steps[0]:
            function(*arguments)

    def run(self) -> None:
        """Do all the rest."""
        for function, arguments in self._steps[1]:
            function(*arguments)


def _joined(parts: Sequence[Launch | Call]) -> list[Call]:
    """Return calls that do the parts in order, with one call for launches that follow each other."""
    steps: list[Call] = []
    stretch: list[tuple[Launch, int, np.ndarray]] = []

    def close() -> None:
        if stretch:
            steps.append((_run_stretch, (_table(stretch), list(stretch))))
            stretch.clear()

    for part in parts:
        native = _native(part) if isinstance(part, Launch) else None
        if isinstance(part, Launch) and native is not None:
            stretch.append((part, *native))
            continue
        close()
        steps.append((part.kernel, part.arguments) if isinstance(part, Launch) else (run_call, part))
    close()
    return steps


def _table(stretch: Sequence[tuple[Launch, int, np.ndarray]]) -> np.ndarray:
    return np.array([(entry, words.ctypes.data) for _, entry, words in stretch], np.int64)


def _run_stretch(table: np.ndarray, stretch: Sequence[tuple[Launch, int, np.ndarray]]) -> None:
    """Run the launches of a table; `stretch` holds the memory that it points to."""
    failed = run_launches(table, turn(), POOL.address)
    if failed < len(table):
        kernel, arguments, _ = stretch[failed][0]
        kernel(*arguments)  # only called from Python does it raise
        raise RuntimeError(f"the kernel {kernel.__name__} failed, and did not when it was called again.")


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
