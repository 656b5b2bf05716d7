"""exp(x) for x <= 0, log(1 + e) for 0 <= e <= 1 and log(x) for x >= 1, in double precision and without a branch.

The C library's functions are calls, one element at a time (about 10 ns); these are a chain of multiply-adds that LLVM
turns into vectors. They are within 1 and 3 units in the last place; NaN passes.
"""

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastcnn.kernels.cpu.compiler import jit

LOG2E = 1 / math.log(2)
# log(2) in two parts: the first has 32 bits, so its product with a whole number is exact.
LOG2_HIGH = float.fromhex("0x1.62e42feep-1")
LOG2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
ROUND = 1.5 * 2.0**52  # added, it leaves no room for a fraction: the low bits are the nearest whole number
SMALLEST = -708.0  # exp of less is below the normal numbers, and becomes 0
BIAS, EXPONENT = 1023, 52  # of a double: where its exponent stands
FRACTION, ONE = (1 << EXPONENT) - 1, BIAS << EXPONENT  # the bits of a fraction, and those of 1.0
SQRT2 = math.sqrt(2)

C = tuple(1 / math.factorial(n) for n in range(14))  # Taylor: |r| <= log(2) / 2 leaves 4e-18
A = tuple(2 / (2 * n + 1) for n in range(11))  # 2 atanh(s) = s * sum of A[n] s^2n: |s| <= 0.172 leaves 1e-18


@intrinsic
def _bits(typingctx, x):
    """Return the bits of a double as an int64."""
    return types.int64(x), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(64))


@intrinsic
def _double(typingctx, bits):
    """Return the double of these bits."""
    return types.float64(bits), lambda context, builder, sig, args: builder.bitcast(args[0], ir.DoubleType())


@jit(inner=True)
def exp_negative(x):
    """Return exp(x) for x <= 0: 2^n exp(r) with |r| <= log(2) / 2."""
    least = SMALLEST if x < SMALLEST else x
    shifted = least * LOG2E + ROUND
    n = shifted - ROUND
    r = (least - n * LOG2_HIGH) - n * LOG2_LOW
    p = C[13]
    p = p * r + C[12]
    p = p * r + C[11]
    p = p * r + C[10]
    p = p * r + C[9]
    p = p * r + C[8]
    p = p * r + C[7]
    p = p * r + C[6]
    p = p * r + C[5]
    p = p * r + C[4]
    p = p * r + C[3]
    p = p * r + C[2]
    p = p * r + 1.0
    p = p * r + 1.0
    power = _double((_bits(shifted) + BIAS) << EXPONENT)
    return 0.0 if x < SMALLEST else p * power


@jit(inner=True)
def log1p_unit(e):
    """Return log(1 + e) for 0 <= e <= 1: log(2) is taken off where 1 + e is over sqrt(2)."""
    over = e > SQRT2 - 1.0
    return _log1p_reduced(0.5 * (e - 1.0) if over else e) + (LOG2_HIGH + LOG2_LOW if over else 0.0)


@jit(inner=True)
def log_from_one(x):
    """Return log(x) for finite x >= 1, infinity and NaN: n log(2) + log(m), where x = 2^n m and m is near 1."""
    bits = _bits(x)
    m = _double((bits & FRACTION) | ONE)
    over = m > SQRT2
    n = float((bits >> EXPONENT) - BIAS) + (1.0 if over else 0.0)
    log = n * LOG2_HIGH + (n * LOG2_LOW + _log1p_reduced((0.5 * m if over else m) - 1.0))
    return log if x < math.inf else x


@jit(inner=True)
def _log1p_reduced(f):
    """Return log(1 + f) for 1 + f between sqrt(1/2) and sqrt(2): 2 atanh(f / (2 + f))."""
    s = f / (2.0 + f)
    q = s * s
    p = A[10]
    p = p * q + A[9]
    p = p * q + A[8]
    p = p * q + A[7]
    p = p * q + A[6]
    p = p * q + A[5]
    p = p * q + A[4]
    p = p * q + A[3]
    p = p * q + A[2]
    p = p * q + A[1]
    p = p * q + A[0]
    return s * p
