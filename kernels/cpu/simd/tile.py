"""The register tile: the one block of machine code that every convolution and matrix product is made of.

    C[m, v] = init + sum over i < R, j < J of A[a_rows[m] + a_batch[i] + j * a_step] * B[i * b_batch + j * b_step + v]

for m < MR rows and v < NV vectors of lanes: a batch-reduce matrix product whose MR x NV accumulators stay in vector
registers from the first product to the store. `a_rows`, `a_batch` and `c_rows` are tables of offsets, so the rows of a
tile may be any pixels (of several image rows, of a strided grid) and the batch any filter taps. `init` is zero, C
itself (accumulate) or the bias; the epilogue may add to C, clip it, sum it up (`statistics_code.py`), and store past
the caches one that would not fit. Lanes of the last vector from `tail` on are neither loaded from C and the bias nor
stored; B is padded to whole vectors.

While a tile computes, it asks for the cache lines that will be needed next: one a step, at `fetch` + fetch_table[i]
bytes, i growing by fetch_step (0 or 1). It also asks for those of C: its own before many steps, and before few those of
the tile after next, where the epilogue says that the table of rows goes on (AHEAD).

Beside the tile stand copies of rows into padded panels (the layout of B), straight and transposed; a tile of dot
products for very few output channels; and sums over scattered patches, for gradients of which few entries are not zero
(`packing.py`).
All are compiled for the host's vector width (`vector.py`), and kernels receive the tables of their addresses as
arguments: each is compiled once, whatever the number of kernels.

After Georganas et al., "High-Performance Deep Learning via a Single Building Block", 2019 (batch-reduce GEMM).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.simd.epilogue_code import AHEAD, PAST_CACHES, ClampEpilogue
from fastcnn.kernels.cpu.simd.packing import COPY, COPY_ROWS, TRANSPOSE, emit_copy, emit_copy_rows, emit_transpose
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.small_tiles import DOT, PATCHES, Dot, emit_patches
from fastcnn.kernels.cpu.simd.statistics_code import StatisticsEpilogue
from fastcnn.kernels.cpu.simd.vector import Value, VectorFunction, i8, i64, vector_registers

MAX_VECTORS = 2  # B's panels are two vectors wide: two loads feed 2 * MR multiply-adds
MAX_PATCH_ROWS, MAX_PATCH_VECTORS = 5, 4  # of a patch taken at once; larger ones are taken in parts
DOT_ROWS = 8  # of a tile of dot products: at most 8 * 3 accumulators
MIN_FETCH = 64  # steps from which on a tile has the time to ask for the lines of C before it stores them

TILE = Signature(
    "a a_rows a_batch a_step b b_batch b_step c c_rows J R bias tail accumulate epilogue fetch fetch_table fetch_step"
)

# Calls of the function at an address, the first argument: addresses in bytes, steps and offsets in elements.
call_tile = TILE.call
call_copy = COPY.call  # rows of channels, `step` elements apart, to whole vectors padded with zeros
call_copy_rows = COPY_ROWS.call  # rows of any length: `count` elements each, from `step` apart to `pitch` apart
call_transpose = TRANSPOSE.call  # up to `lanes` rows of `columns` elements become lanes
call_patches = PATCHES.call  # `offsets` (int64) and `scales` hold `count` entries
call_dot = DOT.call


class Tiles(NamedTuple):
    """The machine code of one dtype.

    addresses[MR, NV] is the tile of MR <= rows rows and NV vectors of `lanes` lanes; addresses[0, NV] copies rows into
    panels NV vectors wide, addresses[0, 0] transposes, addresses[1, 0] copies rows of any length. patches[R, NV] adds
    scaled patches of R rows of NV vectors.
    """

    addresses: np.ndarray
    patches: np.ndarray
    dots: np.ndarray
    rows: int
    lanes: int


def tile_shape(itemsize: int) -> tuple[int, int]:
    """Return (rows, lanes) of the largest tile: accumulators, B's vectors and one broadcast fill the registers."""
    register_bytes, registers = vector_registers()
    return (registers - MAX_VECTORS - 1) // MAX_VECTORS, register_bytes // itemsize


class _Tile:
    """Writes tile_MR_NV."""

    def __init__(self, module: ir.Module, MR: int, NV: int, dtype: np.dtype, lanes: int) -> None:
        self.f = VectorFunction(module, f"tile_{MR}_{NV}", TILE, dtype, lanes)
        self.MR, self.NV = MR, NV
        # One vector of B feeds few multiply-adds: four steps at a time spare reloading the rows' offsets.
        self.unroll = 4 if NV == 1 else 1

    def emit(self) -> None:
        """Offsets, initial accumulators, the two loops, ReLU, stores."""
        f, b, given = self.f, self.f.b, self.f.arguments
        a, bb, c, bias_row = f.pointers("a b c bias")
        a_rows, a_batch, c_rows = f.pointers("a_rows a_batch c_rows", i64)
        self.fetch, self.fetch_step = f.pointer(given.fetch, i8), given.fetch_step
        self.offsets = [b.load(b.gep(a_rows, [i64(m)])) for m in range(self.MR)]
        self.last = f.mask_below(given.tail)
        places = [
            (f.at(c, offset, v), self.mask(v))
            for offset in (b.load(b.gep(c_rows, [i64(m)])) for m in range(self.MR))
            for v in range(self.NV)
        ]
        past_caches = b.icmp_signed("!=", b.and_(given.epilogue, i64(PAST_CACHES)), i64(0))
        waits = b.select(past_caches, i64(0), b.mul(given.J, given.R))
        clip, sums = ClampEpilogue(f, given.epilogue), StatisticsEpilogue(f, given.epilogue)
        self._ask_ahead(c, c_rows, given.epilogue, waits)
        start = self._initial(places, bias_row, given.bias, given.accumulate, waits, clip)

        def batch(i: Value, carried: list[Value]) -> list[Value]:
            b_i, *carried = carried
            a_i = b.gep(a, [b.load(b.gep(a_batch, [i]))])
            return [b.gep(b_i, [given.b_batch]), *self._run(a_i, given.a_step, b_i, given.b_step, given.J, carried)]

        _, _, *total = f.loop(given.R, [bb, f.pointer(given.fetch_table, i64), *start], batch)
        finished = clip.finished(total, places)
        pixels = [(value, *place) for value, place in zip(finished, places, strict=True)]
        sums.add(bias_row, [(v, self.mask(v), pixels[v :: self.NV]) for v in range(self.NV)])
        past, through = (f.function.append_basic_block(name) for name in ("past", "through"))
        b.cbranch(past_caches, past, through)
        for block in (past, through):
            b.position_at_end(block)
            for value, (place, mask) in zip(finished, places, strict=True):
                f.store(value, place, mask, block is past)
            b.ret_void()

    def _ask_ahead(self, c: Value, c_rows: Value, epilogue: Value, steps: Value) -> None:
        """Ask for the lines of the tile after next, where this one's steps are few and its table of rows goes on."""
        f, b = self.f, self.f.b
        few = b.and_(b.icmp_signed("<", steps, i64(MIN_FETCH)), b.icmp_signed(">", steps, i64(0)))
        with b.if_then(b.and_(few, b.icmp_signed("!=", b.and_(epilogue, i64(AHEAD)), i64(0)))):
            for m in range(self.MR):
                place = f.at(c, b.load(b.gep(c_rows, [i64(m + TILES_AHEAD * self.MR)])))
                for v in range(self.NV):
                    f.prefetch(b.gep(place, [i64(v)]), write=True)

    def mask(self, v: int) -> Value | None:
        """Return the mask of vector v of C: whole vectors but for the last."""
        return self.last if v == self.NV - 1 else None

    def _initial(
        self, places: list, bias_row: Value, bias: Value, accumulate: Value, steps: Value, clip: ClampEpilogue
    ) -> list[Value]:
        """Return C where `accumulate`, else the bias where there is one, else zero."""
        f, b = self.f, self.f.b
        old_block, fresh, biased, ready = (
            f.function.append_basic_block(name) for name in ("old", "fresh", "biased", "ready")
        )
        b.cbranch(b.icmp_signed("!=", accumulate, i64(0)), old_block, fresh)
        b.position_at_end(old_block)
        old = [f.load(place, mask) for place, mask in places]
        b.branch(ready)
        b.position_at_end(fresh)
        asked, bare = (f.function.append_basic_block(name) for name in ("asked", "bare"))
        b.cbranch(b.icmp_signed(">=", steps, i64(MIN_FETCH)), asked, bare)
        b.position_at_end(asked)
        for place, _ in places:
            f.prefetch(place, write=True)
        others = f.function.append_basic_block("others")
        b.cbranch(clip.adds, others, bare)
        b.position_at_end(others)
        for other in clip.others([place for place, _ in places]):
            f.prefetch(other)
        b.branch(bare)
        b.position_at_end(bare)
        b.cbranch(b.icmp_signed("!=", bias, i64(0)), biased, ready)
        b.position_at_end(biased)
        biases = [f.load(f.at(bias_row, i64(0), v), self.mask(v)) for v in range(self.NV)]
        b.branch(ready)
        b.position_at_end(ready)
        start = []
        for n, value in enumerate(old):
            phi = b.phi(f.vector)
            phi.add_incoming(value, old_block)
            phi.add_incoming(f.zero, bare)
            phi.add_incoming(biases[n % self.NV], biased)
            start.append(phi)
        return start

    def _run(self, a: Value, a_step: Value, bb: Value, b_step: Value, J: Value, start: list[Value]) -> list[Value]:
        """Sum over j < J: several steps at a time, then the rest one by one."""
        b = self.f.b

        def steps(count: int):
            def body(_: Value, carried: list[Value]) -> list[Value]:
                a_j, b_j, fetch_table, *accumulators = carried
                for _ in range(count):
                    self.f.prefetch(b.gep(self.fetch, [b.load(fetch_table)]))
                    fetch_table = b.gep(fetch_table, [self.fetch_step])
                accumulators = self._multiply_add(a_j, a_step, b_j, b_step, count, accumulators)
                a_next, b_next = (b.gep(p, [b.mul(step, i64(count))]) for p, step in ((a_j, a_step), (b_j, b_step)))
                return [a_next, b_next, fetch_table, *accumulators]

            return body

        carried = [a, bb, *start]
        if self.unroll > 1:
            carried = self.f.loop(b.sdiv(J, i64(self.unroll)), carried, steps(self.unroll))
            J = b.srem(J, i64(self.unroll))
        return self.f.loop(J, carried, steps(1))[2:]

    def _multiply_add(
        self, a: Value, a_step: Value, bb: Value, b_step: Value, count: int, accumulators: list[Value]
    ) -> list[Value]:
        """Add the products of `count` steps to the accumulators."""
        f, b = self.f, self.f.b
        rows = [[f.load(f.at(bb, b.mul(b_step, i64(u)), v)) for v in range(self.NV)] for u in range(count)]
        result = []
        for m, offset in enumerate(self.offsets):
            sums = accumulators[m * self.NV : (m + 1) * self.NV]
            row = b.gep(a, [offset])
            if count > 1:
                row = f.keep(row)  # one address for all steps, where LLVM would keep one for each
            for u in range(count):
                scalar = f.splat(b.load(b.gep(row, [b.mul(a_step, i64(u))]), align=f.size))
                sums = [b.call(f.fma, [scalar, rows[u][v], sums[v]]) for v in range(self.NV)]
            result += sums
        return result


_loaded: dict[np.dtype, Tiles] = {}


def tiles(dtype: np.dtype | type) -> Tiles:
    """Return the tiles of float32 or float64, from the cache folder where they are already compiled."""
    dtype = np.dtype(dtype)
    return load_once(_loaded, dtype, lambda: _load(dtype))


def _load(dtype: np.dtype) -> Tiles:
    rows, lanes = tile_shape(dtype.itemsize)
    shapes = [(MR, NV) for MR in range(1, rows + 1) for NV in range(1, MAX_VECTORS + 1)]
    patch_shapes = [(R, NV) for R in range(1, MAX_PATCH_ROWS + 1) for NV in range(1, MAX_PATCH_VECTORS + 1)]

    dot_shapes = [(MR, NK) for MR in range(1, DOT_ROWS + 1) for NK in range(1, DOT_CHANNELS + 1)]

    def emit(module: ir.Module) -> None:
        emit_transpose(module, dtype, lanes)
        emit_copy_rows(module, dtype, lanes)
        for MR, NK in dot_shapes:
            Dot(module, MR, NK, dtype, lanes).emit()
        for MR, NV in shapes:
            _Tile(module, MR, NV, dtype, lanes).emit()
        for NV in range(1, MAX_VECTORS + 1):
            emit_copy(module, NV, dtype, lanes)
        for R, NV in patch_shapes:
            emit_patches(module, R, NV, dtype, lanes)

    address = load_functions(f"tiles-{dtype.name}", emit)
    addresses = np.zeros((rows + 1, MAX_VECTORS + 1), np.int64)
    for MR, NV in shapes:
        addresses[MR, NV] = address(f"tile_{MR}_{NV}")
    for NV in range(1, MAX_VECTORS + 1):
        addresses[0, NV] = address(f"copy_{NV}")
    addresses[0, 0], addresses[1, 0] = address("transpose"), address("copy_rows")
    patches = np.zeros((MAX_PATCH_ROWS + 1, MAX_PATCH_VECTORS + 1), np.int64)
    for R, NV in patch_shapes:
        patches[R, NV] = address(f"patches_{R}_{NV}")
    dots = np.zeros((DOT_ROWS + 1, DOT_CHANNELS + 1), np.int64)
    for MR, NK in dot_shapes:
        dots[MR, NK] = address(f"dot_{MR}_{NK}")
    return Tiles(addresses, patches, dots, rows, lanes)


@intrinsic
def copy_bytes(typingctx, target, source, count):
    """Copy count bytes between addresses that do not overlap: the C library's memcpy, with its widest moves."""
    signature = types.void(types.int64, types.int64, types.int64)

    def codegen(context, builder, sig, args):
        target, source = (builder.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def zero_bytes(typingctx, target, count):
    """Set count bytes at an address to zero."""
    signature = types.void(types.int64, types.int64)

    def codegen(context, builder, sig, args):
        cgutils.memset(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()), args[1], 0)
        return context.get_dummy_value()

    return signature, codegen


TILES_AHEAD = 2  # whose lines of the output a tile of few steps asks for
DOT_CHANNELS = 3  # output channels up to which dot products may serve
DOT_MIN_RUN = 24  # contiguous elements below which their last, partly filled vector costs too much (measured)


@cache
def lanes_of(itemsize):
    """Return the elements of a vector; LLVM is asked once."""
    return tile_shape(itemsize)[1]
