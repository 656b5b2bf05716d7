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
from collections.abc import Callable
from functools import partial
from math import lcm
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.runtime.machine_code import load_functions, load_once
from fastcnn.kernels.cpu.simd.epilogue_code import PAST_CACHES, ClampEpilogue
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.statistics_code import StatisticsEpilogue
from fastcnn.kernels.cpu.simd.tile import tile_shape
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i32, i64, vector_registers

PRODUCTS = Signature(
    "x pitch x_tile rows count w w_vector y K y_tile bias outs units tiles epilogue ahead ahead_rows"
    " row_pitch w_row y_row first_row last_row rows_out"
)
GRADIENTS = Signature("x pitch x_tile x_row tap_row dy K dy_tile dy_row outs rows tiles sums step tap_step")
call_products, call_gradients = PRODUCTS.call, GRADIENTS.call  # addresses in bytes; pitches, steps, offsets in elements

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
    """Writes PRODUCTS of a pattern.

    rows holds `count` pairs: offsets of a row in x, and of its taps in w; where the pattern has rows of its own, of its
    first row and tap, of which rows from the first to the last exist, and so many of its rows of outputs. `units` are
    as many vectors of channels as the pattern of lanes is long; `outs` output channels are left. Tiles stand x_tile and
    y_tile apart. From offset `ahead` on, so many rows are fetched into L1 that the next rows of outputs will meet.
    """

    def __init__(self, module: ir.Module, pattern: Pattern, dtype: np.dtype, lanes: int) -> None:
        self.f = f = VectorFunction(module, "run", PRODUCTS, dtype, lanes)
        b, given, self.pattern = f.b, f.arguments, pattern
        self.x, self.w, self.y, self.bias = f.pointers("x w y bias")
        self.rows = f.pointer(given.rows, i64)
        self.by_column, self.by_row = _by_place(pattern.outputs), _by_place(pattern.rows)
        self.height = max(1, len(pattern.rows))
        self.clip, self.measured = ClampEpilogue(f, given.epilogue), StatisticsEpilogue(f, given.epilogue)
        self.past = b.icmp_signed("!=", b.and_(given.epilogue, i64(PAST_CACHES)), i64(0))
        self.exist = [
            b.zext(
                b.and_(b.icmp_signed("<=", given.first_row, i64(r)), b.icmp_signed("<=", i64(r), given.last_row)), i64
            )
            for r, _ in self.by_row
        ]

    def emit(self) -> None:
        """All tiles, one after the other."""
        f, b, given = self.f, self.f.b, self.f.arguments

        def tile(_: Value, carried: list[Value]) -> list[Value]:
            x, y = carried
            f.loop(given.units, [x, self.w, y, self.bias, given.outs], self.unit)
            return [b.gep(x, [given.x_tile]), b.gep(y, [given.y_tile])]

        f.loop(given.tiles, [self.x, self.y], tile)
        b.ret_void()

    def unit(self, _: Value, carried: list[Value]) -> list[Value]:
        """Vectors of channels until the pattern of lanes begins anew."""
        f, b, pattern, w_vector = self.f, self.f.b, self.pattern, self.f.arguments.w_vector
        x, w, y, bias, left = carried
        period = period_of(pattern.group_out, f.lanes)
        for u in range(period):
            # In a last unit that is cut short, vectors without a channel have no weights either.
            exists = b.zext(b.icmp_signed("<", i64(u * f.lanes), left), i64) if pattern.ragged and u else i64(1)
            w_u = b.gep(w, [b.mul(w_vector, i64(u))])
            f.loop(exists, [], partial(self.vector, u, x, w_u, y, bias, left))
        wide = period * f.lanes
        return [
            b.gep(x, [i64(wide // pattern.group_out * pattern.group_in)]), b.gep(w, [b.mul(w_vector, i64(period))]),
            b.gep(y, [i64(wide)]), b.gep(bias, [i64(wide)]), b.sub(left, i64(wide)),
        ]  # fmt: skip

    def vector(self, u: int, x: Value, w: Value, y: Value, bias: Value, left: Value, *_: object) -> list[Value]:
        """Fill vector u of a unit of channels, in all outputs of a tile."""
        f, b, given, outputs = self.f, self.f.b, self.f.arguments, len(self.pattern.outputs)
        mask = f.mask_below(b.sub(left, i64(u * f.lanes))) if self.pattern.ragged else None
        columns = _Columns(f, self.pattern, u)
        f.loop(given.ahead_rows, [], partial(self.fetch, x, columns))
        start = f.load(f.at(bias, i64(0), u), mask)
        add_row = partial(self.row, columns, mask)
        sums = f.loop(given.count, [start] * (outputs * self.height), partial(self.rows_of_taps, x, w, add_row))
        for i in range(self.height):
            totals = sums[i * outputs : (i + 1) * outputs]
            store = partial(self.store, i, u, y, bias, mask, totals)
            if i == 0:
                store()
            else:
                f.loop(b.zext(b.icmp_signed("<", i64(i), given.rows_out), i64), [], store)
        return []

    def columns_of(self, row: Value) -> list[Value]:
        """Return the addresses of the columns that the pattern meets in a row of x."""
        return _column_places(self.f, row, self.f.arguments.pitch, [column for column, _ in self.by_column])

    def fetch(self, x: Value, columns: _Columns, i: Value, _: list[Value]) -> list[Value]:
        """Ask for what the next rows of outputs meet in row i."""
        f, b, given = self.f, self.f.b, self.f.arguments
        for at in self.columns_of(b.gep(x, [b.add(given.ahead, b.mul(i, given.row_pitch))])):
            f.prefetch(b.gep(at, [i64(columns.first)]))
        return []

    def rows_of_taps(
        self, x: Value, w: Value, add_row: Callable[..., list[Value]], i: Value, sums: list[Value]
    ) -> list[Value]:
        """Add the products of pair i of `rows`."""
        f, b, given = self.f, self.f.b, self.f.arguments
        place = b.gep(self.rows, [b.mul(i, i64(2))])
        x_row = b.gep(x, [b.load(place)])
        w_row = b.gep(w, [b.load(b.gep(place, [i64(1)]))])
        if not self.pattern.rows:
            return add_row(x_row, [(0, self.weights_at(w_row))], i, sums)
        weights = {
            tap: self.weights_at(b.gep(w_row, [b.mul(given.w_row, i64(tap))]))
            for tap in sorted({tap for _, met in self.by_row for _, tap in met})
        }
        for (r, met), exists in zip(self.by_row, self.exist, strict=True):
            at = b.gep(x_row, [b.mul(given.row_pitch, i64(r))])
            sums = f.loop(exists, sums, partial(add_row, at, [(i, weights[tap]) for i, tap in met]))
        return sums

    def weights_at(self, w_row: Value) -> dict[int, Value]:
        """Return the numbers of a row of taps."""
        taps = sorted({tap for met in self.pattern.outputs for tap, _ in met})
        return {tap: self.f.load(self.f.at(w_row, i64(0), tap)) for tap in taps}

    def row(
        self, columns: _Columns, mask: Value | None, x_row: Value, weights: list[tuple[int, dict[int, Value]]],
        _: object, sums: list[Value],
    ) -> list[Value]:  # fmt: skip
        """Add the products of a row of x with the taps of each row of outputs that meets it."""
        f, outputs, sums = self.f, len(self.pattern.outputs), list(sums)
        for at, (_, met) in zip(self.columns_of(x_row), self.by_column, strict=True):
            pixel = columns.load(at, mask)
            for m, tap in met:
                for i, weight in weights:
                    sums[i * outputs + m] = f.b.call(f.fma, [pixel, weight[tap], sums[i * outputs + m]])
        return sums

    def store(
        self, i: int, u: int, y: Value, bias: Value, mask: Value | None, totals: list[Value], *_: object
    ) -> list[Value]:
        """Clip, sum up and store vector u of row i of the outputs."""
        f, b, given = self.f, self.f.b, self.f.arguments
        y_row = b.gep(y, [b.mul(given.y_row, i64(i))])
        values = [self.clip.vector(total) for total in totals]
        places = [f.at(y_row, b.mul(given.K, i64(m)), u) for m in range(len(totals))]
        self.measured.add(
            bias, [(u, mask, [(value, place, mask) for value, place in zip(values, places, strict=True)])]
        )
        with b.if_else(self.past) as branches:
            for past_caches, branch in zip((True, False), branches, strict=True):
                with branch:
                    for value, place in zip(values, places, strict=True):
                        f.store(value, place, mask, past_caches and mask is None)
        return []


def emit_gradients(module: ir.Module, pattern: Pattern, G: int, u: int, dtype: np.dtype, lanes: int) -> None:
    """Write GRADIENTS.

    The sums of G rows of taps, `tap_row` apart in x, over `tiles` tiles of `rows` rows; those of one tap stand `step`
    elements after those of the tap before, and `tap_step` after those of the row of taps before.
    """
    f = VectorFunction(module, "run", GRADIENTS, dtype, lanes)
    b, given = f.b, f.arguments
    x, dy, sums = f.pointers("x dy sums")
    taps = sorted({tap for met in pattern.outputs for tap, _ in met})
    by_column, columns = _by_place(pattern.outputs), _Columns(f, pattern, u)
    mask = f.mask_below(given.outs) if pattern.ragged else None
    order = [(g, tap) for g in range(G) for tap in taps]

    def tile(_: Value, carried: list[Value]) -> list[Value]:
        x_t, dy_t, *flat = carried
        totals = dict(zip(order, flat, strict=True))
        gradients: dict[int, Value] = {}
        places = [
            _column_places(f, b.gep(x_t, [b.mul(given.tap_row, i64(g))]), given.pitch, [at for at, _ in by_column])
            for g in range(G)
        ]
        dy_places = _column_places(f, dy_t, given.K, list(range(len(pattern.outputs))))
        for n, (_, met) in enumerate(by_column):
            for m, _ in met:
                if m not in gradients:
                    gradients[m] = f.load(f.at(dy_places[m], i64(0)), mask)
            for g in range(G):
                pixel = columns.load(places[g][n], mask)
                for m, tap in met:
                    totals[g, tap] = b.call(f.fma, [pixel, gradients[m], totals[g, tap]])
        return [b.gep(x_t, [given.x_tile]), b.gep(dy_t, [given.dy_tile]), *[totals[key] for key in order]]

    def row(_: Value, carried: list[Value]) -> list[Value]:
        x_p, dy_p, *totals = carried
        after = b.gep(x_p, [given.x_row]), b.gep(dy_p, [given.dy_row])
        return [*after, *f.loop(given.tiles, [x_p, dy_p, *totals], tile)[2:]]

    places = [f.at(sums, b.add(b.mul(given.tap_step, i64(g)), b.mul(given.step, i64(tap)))) for g, tap in order]
    totals = f.loop(given.rows, [x, dy, *map(f.load, places)], row)[2:]
    for place, total in zip(places, totals, strict=True):
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
