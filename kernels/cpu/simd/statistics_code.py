"""Per-channel sum and sum of squares, accumulated as outputs leave the registers, for the batch norm that follows.

Where an epilogue has MEASURE, the bias that a kernel reads is the first of some rows, `pitch` elements apart: a record,
one for each block of pixels that one task finishes, so that what is added to it comes in a fixed order.

    BIAS     what the kernel begins with
    SHIFT    a number near the mean of each channel
    FIRST    += sum of y - shift                     or, on the way back,    += sum of g
    SECOND   += sum of (y - shift)^2                                         += sum of g * (x - shift)
    SCALE    |  on the way back, g = y where (x - shift) * SCALE + LIFT is strictly between
    LIFT     |  two bounds or NaN, else 0: the outputs y are the gradient behind a clip, and x stands beside them

The outputs need not be read again, and may go past the caches. Written on `VectorFunction`; `convolution/statistics.py`
joins the records.
"""

from collections.abc import Sequence
from functools import reduce

from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.simd.epilogue_code import AWAY, BITS, MEASURE
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i64

BIAS, SHIFT, FIRST, SECOND, SCALE, LIFT = range(6)  # the rows of a record
ROWS, ROWS_BACK = 4, 6
LOW, HIGH, PITCH, SOURCE = 1, 2, AWAY + 1, AWAY + 2  # of an epilogue's words; no source: the outputs' own sums

Pixel = tuple[Value, Value, Value | None]
"""A finished vector, where it is stored, and the mask of the lanes that are (None: all)."""


class StatisticsEpilogue:
    """Writes the sums that an epilogue asks for into a function whose argument it is."""

    def __init__(self, f: VectorFunction, epilogue: Value) -> None:
        self._f, b = f, f.b
        self._wanted = b.icmp_signed("!=", b.and_(epilogue, i64(MEASURE)), i64(0))
        self._words = b.inttoptr(b.and_(epilogue, i64(~BITS)), i64.as_pointer())

    def add(self, record: Value, vectors: Sequence[tuple[int, Value | None, Sequence[Pixel]]]) -> None:
        """Add pixels up in the record whose bias begins at `record`: (vector of channels, mask of channels, pixels)."""
        f, b = self._f, self._f.b
        with b.if_then(self._wanted):
            pitch, source = self._word(PITCH), self._word(SOURCE)
            back = b.icmp_signed("!=", source, i64(0))

            def row(n: int, v: int) -> Value:
                return f.at(record, b.mul(pitch, i64(n)), v)

            with b.if_else(back) as (gradient, plain):
                with gradient:
                    low, high = (f.splat(self._number(n)) for n in (LOW, HIGH))
                    for v, mask, pixels in vectors:
                        shift, scale, lift = (f.load(row(n, v), mask) for n in (SHIFT, SCALE, LIFT))
                        pairs = []
                        for value, place, kept in pixels:
                            x = f.load(b.inttoptr(b.add(b.ptrtoint(place, i64), source), place.type), kept)
                            near = b.fsub(x, shift)
                            at = b.call(f.fma, [near, scale, lift])
                            inside = b.and_(b.fcmp_unordered(">", at, low), b.fcmp_unordered("<", at, high))
                            inside = inside if kept is None else b.and_(inside, kept)
                            pairs.append((b.select(inside, value, f.zero), near))
                        self._add(row(FIRST, v), row(SECOND, v), mask, pairs)
                with plain:
                    for v, mask, pixels in vectors:
                        shift, pairs = f.load(row(SHIFT, v), mask), []
                        for value, _, kept in pixels:
                            near = b.fsub(value, shift)
                            near = near if kept is None or kept is mask else b.select(kept, near, f.zero)
                            pairs.append((near, near))
                        self._add(row(FIRST, v), row(SECOND, v), mask, pairs)

    def _add(self, first: Value, second: Value, mask: Value | None, pairs: Sequence[tuple[Value, Value]]) -> None:
        """Add the sums of g and of g * near at two places."""
        f, b = self._f, self._f.b
        products = []
        for i in range(0, len(pairs) - 1, 2):
            (g, near), (h, other) = pairs[i : i + 2]
            products.append(b.call(f.fma, [g, near, b.fmul(h, other)]))
        if len(pairs) % 2:
            products.append(b.fmul(*pairs[-1]))
        for place, terms in ((first, [g for g, _ in pairs]), (second, products)):
            f.store(b.fadd(f.load(place, mask), self._total(terms)), place, mask)

    def _total(self, terms: Sequence[Value]) -> Value:
        """Return the sum of vectors, added in pairs: sums of few wait for each other less, and round less."""
        b = self._f.b
        while len(terms) > 1:
            terms = [reduce(b.fadd, terms[i : i + 2]) for i in range(0, len(terms), 2)]
        return terms[0]

    def _word(self, n: int) -> Value:
        return self._f.b.load(self._f.b.gep(self._words, [i64(n)]))

    def _number(self, n: int) -> Value:
        """Return a word that is a float64, as an element."""
        b, f = self._f.b, self._f
        number = b.bitcast(self._word(n), ir.DoubleType())
        return number if f.size == 8 else b.fptrunc(number, f.element)
