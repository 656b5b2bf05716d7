"""Products lane by lane, as vector code: what convolutions of many small groups are made of.

Lanes are output channels, so every lane has its own filter. `spread` copies pixels so that each lane finds the channel
it needs: with gC channels of the source and gK of the target in a group, lane k of spread vector j holds channel
k // gK * gC + j. Depthwise (gC = gK = 1) it is a plain copy. On spread pixels all that is left are multiply-adds:

    products_M    y[m] = bias + sum over i < taps of x[offsets[i] + m * x_step] * w[i]            for m < M pixels
    gradients_T   sums[i] += sum over pixels of x[offsets[i] + pixel * x_step] * dy[pixel]        for i < T taps

Spread pixels, w and sums are whole aligned vectors; y and dy are masked by `tail`. Written on `VectorFunction`, as the
tile is; the code of a spread is made when a pair (gC, gK) is first met.
"""

import threading
from math import lcm

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.extending import intrinsic

from fastcnn.kernels.cpu.tile import caller, tile_shape
from fastcnn.kernels.cpu.vector import VectorFunction, i32, i64, load_functions

SPREAD_ARGUMENTS, PRODUCT_ARGUMENTS, GRADIENT_ARGUMENTS = 7, 10, 11
MAX_PIXELS = 8  # chains of multiply-adds in flight: two a cycle, four cycles long
MAX_TAPS = 12  # whose sums, one pixel of dy and (AVX2) little else fill 16 registers


def spread_period(group_out: int, lanes: int) -> int:
    """Return after how many vectors of output channels the lanes' pattern begins anew."""
    return lcm(group_out, lanes) // lanes


def emit_spread(module: ir.Module, group_in: int, group_out: int, dtype: np.dtype, lanes: int) -> None:
    """Write spread(source, pitch, pixels, target, vector pitch, channels, blocks).

    A block is `spread_period` vectors of output channels and the input channels that they need; `channels` are left
    from the first one on, and what lies past them is zero. A pixel's vectors of one output vector lie side by side.
    """
    f = VectorFunction(module, "spread", SPREAD_ARGUMENTS, dtype, lanes)
    b = f.b
    source, pitch, pixels, target, vector_pitch, channels, blocks = f.function.args
    period = spread_period(group_out, lanes)
    needed = period * lanes // group_out * group_in

    def block(_: Value, carried: list[Value]) -> list[Value]:
        from_, to, left = carried
        loaded = [
            f.load(f.at(from_, i64(0), u), f.mask_below(b.sub(left, i64(u * lanes))))
            for u in range(-(-needed // lanes))
        ]
        for v in range(period):
            row = b.gep(to, [b.mul(vector_pitch, i64(v))])
            for j in range(group_in):
                wanted = [(v * lanes + lane) // group_out * group_in + j for lane in range(lanes)]
                f.store(_pick(f, loaded, wanted), f.at(row, i64(0), j))
        return [b.gep(from_, [i64(needed)]), b.gep(to, [b.mul(vector_pitch, i64(period))]), b.sub(left, i64(needed))]

    def pixel(_: Value, carried: list[Value]) -> list[Value]:
        from_, to = carried
        f.loop(blocks, [from_, to, channels], block)
        return [b.gep(from_, [pitch]), b.gep(to, [i64(group_in * lanes)])]

    f.loop(pixels, [f.pointer(source), f.pointer(target)], pixel)
    b.ret_void()


def _pick(f: VectorFunction, vectors: list[Value], wanted: list[int]) -> Value:
    """Return the elements `wanted` of vectors side by side, two vectors at a time."""
    sources = sorted({index // f.lanes for index in wanted})
    result = vectors[sources[0]]
    for n, source in enumerate(sources[1:] or [sources[0]]):
        order = []
        for lane, index in enumerate(wanted):
            if index // f.lanes == source and len(sources) > 1:
                order.append(f.lanes + index % f.lanes)
            else:
                order.append(index % f.lanes if n == 0 else lane)
        result = f.b.shuffle_vector(
            result, vectors[source], ir.Constant(ir.VectorType(i32, f.lanes), order)
        )
    return result


def emit_products(module: ir.Module, pixels: int, dtype: np.dtype, lanes: int) -> None:
    """Write products_M(x, x step, offsets, taps, w, y, y step, bias, tail, relu)."""
    f = VectorFunction(module, f"products_{pixels}", PRODUCT_ARGUMENTS, dtype, lanes)
    b = f.b
    x, x_step, offsets, taps, w, y, y_step, bias, tail, relu = f.function.args
    x, w, y, bias, offsets = f.pointer(x), f.pointer(w), f.pointer(y), f.pointer(bias), f.pointer(offsets, i64)
    steps = [b.mul(x_step, i64(m)) for m in range(pixels)]
    mask = f.mask_below(tail)

    def tap(i: Value, carried: list[Value]) -> list[Value]:
        w_i, *sums = carried
        place = b.gep(x, [b.load(b.gep(offsets, [i]))])
        weight = f.load(f.at(w_i, i64(0)))
        return [
            b.gep(w_i, [i64(lanes)]),
            *[b.call(f.fma, [f.load(f.at(place, s)), weight, total]) for s, total in zip(steps, sums, strict=True)],
        ]

    sums = f.loop(taps, [w, *[f.load(f.at(bias, i64(0)), mask)] * pixels], tap)[1:]
    wanted = f.splat(b.icmp_signed("!=", relu, i64(0)))
    # A NaN is not below zero and stays.
    sums = [b.select(b.and_(b.fcmp_ordered("<", s, f.zero), wanted), f.zero, s) for s in sums]
    part, whole = f.function.append_basic_block("part"), f.function.append_basic_block("whole")
    b.cbranch(b.icmp_signed("<", tail, i64(lanes)), part, whole)
    for place, only in ((part, mask), (whole, None)):
        b.position_at_end(place)
        for m, total in enumerate(sums):
            f.store(total, f.at(y, b.mul(y_step, i64(m))), only)
        b.ret_void()


def emit_gradients(module: ir.Module, taps: int, dtype: np.dtype, lanes: int) -> None:
    """Write gradients_T(x, x step, x row, offsets, dy, dy step, dy row, pixels, rows, tail, sums)."""
    f = VectorFunction(module, f"gradients_{taps}", GRADIENT_ARGUMENTS, dtype, lanes)
    b = f.b
    x, x_step, x_row, offsets, dy, dy_step, dy_row, pixels, rows, tail, sums = f.function.args
    x, dy, sums, offsets = f.pointer(x), f.pointer(dy), f.pointer(sums), f.pointer(offsets, i64)
    places = [b.load(b.gep(offsets, [i64(t)])) for t in range(taps)]
    mask = f.mask_below(tail)

    def pixel(_: Value, carried: list[Value]) -> list[Value]:
        x_q, dy_q, *totals = carried
        gradient = f.load(f.at(dy_q, i64(0)), mask)
        return [
            b.gep(x_q, [x_step]),
            b.gep(dy_q, [dy_step]),
            *[b.call(f.fma, [f.load(f.at(x_q, p)), gradient, t]) for p, t in zip(places, totals, strict=True)],
        ]

    def row(_: Value, carried: list[Value]) -> list[Value]:
        x_p, dy_p, *totals = carried
        return [b.gep(x_p, [x_row]), b.gep(dy_p, [dy_row]), *f.loop(pixels, carried, pixel)[2:]]

    start = [f.load(f.at(sums, i64(0), t)) for t in range(taps)]
    for t, total in enumerate(f.loop(rows, [x, dy, *start], row)[2:]):
        f.store(total, f.at(sums, i64(0), t))
    b.ret_void()


_products: dict[np.dtype, np.ndarray] = {}
_spreads: dict[tuple[np.dtype, int, int], int] = {}
_lock = threading.Lock()


def product_code(dtype: np.dtype) -> np.ndarray:
    """Return addresses of one dtype: [0, M] of the products of M pixels, [1, T] of the gradients by T taps."""
    with _lock:
        if dtype not in _products:
            _, lanes = tile_shape(dtype.itemsize)

            def emit(module: ir.Module) -> None:
                for pixels in range(1, MAX_PIXELS + 1):
                    emit_products(module, pixels, dtype, lanes)
                for taps in range(1, MAX_TAPS + 1):
                    emit_gradients(module, taps, dtype, lanes)

            address = load_functions(f"lanewise-{dtype.name}", emit)
            table = np.zeros((2, max(MAX_PIXELS, MAX_TAPS) + 1), np.int64)
            table[0, 1 : MAX_PIXELS + 1] = [address(f"products_{m}") for m in range(1, MAX_PIXELS + 1)]
            table[1, 1 : MAX_TAPS + 1] = [address(f"gradients_{t}") for t in range(1, MAX_TAPS + 1)]
            _products[dtype] = table
        return _products[dtype]


def spread_code(dtype: np.dtype, group_in: int, group_out: int) -> int:
    """Return the address of the spread from groups of `group_in` channels to groups of `group_out`."""
    key = (dtype, group_in, group_out)
    with _lock:
        if key not in _spreads:
            _, lanes = tile_shape(dtype.itemsize)
            address = load_functions(
                f"spread-{dtype.name}-{group_in}-{group_out}",
                lambda module: emit_spread(module, group_in, group_out, dtype, lanes),
            )
            _spreads[key] = address("spread")
        return _spreads[key]


@intrinsic
def call_spread(typingctx, address, source, pitch, pixels, target, vector_pitch, channels, blocks):
    """Call the spread at `address`: addresses in bytes, pitches in elements."""
    return caller(SPREAD_ARGUMENTS)


@intrinsic
def call_products(typingctx, address, x, x_step, offsets, taps, w, y, y_step, bias, tail, relu):
    """Call the products at `address`: addresses in bytes, steps and offsets in elements."""
    return caller(PRODUCT_ARGUMENTS)


@intrinsic
def call_gradients(typingctx, address, x, x_step, x_row, offsets, dy, dy_step, dy_row, pixels, rows, tail, sums):
    """Call the gradients at `address`: addresses in bytes, steps and offsets in elements."""
    return caller(GRADIENT_ARGUMENTS)
