"""LLVM, as far as the tile needs it: functions on vectors of the host's width, compiled once and kept on disk.

`VectorFunction` writes one function; `load_functions` compiles a set of them for the host (or for NUMBA_CPU_NAME), or
takes their object code from the cache folder.
"""

import platform
from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.runtime.machine_code import i8, i32, i64, target_machine
from fastcnn.kernels.cpu.simd.signature import Signature

MASKING_BYTES = 64  # of vectors whose stores take a mask at no cost; that of others is 6 plain ones' (AVX2, measured)


def vector_registers() -> tuple[int, int]:
    """Return (bytes of a vector register, number of them) of the CPU that code is compiled for."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 16, 32  # NEON
    # LLVM knows what a CPU's name implies: look at the registers it uses for a wide sum.
    text = (
        "define <16 x float> @f(<16 x float> %a, <16 x float> %b) { %c = fadd <16 x float> %a, %b ret <16 x float> %c }"
    )
    assembly = target_machine().emit_assembly(llvm.parse_assembly(text))
    if "zmm" in assembly:
        return 64, 32  # AVX-512
    return (32, 16) if "ymm" in assembly else (16, 16)  # AVX, SSE


class VectorFunction:
    """Writes one function on vectors of `lanes` elements; `arguments` are those of its signature, by name."""

    def __init__(self, module: ir.Module, name: str, signature: Signature, dtype: np.dtype, lanes: int) -> None:
        self.function = ir.Function(module, signature.type, name=name)
        self.arguments = signature.named(self.function.args)
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.lanes, self.size = lanes, dtype.itemsize
        self.element = ir.FloatType() if self.size == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.element, lanes)
        self.zero = ir.Constant(self.vector, None)
        mask, pointer = ir.VectorType(ir.IntType(1), lanes), self.vector.as_pointer()
        suffix = f"v{lanes}f{8 * self.size}"
        self.fma = self._declare(f"llvm.fma.{suffix}", self.vector, [self.vector] * 3)
        self._masked_load = self._declare(
            f"llvm.masked.load.{suffix}.p0", self.vector, [pointer, i32, mask, self.vector]
        )
        self._masked_store = self._declare(
            f"llvm.masked.store.{suffix}.p0", ir.VoidType(), [self.vector, pointer, i32, mask]
        )

    def _declare(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        module = self.function.module
        known = module.globals.get(name)
        return known or ir.Function(module, ir.FunctionType(result, arguments), name=name)

    def pointer(self, address: Value, to: ir.Type | None = None) -> Value:
        """Return an address as a pointer to elements (or to another type)."""
        return self.b.inttoptr(address, (to or self.element).as_pointer())

    def pointers(self, names: str, to: ir.Type | None = None) -> list[Value]:
        """Return the arguments of these names, addresses, as pointers to elements (or to another type)."""
        return [self.pointer(getattr(self.arguments, name), to) for name in names.split()]

    def keep(self, pointer: Value) -> Value:
        """Return the pointer as a value that LLVM takes as given, and does not compute anew in another way."""
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.b.asm(kind, "", "=r,0", [pointer], side_effect=False)

    def splat(self, scalar: Value) -> Value:
        """Return a vector that holds the scalar in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        one = self.b.insert_element(undefined, scalar, i32(0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(i32, self.lanes), None))

    def mask_below(self, count: Value) -> Value:
        """Return the mask of the first `count` lanes."""
        lanes = ir.Constant(ir.VectorType(i64, self.lanes), list(range(self.lanes)))
        return self.b.icmp_signed("<", lanes, self.splat(count))

    def at(self, base: Value, offset: Value, v: int = 0) -> Value:
        """Return where vector v of the row at base + offset elements stands."""
        place = self.b.gep(base, [self.b.add(offset, i64(v * self.lanes))])
        return self.b.bitcast(place, self.vector.as_pointer())

    def load(self, place: Value, mask: Value | None = None) -> Value:
        """Load a vector; lanes that the mask leaves out are zero and not touched in memory."""
        if mask is None:
            return self.b.load(place, align=self.size)
        return self.b.call(self._masked_load, [place, i32(self.size), mask, self.zero])

    def store(self, value: Value, place: Value, mask: Value | None = None, past_caches: bool = False) -> None:
        """Store a vector, or its first lanes, as many as the mask names; `past_caches`: a whole one, aligned."""
        if past_caches:
            one = self.function.module.add_metadata([i32(1)])
            self.b.store(value, place, align=self.size * self.lanes).set_metadata("nontemporal", one)
        elif mask is None:
            self.b.store(value, place, align=self.size)
        elif self.size * self.lanes == MASKING_BYTES:
            self.b.call(self._masked_store, [value, place, i32(self.size), mask])
        else:
            bits = self.b.bitcast(mask, ir.IntType(self.lanes))
            with self.b.if_else(self.b.icmp_signed("==", bits, ir.Constant(bits.type, -1))) as (whole, part):
                with whole:
                    self.b.store(value, place, align=self.size)
                with part:
                    self._store_part(value, place, bits)

    def _store_part(self, value: Value, place: Value, bits: Value) -> None:
        """Store the first lanes of a vector, one for each bit: half of the lanes, half of the rest, and so on."""
        b, kind = self.b, ir.VectorType(i32, self.lanes)
        count = b.zext(b.call(self._declare(f"llvm.ctpop.i{self.lanes}", bits.type, [bits.type]), [bits]), i64)
        first, piece = b.bitcast(place, self.element.as_pointer()), self.lanes // 2
        while piece:
            before, done = b.block, b.and_(count, i64(-2 * piece))
            with b.if_then(b.icmp_signed("!=", b.and_(count, i64(piece)), i64(0))):
                low = ir.Constant(ir.VectorType(i32, piece), list(range(piece)))
                part = b.shuffle_vector(value, value, low)
                at = b.bitcast(b.gep(first, [done]), part.type.as_pointer())
                b.store(part, at, align=self.size)
                order = [(lane + piece) % self.lanes for lane in range(self.lanes)]
                moved, inside = b.shuffle_vector(value, value, ir.Constant(kind, order)), b.block
            rest = b.phi(self.vector)
            rest.add_incoming(value, before)
            rest.add_incoming(moved, inside)
            value, piece = rest, piece // 2

    def prefetch(self, place: Value, write: bool = False) -> None:
        """Ask for the cache line at a place, to be read or written; nothing is read of it yet."""
        pointer = i8.as_pointer()
        fetch = self._declare("llvm.prefetch.p0", ir.VoidType(), [pointer, i32, i32, i32])
        self.b.call(fetch, [self.b.bitcast(place, pointer), i32(int(write)), i32(3), i32(1)])

    def sum_lanes(self, vector: Value) -> Value:
        """Return the sum of a vector's lanes, added in pairs."""
        name = f"llvm.vector.reduce.fadd.v{self.lanes}f{8 * self.size}"
        reduce = self._declare(name, self.element, [self.element, self.vector])
        return self.b.call(reduce, [ir.Constant(self.element, -0.0), vector], fastmath=("reassoc",))

    def transpose(self, vectors: list[Value]) -> list[Value]:
        """Return the transpose of a square of vectors, by swapping ever smaller blocks (log2 of the lanes times)."""
        vectors, half = list(vectors), self.lanes // 2
        while half:
            low = [i // half % 2 * self.lanes + i - i // half % 2 * half for i in range(self.lanes)]
            high = [index + half for index in low]
            for i in range(self.lanes):
                if i // half % 2 == 0:
                    pair = vectors[i], vectors[i + half]
                    vectors[i], vectors[i + half] = (
                        self.b.shuffle_vector(*pair, ir.Constant(ir.VectorType(i32, self.lanes), order))
                        for order in (low, high)
                    )
            half //= 2
        return vectors

    def loop(
        self, count: Value, carried: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]
    ) -> list[Value]:
        """Emit `for i in range(count): carried = body(i, carried)`; return what is carried out."""
        b, before = self.b, self.b.block
        head, after = self.function.append_basic_block("loop"), self.function.append_basic_block("after")
        b.cbranch(b.icmp_signed(">", count, i64(0)), head, after)
        b.position_at_end(head)
        i, phis = b.phi(i64), [b.phi(value.type) for value in carried]
        for phi, value in zip([i, *phis], [i64(0), *carried], strict=True):
            phi.add_incoming(value, before)
        results = list(body(i, phis))
        i_next, last = b.add(i, i64(1)), b.block
        for phi, value in zip([i, *phis], [i_next, *results], strict=True):
            phi.add_incoming(value, last)
        b.cbranch(b.icmp_signed("<", i_next, count), head, after)
        b.position_at_end(after)
        out = [b.phi(value.type) for value in carried]
        for phi, first, result in zip(out, carried, results, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(result, last)
        return out
