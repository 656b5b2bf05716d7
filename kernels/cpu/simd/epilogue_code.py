"""What kernels do to outputs in registers, before they store them: add another array, ReLU and ReLU6.

These are bits of an epilogue, whose rest is in `epilogue.py`. Kernels that finish their outputs in memory leave the sum
to that rest. What is taken of outputs as they are, their sums, is in `statistics_code.py`.
"""

from collections.abc import Sequence
from math import inf

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.simd.vector import VectorFunction, i64

RELU, PAST_CACHES, CAP = 1, 2, 4  # cut at zero; store whole vectors past the caches; cut what is above six, too
ADD = 8  # first add the array that stands as far from the outputs as the epilogue's words tell
MEASURE = 16  # add the outputs up in the record that their bias begins; its rows are as far apart as the words tell
AHEAD = 32  # the table of rows of C goes on, so that the lines of the tile after next can be asked for
BITS = RELU | PAST_CACHES | CAP | ADD | MEASURE | AHEAD
AWAY = 3  # of an epilogue's words
SIX = 6.0


@jit(inner=True)
def clip_run(run, first, after, epilogue):
    """Make the cuts that an epilogue asks for in the elements of a run that are back in memory; a NaN stays."""
    for i in range(first, after if epilogue & RELU else first):
        value = run[np.uintp(i)]
        value = 0 if value < 0 else value
        run[np.uintp(i)] = SIX if epilogue & CAP and value > SIX else value


class ClampEpilogue:
    """Writes the sum and the cuts that an epilogue asks for, into a function whose argument it is; a NaN stays."""

    def __init__(self, f: VectorFunction, epilogue: Value) -> None:
        self._f, b = f, f.b
        self._least, self._most = (
            b.select(
                b.icmp_signed("!=", b.and_(epilogue, i64(bit)), i64(0)), *(ir.Constant(f.element, n) for n in either)
            )
            for bit, either in ((RELU, (0.0, -inf)), (CAP, (SIX, inf)))
        )
        self._all_least, self._all_most = f.splat(self._least), f.splat(self._most)
        self.adds = b.icmp_signed("!=", b.and_(epilogue, i64(ADD)), i64(0))
        self._words = b.inttoptr(b.and_(epilogue, i64(~BITS)), i64.as_pointer())

    def finished(self, values: Sequence[Value], places: Sequence[tuple[Value, Value | None]]) -> list[Value]:
        """Return vectors that will be stored at places, under masks, after the sum and the cuts."""
        f, b, before = self._f, self._f.b, self._f.b.block
        sums, ready = (f.function.append_basic_block(name) for name in ("sums", "summed"))
        b.cbranch(self.adds, sums, ready)
        b.position_at_end(sums)
        others = self.others([place for place, _ in places])
        added = [
            b.fadd(value, f.load(other, mask)) for value, other, (_, mask) in zip(values, others, places, strict=True)
        ]
        b.branch(ready)
        b.position_at_end(ready)
        phis = [b.phi(f.vector) for _ in values]
        for phi, value, total in zip(phis, values, added, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(total, sums)
        return [self.vector(phi) for phi in phis]

    def others(self, places: Sequence[Value]) -> list[Value]:
        """Return where the other array's vectors stand; only where there is one."""
        b = self._f.b
        away = b.load(b.gep(self._words, [i64(AWAY)]))
        return [b.inttoptr(b.add(b.ptrtoint(place, i64), away), place.type) for place in places]

    def vector(self, value: Value) -> Value:
        """Return a vector after the cuts."""
        return self._cut(value, self._all_least, self._all_most)

    def number(self, value: Value) -> Value:
        """Return a number after the cuts."""
        return self._cut(value, self._least, self._most)

    def _cut(self, value: Value, least: Value, most: Value) -> Value:
        b = self._f.b
        value = b.select(b.fcmp_ordered("<", value, least), least, value)
        return b.select(b.fcmp_ordered(">", value, most), most, value)
