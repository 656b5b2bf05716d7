"""Vector code of `few_channels.py`: lanes are pooled pixels side by side, and all of them see the same filter's number.

Products: for some output channels, a sum for each window tap; every number of a filter meets as many vectors of the
source. Then the maximum over the window, cut at zero, and the tap that won.

Split: rows are dealt out to planes.

Gradients: sums of some numbers of the filters of some channels, by masked multiply-adds in the lanes whose tap won.
"""

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.tile import tile_shape
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i8, i32, i64, vector_registers

PRODUCTS = Signature("x offsets count w w_pitch bias y y_pitch winner winner_pitch")
GRADIENT = Signature("x offsets offsets_pitch taps places vectors dy winner pitch sums number_pitch channel_pitch")
SPLIT = Signature("source pitch first last target target_pitch row_pitch rows blocks")
# Addresses in bytes; pitches, places and offsets in elements.
call_products, call_gradient, call_split = PRODUCTS.call, GRADIENT.call, SPLIT.call


def most_channels(taps: int) -> int:
    """Return how many channels' sums for so many window taps stay in registers beside their operands; 0 if none."""
    _, registers = vector_registers()
    return (registers - 1 - taps) // taps


def gradient_block() -> tuple[int, int]:
    """Return how many filter numbers and channels have their sums in registers."""
    _, registers = vector_registers()
    return (5, 4) if registers == 32 else (3, 3)


def emit_products(module: ir.Module, taps: int, channels: int, dtype: np.dtype, lanes: int) -> None:
    """Write PRODUCTS of some channels.

    offsets (count, taps) lead from x to the vector that number f of a filter meets for each tap; winner holds bytes.
    """
    f = VectorFunction(module, f"products_{channels}", PRODUCTS, dtype, lanes)
    b, given = f.b, f.arguments
    x, w, bias, y = f.pointers("x w bias y")
    offsets, winner = f.pointer(given.offsets, i64), f.pointer(given.winner, i8)

    def number(_: Value, carried: list[Value]) -> list[Value]:
        places, weights, *sums = carried
        pixels = [f.load(f.at(x, b.load(b.gep(places, [i64(t)])))) for t in range(taps)]
        for k in range(channels):
            weight = f.splat(b.load(b.gep(weights, [i64(k)])))
            for t in range(taps):
                at = k * taps + t
                sums[at] = b.call(f.fma, [pixels[t], weight, sums[at]])
        return [b.gep(places, [i64(taps)]), b.gep(weights, [given.w_pitch]), *sums]

    start = [f.splat(b.load(b.gep(bias, [i64(k)]))) for k in range(channels) for _ in range(taps)]
    _, _, *sums = f.loop(given.count, [offsets, w, *start], number)
    kind = ir.VectorType(i32, lanes)

    def every(tap: int) -> Value:
        return ir.Constant(kind, [tap] * lanes)

    for k in range(channels):
        best, leader = sums[k * taps], every(0)
        for tap, value in enumerate(sums[k * taps + 1 : (k + 1) * taps], 1):
            # Greater, or a NaN.
            better = b.or_(b.fcmp_ordered(">", value, best), b.fcmp_unordered("uno", value, value))
            best, leader = b.select(better, value, best), b.select(better, every(tap), leader)
        cut = b.fcmp_ordered("<=", best, f.zero)
        f.store(b.select(cut, f.zero, best), f.at(y, b.mul(given.y_pitch, i64(k))))
        leader = b.trunc(b.select(cut, every(taps), leader), ir.VectorType(i8, lanes))
        place = b.gep(winner, [b.mul(given.winner_pitch, i64(k))])
        b.store(leader, b.bitcast(place, leader.type.as_pointer()), align=1)
    b.ret_void()


def emit_gradient(module: ir.Module, numbers: int, channels: int, dtype: np.dtype, lanes: int) -> None:
    """Write GRADIENT: add to the sums of some filter numbers and channels what vectors of pooled pixels give.

    offsets (taps, all numbers): from the place of the vector in x; places (vectors,); dy and winner (bytes): channels
    `pitch` pixels apart.
    """
    f = VectorFunction(module, f"gradient_{numbers}_{channels}", GRADIENT, dtype, lanes)
    b, given = f.b, f.arguments
    x, dy, sums = f.pointers("x dy sums")
    (offsets, places), winner = f.pointers("offsets places", i64), f.pointer(given.winner, i8)
    bytes_, words = ir.VectorType(i8, lanes), ir.VectorType(i32, lanes)
    own = [b.mul(given.pitch, i64(k)) for k in range(channels)]

    def vector(i: Value, totals: list[Value]) -> list[Value]:
        at, pixel = b.gep(x, [b.load(b.gep(places, [i]))]), b.mul(i, i64(lanes))
        starts = [b.add(offset, pixel) for offset in own]
        gradients = [f.load(f.at(dy, start)) for start in starts]
        winners = [
            b.zext(b.load(b.bitcast(b.gep(winner, [start]), bytes_.as_pointer()), align=1), words) for start in starts
        ]

        def tap(t: Value, carried: list[Value]) -> list[Value]:
            table, *totals = carried
            wanted = f.splat(b.trunc(t, i32))
            won = [b.icmp_signed("==", leaders, wanted) for leaders in winners]
            for n in range(numbers):
                pixels = f.load(f.at(at, b.load(b.gep(table, [i64(n)]))))
                for k in range(channels):
                    total = totals[n * channels + k]
                    more = b.call(f.fma, [pixels, gradients[k], total])
                    totals[n * channels + k] = b.select(won[k], more, total)
            return [b.gep(table, [given.offsets_pitch]), *totals]

        return f.loop(given.taps, [offsets, *totals], tap)[1:]

    own_sums = [
        f.at(sums, b.add(b.mul(given.number_pitch, i64(n)), b.mul(given.channel_pitch, i64(k))))
        for n in range(numbers)
        for k in range(channels)
    ]
    totals = f.loop(given.vectors, [f.load(place) for place in own_sums], vector)
    for total, place in zip(totals, own_sums, strict=True):
        f.store(total, place)
    b.ret_void()


def emit_split(module: ir.Module, parts: int, dtype: np.dtype, lanes: int) -> None:
    """Write SPLIT: deal rows out to `parts`.

    Part n of a row takes its elements n, n + parts, ... and stands `target_pitch` after the part before, its length.
    Elements before the first or from the last on are zero and not touched; a block is a vector of each part.
    """
    f = VectorFunction(module, f"split_{parts}", SPLIT, dtype, lanes)
    b, given = f.b, f.arguments

    def block(i: Value, carried: list[Value]) -> list[Value]:
        from_, to, start = carried
        loaded = []
        for v in range(parts):
            at = b.add(start, i64(v * lanes))
            inside = b.and_(f.mask_below(b.sub(given.last, at)), b.not_(f.mask_below(b.sub(given.first, at))))
            loaded.append(f.load(f.at(from_, at), inside))
        there = f.mask_below(b.sub(given.target_pitch, b.mul(i, i64(lanes))))
        for part in range(parts):
            result = loaded[0]
            for v in range(parts):
                places = [lane * parts + part - v * lanes for lane in range(lanes)]
                order = [lanes + at if 0 <= at < lanes else lane for lane, at in enumerate(places)]
                result = b.shuffle_vector(result, loaded[v], ir.Constant(ir.VectorType(i32, lanes), order))
            f.store(result, f.at(to, b.mul(given.target_pitch, i64(part))), there)
        return [from_, b.gep(to, [i64(lanes)]), b.add(start, i64(parts * lanes))]

    def row(_: Value, carried: list[Value]) -> list[Value]:
        from_, to = carried
        f.loop(given.blocks, [from_, to, i64(0)], block)
        return [b.gep(from_, [given.pitch]), b.gep(to, [given.row_pitch])]

    f.loop(given.rows, f.pointers("source target"), row)
    b.ret_void()


_loaded: dict[tuple, np.ndarray] = {}


def products_code(taps: int, dtype: np.dtype) -> np.ndarray:
    """Return the addresses of the products for windows of so many taps, by the number of channels."""
    return load_once(_loaded, (taps, dtype), lambda: _load_products(taps, dtype))


def _load_products(taps: int, dtype: np.dtype) -> np.ndarray:
    _, lanes = tile_shape(dtype.itemsize)
    sizes = range(1, most_channels(taps) + 1)

    def emit(module: ir.Module) -> None:
        for channels in sizes:
            emit_products(module, taps, channels, dtype, lanes)

    address = load_functions(f"planes-{taps}-{dtype.name}", emit)
    return np.array([0, *(address(f"products_{channels}") for channels in sizes)], np.int64)


def split_code(parts: int, dtype: np.dtype) -> int:
    """Return the address of the code that deals rows out to so many parts."""
    _, lanes = tile_shape(dtype.itemsize)
    name = f"planes-split-{parts}-{dtype.name}"
    code = load_once(
        _loaded,
        (name,),
        lambda: np.array(
            [load_functions(name, lambda module: emit_split(module, parts, dtype, lanes))(f"split_{parts}")]
        ),
    )
    return int(code[0])


def gradient_code(dtype: np.dtype) -> np.ndarray:
    """Return the addresses of the gradients, by the numbers of filter numbers and of channels."""
    return load_once(_loaded, (0, dtype), lambda: _load_gradients(dtype))


def _load_gradients(dtype: np.dtype) -> np.ndarray:
    _, lanes = tile_shape(dtype.itemsize)
    table = np.zeros([most + 1 for most in gradient_block()], np.int64)
    sizes = [(numbers, channels) for numbers, channels in np.ndindex(table.shape) if numbers and channels]

    def emit(module: ir.Module) -> None:
        for numbers, channels in sizes:
            emit_gradient(module, numbers, channels, dtype, lanes)

    address = load_functions(f"planes-gradient-{dtype.name}", emit)
    for numbers, channels in sizes:
        table[numbers, channels] = address(f"gradient_{numbers}_{channels}")
    return table
