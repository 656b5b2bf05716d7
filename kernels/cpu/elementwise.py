"""A function of one number, applied to every element: any function, the same loops and threads for all.

A `Pair` holds two scalar functions that Numba compiles, with up to two numbers a, b of theirs:

    forward    y[i] = f(x[i], a, b)
    gradient   dx[i] = g(kept[i], dy[i], a, b)    kept is x or y, as the pair chooses

Each is compiled alone, into a loop over a run of elements that is known by its address: what shares the elements among
threads is compiled once for all of them, and any kernel can call a function on outputs that it has just finished
(`call_run`). Outputs that would not fit the caches are stored past them, which spares reading what is overwritten: a
run is computed into a buffer that stays in L1 and copied from there. So are outputs that take the place of an input,
because LLVM's vector loop wants its arrays apart.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.compiler import OPTIONS, KernelCache, jit
from fastcnn.kernels.cpu.host import cache_bytes
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.tile import copy_bytes

BLOCK = 1 << 14  # elements a thread takes at once
RUN = 1 << 10  # elements of the buffer: with the run's inputs, a third of L1
SMALL = 1 << 15  # elements: for fewer no second thread wakes (9 us)
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
def call_run(typingctx, run, x, dy, y, count, a, b):
    """Call the loop at an address: addresses of inputs and output, which lie apart, number of elements, a and b."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4 + [ir.DoubleType()] * 2)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, types.float64, types.float64), codegen


@intrinsic
def store_past(typingctx, target, source, lines):
    """Copy cache lines to an address at the start of one, past the caches, and wait until they are seen."""

    def codegen(context, builder, signature, args):
        line = ir.VectorType(ir.IntType(64), LINE // 8)
        target, source = (builder.inttoptr(address, line.as_pointer()) for address in args[:2])
        past = builder.module.add_metadata([ir.IntType(32)(1)])
        with cgutils.for_range(builder, args[2]) as loop:
            value = builder.load(builder.gep(source, [loop.index]), align=8)
            builder.store(value, builder.gep(target, [loop.index]), align=LINE).set_metadata("nontemporal", past)
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@jit(inner=True)
def store_run(target, source, size, past):
    """Copy `size` bytes out of a buffer, `past` the caches if that is wanted and they fill lines."""
    if past and size % LINE == 0 and target % LINE == 0:
        store_past(target, source, size // LINE)
    else:
        copy_bytes(target, source, size)


@jit(inner=True)
def apply_block(block, thread, run, x, period, dy, y, size, width, a, b, direct, past):
    """Apply a loop to one block of flat arrays at addresses, of `size` elements of `width` bytes."""
    length = period if period else RUN
    step = max(1, BLOCK // length) * length
    first = block * step
    last = min(size, first + step)
    if direct and period == 0:
        call_run(run, x + first * width, dy + first * width, y + first * width, last - first, a, b)
        return
    buffer = np.empty(0 if direct else length * width, np.uint8)
    made = buffer.ctypes.data
    for i in range(first, last, length):
        count = min(length, last - i)
        kept = x if period else x + i * width
        call_run(run, kept, dy + i * width, y + i * width if direct else made, count, a, b)
        if not direct:
            store_run(y + i * width, made, count * width, past)


@jit
def apply_blocks(team, run, x, period, dy, y, size, width, a, b, past):
    """Apply a loop to flat arrays at addresses, a block at a time."""
    length = period if period else RUN
    step = max(1, BLOCK // length) * length
    direct = y != x and y != dy and not past
    share(team, (size + step - 1) // step, apply_block, (run, x, period, dy, y, size, width, a, b, direct, past))


def past_caches(*arrays):
    """Say whether the last array should be stored past the caches: all exceed them together, and it starts on a line."""
    return sum(array.nbytes for array in arrays) > cache_bytes().L3 and arrays[-1].ctypes.data % LINE == 0


def apply(pair, x, y, a=0.0, b=0.0):
    """Fill y with f(x, a, b); y may be x."""
    call(pair.address("f", y.dtype), x, 0, x, y, a, b)


def apply_gradient(pair, kept, dy, dx, a=0.0, b=0.0):
    """Fill dx with g(kept, dy, a, b); dx may be dy."""
    call(pair.address("g", dx.dtype), kept, 0, dy, dx, a, b)


def call(run, x, period, dy, y, a=0.0, b=0.0):
    """Share the blocks of arrays of one shape among threads; with a period, x alone is that short, and begins anew."""
    places = x.ctypes.data, period, dy.ctypes.data, y.ctypes.data
    past = past_caches(x, y) if dy is x or period else past_caches(x, dy, y)
    call_parallel(y.size > SMALL, apply_blocks, run, *places, y.size, y.itemsize, float(a), float(b), past)
