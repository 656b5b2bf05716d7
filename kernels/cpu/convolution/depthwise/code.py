"""Products lane by lane, as vector code: what convolutions of many small groups are made of.

Lanes are output channels, so every lane has its own filter; with gC channels of the source and gK of the target in a
group, lane k meets the source's channels k // gK * gC + j for j < gC: a shuffle of what is loaded, and depthwise (gC =
gK = 1) nothing at all. A `Pattern` says which columns of the source each of some outputs side by side meets, and with
which taps. Code is made for each pattern, so that a column is loaded once for all taps and outputs that it meets and
taps outside the image cost nothing:

    products    y[m] = bias + sum over rows, (tap, column) in pattern[m] of x[row + column] * w[row, tap]
    gradients   sums[row, tap] += sum over m with (tap, column) in pattern[m] of x[row + column] * dy[m]

Written on `VectorFunction`, as the tile is, and compiled when a pattern is first met.
"""

import hashlib
from functools import partial
from math import lcm
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.extending import intrinsic

from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.simd.epilogue_code import PAST_CACHES, ClampEpilogue
from fastcnn.kernels.cpu.simd.statistics_code import StatisticsEpilogue
from fastcnn.kernels.cpu.simd.tile import caller, tile_shape
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i32, i64, vector_registers

PRODUCT_ARGUMENTS, GRADIENT_ARGUMENTS = 23, 15
COLUMNS_A_BASE = 3  # columns loaded from one address: base, base + pitch, base + 2 * pitch


class Pattern(NamedTuple):
    """For each of some outputs side by side: the taps it meets, and their columns from the first one met.

    `rows`: the same for rows of outputs, one below the other, as if the image had no edge. Where it is empty, the tile
    is one row of outputs, and code loops over the rows that it meets.
    """

    outputs: tuple[tuple[tuple[int, int], ...], ...]
    group_in: int
    group_out: int
    ragged: bool  # channels do not fill whole vectors: loads and stores are masked
    rows: tuple[tuple[tuple[int, int], ...], ...] = ()


def period_of(group_out: int, lanes: int) -> int:
    """Return after how many vectors of output channels the lanes' pattern begins anew."""
    return lcm(group_out, lanes) // lanes


def sources_of(group_in: int, group_out: int, lanes: int) -> int:
    """Return how many vectors of the source, at most, one vector of output channels is shuffled from."""
    return max(len(_lanes_of(group_in, group_out, lanes, u)[1]) for u in range(period_of(group_out, lanes)))


def _lanes_of(group_in: int, group_out: int, lanes: int, u: int) -> tuple[list[int], list[int]]:
    """Return the channel of the source (of j = 0) that each lane of vector u meets, and the vectors they lie in."""
    wanted = [(u * lanes + lane) // group_out * group_in for lane in range(lanes)]
    return wanted, sorted({(index - wanted[0]) // lanes for index in wanted})


class _Columns:
    """Loads columns of the source as lanes of one output vector."""

    def __init__(self, f: VectorFunction, pattern: Pattern, u: int) -> None:
        self.f = f
        self.wanted, self.sources = _lanes_of(pattern.group_in, pattern.group_out, f.lanes, u)
        self.first = self.wanted[0]
        self.plain = pattern.group_in == pattern.group_out == 1

    def load(self, pixel: Value, mask: Value | None) -> Value:
        """Return the column whose first channel of this unit of channels is at `pixel`; mask: the lanes that exist."""
        f = self.f
        if self.plain:
            return f.load(f.at(pixel, i64(0)), mask)
        result = None
        for n, source in enumerate(self.sources):
            order, met = [], []
            for lane, index in enumerate(self.wanted):
                place = index - self.first - source * f.lanes
                inside = 0 <= place < f.lanes
                met += [place] if inside else []
                order.append((place if n == 0 else f.lanes + place) if inside else lane)
            loaded = self._touching(pixel, self.first + source * f.lanes, met, mask)
            vectors = (loaded, loaded) if result is None else (result, loaded)
            result = f.b.shuffle_vector(*vectors, ir.Constant(ir.VectorType(i32, f.lanes), order))
        return result

    def _touching(self, pixel: Value, first: int, met: list[int], mask: Value | None) -> Value:
        """Load the lanes that are met and no others: they may lie past the array's end."""
        f = self.f
        flags = [int(lane in met) for lane in range(f.lanes)]
        exists = ir.Constant(ir.VectorType(ir.IntType(1), f.lanes), flags)
        if mask is not None:  # `mask` counts lanes of the output: lane k exists if output k does
            lanes_met = {index - first: lane for lane, index in reversed(list(enumerate(self.wanted)))}
            order = [lanes_met.get(lane, 0) for lane in range(f.lanes)]
            shuffled = f.b.shuffle_vector(mask, mask, ir.Constant(ir.VectorType(i32, f.lanes), order))
            exists = f.b.and_(shuffled, exists)
        return f.load(f.at(pixel, i64(first)), exists)


def _by_place(outputs: tuple[tuple[tuple[int, int], ...], ...]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return the columns (or rows) in order, each with the (output, tap) pairs that meet it."""
    met: dict[int, list[tuple[int, int]]] = {}
    for m, taps in enumerate(outputs):
        for tap, column in taps:
            met.setdefault(column, []).append((m, tap))
    return sorted(met.items())


def _column_places(f: VectorFunction, row: Value, pitch: Value, columns: list[int]) -> list[Value]:
    """Return the addresses of columns, few of them held at a time."""
    b, places, base, at = f.b, [], row, 0
    for column in columns:
        if column - at >= COLUMNS_A_BASE:
            base, at = f.keep(b.gep(base, [b.mul(pitch, i64(column - at))])), column
        places.append(b.gep(base, [b.mul(pitch, i64(column - at))]) if column > at else base)
    return places


class _Products:
    """Writes products(x, pitch, x tile, rows, count, w, w vector, y, K, y tile, bias, outs, units, tiles, epilogue,
    ahead, ahead rows, row pitch, w row, y row, first row, last row, rows out).

    rows holds `count` pairs: offsets of a row in x, and of its taps in w; where the pattern has rows of its own, of its
    first row and tap, of which rows from the first to the last exist, and so many of its rows of outputs. `units` are
    as many vectors of channels as the pattern of lanes is long; `outs` output channels are left. Tiles stand x tile and
    y tile apart. From offset `ahead` on, so many rows are fetched into L1 that the next rows of outputs will meet.
    """

    def __init__(self, module: ir.Module, pattern: Pattern, dtype: np.dtype, lanes: int) -> None:
        f = self.f = VectorFunction(module, "run", PRODUCT_ARGUMENTS, dtype, lanes)
        (x, self.pitch, self.x_tile, rows, self.count, w, self.w_vector, y, self.K, self.y_tile, bias, self.outs,
         self.units, self.tiles, epilogue, self.ahead, self.ahead_rows, self.row_pitch, self.w_row, self.y_row,
         first_row, last_row, self.rows_out) = f.function.args  # fmt: skip
        self.b, self.lanes, self.pattern = f.b, lanes, pattern
        self.x, self.w, self.y, self.bias, self.rows = *map(f.pointer, (x, w, y, bias)), f.pointer(rows, i64)
        self.period, self.outputs = period_of(pattern.group_out, lanes), len(pattern.outputs)
        self.by_column, self.by_row = _by_place(pattern.outputs), _by_place(pattern.rows)
        self.columns_met = [column for column, _ in self.by_column]
        self.taps = sorted({tap for met in pattern.outputs for tap, _ in met})
        self.clamp, self.statistics = ClampEpilogue(f, epilogue), StatisticsEpilogue(f, epilogue)
        self.past = f.b.icmp_signed("!=", f.b.and_(epilogue, i64(PAST_CACHES)), i64(0))
        self.exist = [self._between(first_row, i64(r), last_row) for r, _ in self.by_row]

    def _between(self, first: Value, i: Value, last: Value) -> Value:
        """Return 1 where i lies between two numbers, or is one of them, else 0."""
        b = self.b
        return b.zext(b.and_(b.icmp_signed("<=", first, i), b.icmp_signed("<=", i, last)), i64)

    def emit(self) -> None:
        """Write tile after tile."""
        self.f.loop(self.tiles, [self.x, self.y], self._tile)
        self.b.ret_void()

    def _tile(self, _: Value, carried: list[Value]) -> list[Value]:
        x, y = carried
        self.f.loop(self.units, [x, self.w, y, self.bias, self.outs], self._unit)
        return [self.b.gep(x, [self.x_tile]), self.b.gep(y, [self.y_tile])]

    def _unit(self, _: Value, carried: list[Value]) -> list[Value]:
        (x, w, y, bias, left), b, pattern = carried, self.b, self.pattern
        for u in range(self.period):
            # In a last unit that is cut short, vectors without a channel have no weights either.
            exists = b.zext(b.icmp_signed("<", i64(u * self.lanes), left), i64) if pattern.ragged and u else i64(1)
            w_u = b.gep(w, [b.mul(self.w_vector, i64(u))])
            self.f.loop(exists, [], partial(self._vector, u, x, w_u, y, bias, left))
        wide = self.period * self.lanes
        return [
            b.gep(x, [i64(wide // pattern.group_out * pattern.group_in)]),
            b.gep(w, [b.mul(self.w_vector, i64(self.period))]), b.gep(y, [i64(wide)]), b.gep(bias, [i64(wide)]),
            b.sub(left, i64(wide)),
        ]  # fmt: skip

    def _vector(self, u: int, x: Value, w: Value, y: Value, bias: Value, left: Value, *_: object) -> list[Value]:
        """Write all outputs of a tile, of vector u of a unit."""
        f, b = self.f, self.b
        mask = f.mask_below(b.sub(left, i64(u * self.lanes))) if self.pattern.ragged else None
        columns, height = _Columns(f, self.pattern, u), max(1, len(self.pattern.rows))
        f.loop(self.ahead_rows, [], partial(self._prefetch, x, columns))
        start = f.load(f.at(bias, i64(0), u), mask)
        rows = partial(self._add_rows, x, w, columns, mask)
        sums = f.loop(self.count, [start] * (self.outputs * height), rows)
        for i in range(height):
            store = partial(self._store, sums[i * self.outputs : (i + 1) * self.outputs], i, u, y, bias, mask)
            if i == 0:
                store()
            else:
                f.loop(b.zext(b.icmp_signed("<", i64(i), self.rows_out), i64), [], store)
        return []

    def _prefetch(self, x: Value, columns: _Columns, i: Value, _: list[Value]) -> list[Value]:
        row = self.b.gep(x, [self.b.add(self.ahead, self.b.mul(i, self.row_pitch))])
        for at in _column_places(self.f, row, self.pitch, self.columns_met):
            self.f.prefetch(self.b.gep(at, [i64(columns.first)]))
        return []

    def _weights_at(self, row: Value) -> dict[int, Value]:
        return {tap: self.f.load(self.f.at(row, i64(0), tap)) for tap in self.taps}

    def _add_rows(
        self, x: Value, w: Value, columns: _Columns, mask: Value | None, i: Value, sums: list[Value]
    ) -> list[Value]:
        """Add entry i of `rows`: one row of the source, or those of the pattern."""
        b, f = self.b, self.f
        place = b.gep(self.rows, [b.mul(i, i64(2))])
        x_row = b.gep(x, [b.load(place)])
        w_row = b.gep(w, [b.load(b.gep(place, [i64(1)]))])
        if not self.pattern.rows:
            return self._add_row(x_row, [(0, self._weights_at(w_row))], columns, mask, i, sums)
        weights = {
            tap: self._weights_at(b.gep(w_row, [b.mul(self.w_row, i64(tap))]))
            for tap in sorted({tap for _, met in self.by_row for _, tap in met})
        }
        for (r, met), exists in zip(self.by_row, self.exist, strict=True):
            at = b.gep(x_row, [b.mul(self.row_pitch, i64(r))])
            found = [(i, weights[tap]) for i, tap in met]
            sums = f.loop(exists, sums, partial(self._add_row, at, found, columns, mask))
        return sums

    def _add_row(
        self, x_row: Value, weights: list[tuple[int, dict[int, Value]]], columns: _Columns, mask: Value | None,
        _: object, sums: list[Value],
    ) -> list[Value]:  # fmt: skip
        """Add a row of the source to the rows of outputs that meet it, each with its weights."""
        sums = list(sums)
        places = _column_places(self.f, x_row, self.pitch, self.columns_met)
        for at, (_, met) in zip(places, self.by_column, strict=True):
            pixel = columns.load(at, mask)
            for m, tap in met:
                for i, weight in weights:
                    place = i * self.outputs + m
                    sums[place] = self.b.call(self.f.fma, [pixel, weight[tap], sums[place]])
        return sums

    def _store(
        self, sums: list[Value], i: int, u: int, y: Value, bias: Value, mask: Value | None, *_: object
    ) -> list[Value]:
        """Store row i of the outputs."""
        f, b = self.f, self.b
        y_row = b.gep(y, [b.mul(self.y_row, i64(i))])
        values = [self.clamp.vector(total) for total in sums]
        places = [f.at(y_row, b.mul(self.K, i64(m)), u) for m in range(self.outputs)]
        pixels = [(value, place, mask) for value, place in zip(values, places, strict=True)]
        self.statistics.add(bias, [(u, mask, pixels)])
        with b.if_else(self.past) as branches:
            for past, branch in zip((True, False), branches, strict=True):
                with branch:
                    for value, place in zip(values, places, strict=True):
                        f.store(value, place, mask, past and mask is None)
        return []


def emit_gradients(module: ir.Module, pattern: Pattern, G: int, u: int, dtype: np.dtype, lanes: int) -> None:
    """Write gradients(x, pitch, x tile, x row, tap row, dy, K, dy tile, dy row, outs, rows, tiles, sums, step, tap).

    The sums of G rows of taps, `tap row` apart in x, over `tiles` tiles of `rows` rows; those of one tap stand `step`
    elements after those of the tap before, and `tap step` after those of the row of taps before.
    """
    f = VectorFunction(module, "run", GRADIENT_ARGUMENTS, dtype, lanes)
    b = f.b
    (x, pitch, x_tile, x_row, tap_row, dy, K, dy_tile, dy_row, outs, rows, tiles, sums, step, tap_step,
     ) = f.function.args  # fmt: skip
    x, dy, sums = f.pointer(x), f.pointer(dy), f.pointer(sums)
    taps = sorted({tap for met in pattern.outputs for tap, _ in met})
    by_column, columns = _by_place(pattern.outputs), _Columns(f, pattern, u)
    mask = f.mask_below(outs) if pattern.ragged else None
    order = [(g, tap) for g in range(G) for tap in taps]

    def tile(_: Value, carried: list[Value]) -> list[Value]:
        x_t, dy_t, *flat = carried
        totals = dict(zip(order, flat, strict=True))
        gradients: dict[int, Value] = {}
        places = [
            _column_places(f, b.gep(x_t, [b.mul(tap_row, i64(g))]), pitch, [column for column, _ in by_column])
            for g in range(G)
        ]
        dy_places = _column_places(f, dy_t, K, list(range(len(pattern.outputs))))
        for n, (_, met) in enumerate(by_column):
            for m, _ in met:
                if m not in gradients:
                    gradients[m] = f.load(f.at(dy_places[m], i64(0)), mask)
            for g in range(G):
                pixel = columns.load(places[g][n], mask)
                for m, tap in met:
                    totals[g, tap] = b.call(f.fma, [pixel, gradients[m], totals[g, tap]])
        return [b.gep(x_t, [x_tile]), b.gep(dy_t, [dy_tile]), *[totals[key] for key in order]]

    def row(_: Value, carried: list[Value]) -> list[Value]:
        x_p, dy_p, *totals = carried
        return [b.gep(x_p, [x_row]), b.gep(dy_p, [dy_row]), *f.loop(tiles, [x_p, dy_p, *totals], tile)[2:]]

    places = [f.at(sums, b.add(b.mul(tap_step, i64(g)), b.mul(step, i64(tap)))) for g, tap in order]
    for place, total in zip(places, f.loop(rows, [x, dy, *map(f.load, places)], row)[2:], strict=True):
        f.store(total, place)
    b.ret_void()


_loaded: dict[tuple, int] = {}


def products_code(pattern: Pattern, dtype: np.dtype) -> int:
    """Return the address of the products of a pattern."""
    _, lanes = tile_shape(dtype.itemsize)
    return _load((pattern, dtype.name), lambda module: _Products(module, pattern, dtype, lanes).emit())


def gradients_code(pattern: Pattern, G: int, u: int, dtype: np.dtype) -> int:
    """Return the address of the gradients by G rows of a pattern's taps, for vector u of each unit of channels."""
    _, lanes = tile_shape(dtype.itemsize)
    return _load((pattern, G, u, dtype.name), lambda module: emit_gradients(module, pattern, G, u, dtype, lanes))


def _load(key: tuple, emit) -> int:
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:20]
    return load_once(_loaded, key, lambda: load_functions(f"lanewise-{name}", emit)("run"))


def most_outputs(taps: int) -> int:
    """Return how many outputs side by side a pattern of so many taps should hold: their sums stay in registers."""
    _, registers = vector_registers()
    return max(4, min((14 if registers == 32 else 8), 448 // taps))


def most_sums() -> int:
    """Return how many taps' sums stay in registers beside a column and the outputs that it meets."""
    _, registers = vector_registers()
    return 15 if registers == 32 else 9


@intrinsic
def call_products(typingctx, address, x, pitch, x_tile, rows, count, w, w_vector, y, K, y_tile, bias, outs, units,
                  tiles, epilogue, ahead, ahead_rows, row_pitch, w_row, y_row, first_row, last_row,
                  rows_out):  # fmt: skip
    """Call the products at `address`: addresses in bytes, pitches, steps and offsets in elements."""
    return caller(PRODUCT_ARGUMENTS)


@intrinsic
def call_gradients(typingctx, address, x, pitch, x_tile, x_row, tap_row, dy, K, dy_tile, dy_row, outs, rows, tiles,
                   sums, step, tap_step):  # fmt: skip
    """Call the gradients at `address`: addresses in bytes, pitches, steps and offsets in elements."""
    return caller(GRADIENT_ARGUMENTS)
