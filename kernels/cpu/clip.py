"""What kernels do to outputs in registers, mostly before they store them: ReLU and ReLU6, as bits of the epilogue.

The rest of an epilogue is in `epilogue.py`.
"""

from math import inf

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.vector import VectorFunction, i64

RELU, PAST_CACHES, CAP = 1, 2, 4  # cut at zero; store whole vectors past the caches; cut what is above six, too
BITS = RELU | PAST_CACHES | CAP
SIX = 6.0


@jit(inner=True)
def clip_run(run, first, after, epilogue):
    """Make the cuts that an epilogue asks for in the elements of a run that are back in memory; a NaN stays."""
    for i in range(first, after if epilogue & RELU else first):
        value = run[np.uintp(i)]
        value = 0 if value < 0 else value
        run[np.uintp(i)] = SIX if epilogue & CAP and value > SIX else value


class Clip:
    """Writes the cuts that an epilogue asks for, into a function whose argument it is; a NaN stays."""

    def __init__(self, f: VectorFunction, epilogue: Value) -> None:
        self._f, b = f, f.b
        self._cuts = b.icmp_signed("!=", b.and_(epilogue, i64(RELU)), i64(0))
        caps = b.icmp_signed("!=", b.and_(epilogue, i64(CAP)), i64(0))
        self._most = b.select(caps, *(ir.Constant(f.element, most) for most in (SIX, inf)))
        self._all_cuts, self._all_most = f.splat(self._cuts), f.splat(self._most)

    def vector(self, value: Value) -> Value:
        """Return a vector after the cuts."""
        return self._cut(value, self._all_cuts, self._all_most, self._f.zero)

    def number(self, value: Value) -> Value:
        """Return a number after the cuts."""
        return self._cut(value, self._cuts, self._most, ir.Constant(self._f.element, 0.0))

    def _cut(self, value: Value, cuts: Value, most: Value, zero: Value) -> Value:
        b = self._f.b
        value = b.select(b.and_(b.fcmp_ordered("<", value, zero), cuts), zero, value)
        return b.select(b.fcmp_ordered(">", value, most), most, value)
