"""A function of one number, applied to every element: any function, the same loops and threads for all.

A `Pair` holds two scalar functions that Numba compiles, with up to two numbers a, b of theirs:

    forward    y[i] = f(x[i], a, b)
    gradient   dx[i] = g(kept[i], dy[i], a, b)    kept is x or y, as the pair chooses

Each is compiled alone, into a loop over a run of elements that is known by its address: what shares the elements among
threads is compiled once for all of them, and any kernel can call a function on outputs that it has just finished
(`call_run`). Outputs that take the place of an input are computed into a buffer that stays in L1 and copied from there,
because LLVM's vector loop wants its arrays apart.

Two inputs from memory are asked for a run ahead: the CPU by itself follows one stream, but two and an output only a
fifth slower than this (Zen 5). Outputs that exceed the caches are stored past them, by way of a short buffer: a plain
store would first read what it overwrites (a third more time where memory is the bound).
"""

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.runtime.compiler import OPTIONS, KernelCache, jit
from fastcnn.kernels.cpu.runtime.cpu_info import cache_bytes
from fastcnn.kernels.cpu.runtime.launch import call_parallel
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.simd.copy import copy_run, stream_run
from fastcnn.kernels.cpu.simd.epilogue import call_run
from fastcnn.kernels.cpu.simd.streaming import streams

BLOCK = 1 << 14  # elements a thread takes at once
RUN = 1 << 10  # elements of the buffer, and fetched ahead: with the run's inputs, a third of L1
STREAMED = 1 << 10  # bytes of the buffer of what is stored past the caches: in longer ones loads wait for stores
AHEAD = 1 << 12  # bytes, at least, from an element to what is asked for with it
LINE = 64  # bytes


class Pair:
    """A scalar function f(x, a, b), and what its gradient is: g(kept, dy, a, b).

    `is_own` tells that both belong to this package, whose machine code the cache on disk keeps.
    """

    def __init__(self, f, g, is_own=True):
        self.f, self.g, self.is_own = f, g, is_own
        self._compiled = {}

    def address(self, part, dtype):
        """Return where the loop of "f" or "g" stands in memory, compiled at the first look."""
        key = part, dtype
        if key not in self._compiled:  # two threads may compile; the first one's code is kept
            make, function = (forward_run, self.f) if part == "f" else (gradient_run, self.g)
            name = f"{function.__name__}, {part}" if self.is_own else None
            self._compiled.setdefault(key, Compiled(make(function, dtype.type), dtype, name))
        return self._compiled[key].address


def forward_run(f, number):
    """Return the loop of a function over a run of a NumPy type; `dy` is not looked at."""

    def run(x, dy, y, count, a, b):
        given, made, first, second = carray(x, (count,)), carray(y, (count,)), number(a), number(b)
        for i in range(count):
            made[np.uintp(i)] = f(given[np.uintp(i)], first, second)

    return run


def gradient_run(g, number):
    """Return the loop of a gradient over a run of a NumPy type."""

    def run(kept, dy, dx, count, a, b):
        given, back, made = carray(kept, (count,)), carray(dy, (count,)), carray(dx, (count,))
        first, second = number(a), number(b)
        for i in range(count):
            made[np.uintp(i)] = g(given[np.uintp(i)], back[np.uintp(i)], first, second)

    return run


class NamedCache(KernelCache):
    """Keeps loops by the name of their function; the folder's name already knows all source."""

    def __init__(self, run, name):
        super().__init__(run)
        self._name = name

    def _index_key(self, sig, codegen):
        return sig, codegen.magic_tuple(), self._name


class Compiled:
    """The machine code of a loop for a dtype, taken from the cache on disk if it has a name there."""

    def __init__(self, run, dtype, name):
        number = numba.from_dtype(dtype)
        dispatcher = numba.njit(**OPTIONS, no_cpython_wrapper=True)(run)
        if name is not None:
            dispatcher._cache = NamedCache(run, name)
        signature = types.void(*[types.CPointer(number)] * 3, types.int64, types.float64, types.float64)
        dispatcher.compile(signature)
        self.code = dispatcher.overloads[signature.args]  # it lives as long as this
        self.address = self.code.library.get_pointer_to_function(self.code.fndesc.llvm_cfunc_wrapper_name)


@intrinsic
def fetch(typingctx, address):
    """Ask for the cache line at an address, which will be read."""

    def codegen(context, builder, signature, args):
        pointer, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [builder.inttoptr(args[0], pointer), i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@jit(inner=True)
def fetch_ahead(first, second, size):
    """Ask for as many bytes of two arrays."""
    for line in range(0, size, LINE):
        fetch(first + line)
        fetch(second + line)


@jit(inner=True)
def apply_block(block, thread, run, given, y, a, b, apart, ahead, past_caches):
    """Apply a loop to one block of y, of whole cache lines; `given`: x's address, its period if it has one, dy's."""
    (x, period, dy), width, lead = given, y.itemsize, y.ctypes.data % LINE // y.itemsize
    first, last = max(0, block * BLOCK - lead), min(y.size, block * BLOCK + BLOCK - lead)
    if apart and not (period or ahead or past_caches):
        call_run(run, x + first * width, dy + first * width, y.ctypes.data + first * width, last - first, a, b)
        return
    length = STREAMED // width if past_caches else RUN
    buffer = np.empty(length if past_caches or not apart else 0, y.dtype)
    i = first
    while i < last:
        turn = i % period if period else i
        count = min(length - (i + lead) % length, last - i)
        count = min(count, period - turn) if period else count
        if ahead or past_caches:
            distance = (i + max(length, AHEAD // width)) * width
            fetch_ahead(dy + distance if period else x + distance, dy + distance, count * width)
        made = y.ctypes.data + i * width if apart and not past_caches else buffer.ctypes.data
        call_run(run, x + turn * width, dy + i * width, made, count, a, b)
        if past_caches:
            stream_run(buffer, 0, y, i, count)
        elif not apart:
            copy_run(buffer, 0, y, i, count)
        i += count


@jit
def apply_blocks(team, run, x, period, dy, y, a, b, ahead, past_caches):
    """Apply a loop to flat arrays, a block at a time."""
    apart = y.ctypes.data != x.ctypes.data and y.ctypes.data != dy.ctypes.data
    given = np.int64(x.ctypes.data), period, np.int64(dy.ctypes.data)
    tasks = (y.size + y.ctypes.data % LINE // y.itemsize + BLOCK - 1) // BLOCK
    share(team, tasks, apply_block, (run, given, y, a, b, apart, ahead, past_caches and apart))


def apply(pair, x, y, a=0.0, b=0.0):
    """Fill y with f(x, a, b); y may be x."""
    call(pair.address("f", y.dtype), x, 0, x, y, a, b)


def apply_gradient(pair, kept, dy, dx, a=0.0, b=0.0):
    """Fill dx with g(kept, dy, a, b); dx may be dy."""
    call(pair.address("g", dx.dtype), kept, 0, dy, dx, a, b)


def call(run, x, period, dy, y, a=0.0, b=0.0):
    """Share the blocks of arrays of one shape among threads; with a period, x alone is that short, and begins anew."""
    ahead = dy is not x and not period and 3 * y.nbytes > cache_bytes().L2
    flat = x.reshape(-1), period, dy.reshape(-1), y.reshape(-1)
    call_parallel(y.size > SERIAL_ELEMENTS, apply_blocks, run, *flat, float(a), float(b), ahead, streams(y))
