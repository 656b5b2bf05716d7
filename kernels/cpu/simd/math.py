"""exp, log and their kin, tanh and the normal distribution, of one number, without branches: loops over them become
vector code.

Both number types take the same steps with polynomials of their own, which were fitted to the least largest relative
error. In float32 results are good to about 2 units in the last place, in float64 to 4. NaN passes. Results below the
smallest normal number are 0, as everywhere in kernels.

    exp(x) = 2^n exp(r)    n the nearest whole number to x / ln 2    r = x - n ln 2, |r| <= ln(2) / 2
    exp(r) = 1 + q         q = r + r^2 P(r), which keeps its digits where exp(x) - 1 is wanted

Source: W. J. Cody and W. Waite, Software Manual for the Elementary Functions, 1980 (ln 2 in two parts); the quotients
of `log1p` and `normal_tail` are those of the series of atanh and of W. J. Cody, Rational Chebyshev approximations for
the error function, 1969.
"""

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastcnn.kernels.cpu.runtime.compiler import jit

# Added to a small number and taken off again, it leaves the nearest whole number, whose bits stand lowest in the sum.
ROUNDING = {types.float32: 1.5 * 2.0**23, types.float64: 1.5 * 2.0**52}
FRACTION_BITS = {types.float32: 23, types.float64: 52}
ONE = {types.float32: 0x3F800000, types.float64: 0x3FF0000000000000}


def constants(single, double):
    """Return a compiled function of x: the first number in x's own precision if that is float32, else the second."""

    @intrinsic
    def constant(typingctx, x):
        def codegen(context, builder, signature, args):
            return ir.Constant(args[0].type, single if signature.return_type is types.float32 else double)

        return x(x), codegen

    return constant


def polynomial(single, double=None):
    """Return a compiled function of z: the polynomial with these coefficients, the highest power's first.

    Without a second set of them, it is good for float32 alone.
    """

    @intrinsic
    def evaluate(typingctx, z):
        def codegen(context, builder, signature, args):
            kind, number = args[0].type, signature.return_type
            name = f"llvm.fmuladd.f{number.bitwidth}"
            fmuladd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
            first, *rest = double if double and number is types.float64 else single
            total = ir.Constant(kind, first)
            for coefficient in rest:
                total = builder.call(fmuladd, [total, args[0], ir.Constant(kind, coefficient)])
            return total

        return z(z), codegen

    return evaluate


@intrinsic
def like(typingctx, x, value):
    """Return a number in x's own precision: a literal beside a float32 would make it float64."""

    def codegen(context, builder, signature, args):
        return context.cast(builder, args[1], signature.args[1], signature.args[0])

    return x(x, value), codegen


@intrinsic
def is_single(typingctx, x):
    """Tell whether x is a float32: a constant, so that only one side of a branch is compiled."""
    return types.boolean(x), lambda context, builder, signature, args: ir.Constant(ir.IntType(1), x is types.float32)


@intrinsic
def power_of_two(typingctx, rounded):
    """Return 2^n from n + ROUNDING."""

    def codegen(context, builder, signature, args):
        bits, shift = ir.IntType(rounded.bitwidth), FRACTION_BITS[rounded]
        exponent = builder.shl(builder.bitcast(args[0], bits), bits(shift))
        return builder.bitcast(builder.add(exponent, bits(ONE[rounded])), args[0].type)

    return rounded(rounded), codegen


@intrinsic
def product_error(typingctx, x, y, product):
    """Return x * y - product with one rounding: exactly what the rounded product left out."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        name = f"llvm.fma.f{x.bitwidth}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(fma, [args[0], args[1], builder.fneg(args[2])])

    return x(x, x, x), codegen


rounding = constants(*ROUNDING.values())
per_ln2 = constants(1 / math.log(2), 1 / math.log(2))
ln2_high = constants(0.693359375, 6.93147180369123816490e-01)  # few digits: n * ln2_high is exact
ln2_low = constants(-2.12194440054690583e-04, 1.90821492927058770002e-10)
lowest = constants(-87.33, -708.39)  # exp of less is below the smallest normal number
exp_tail = polynomial(
    (1.992167213e-04, 1.394748222e-03, 8.333260316e-03, 4.166627221e-02, 1.666666687e-01, 5.000000066e-01),
    (
        2.09311991242393710e-09, 2.51158774402102309e-08, 2.75572216222821722e-07, 2.75572249324900767e-06,
        2.48015873841785772e-05, 1.98412699046996880e-04, 1.38888888888554136e-03, 8.33333333331462769e-03,
        4.16666666666667268e-02, 1.66666666666666852e-01, 5.00000000000000000e-01,
    ),
)  # fmt: skip
atanh_tail = polynomial(
    (1.215379959e-01, 1.071301367e-01, 1.430851037e-01, 1.999943667e-01, 3.333333783e-01),
    (
        8.51154455242917468e-02, 4.16882816347605642e-02, 6.05332865668609804e-02, 6.65044916485576648e-02,
        7.69328303282357240e-02, 9.09087180245252008e-02, 1.11111119901328145e-01, 1.42857142738230497e-01,
        2.00000000000797040e-01, 3.33333333333331483e-01,
    ),
)  # fmt: skip
mills = polynomial(
    (
        5.328342436e-05, 1.150584169e-04, -3.391760984e-04, -9.833185416e-04, 2.904462436e-03, 6.131944950e-03,
        -4.621327600e-02, 1.232250419e-01, -2.064026199e-01, 1.215139475e-01,
    )
)  # fmt: skip


@jit(inner=True)
def exp_parts(x, low):
    """Return (q, s) with exp(x + low) = s + s * q, for x between `lowest` and 88 and a much smaller `low`."""
    rounded = x * per_ln2(x) + rounding(x)
    n = rounded - rounding(x)
    r = ((x - n * ln2_high(x)) - n * ln2_low(x)) + low
    return r + r * r * exp_tail(r), power_of_two(rounded)


@jit(inner=True)
def exp(x):
    """Return e^x, for x up to 88."""
    q, s = exp_parts(x, like(x, 0))
    return like(x, 0) if x < lowest(x) else s + s * q


@jit(inner=True)
def expm1(x):
    """Return exp(x) - 1 for x up to 88."""
    q, s = exp_parts(lowest(x) if x < lowest(x) else x, like(x, 0))
    return s * q + (s - like(x, 1))


@jit(inner=True)
def log1p(x):
    """Return log(1 + x) for x from -1/2 to 1, as 2 atanh(x / (2 + x))."""
    s = x / (x + like(x, 2))
    z = s * s
    return like(x, 2) * (s + s * z * atanh_tail(z))


@intrinsic
def exponent_and_fraction(typingctx, x):
    """Return (n, m) with x = 2^n m and 1 <= m < 2, both float64, of a normal float64 above 0."""

    def codegen(context, builder, signature, args):
        whole, bits = ir.IntType(64), FRACTION_BITS[types.float64]
        word, one = builder.bitcast(args[0], whole), ONE[types.float64]
        n = builder.sitofp(builder.sub(builder.lshr(word, whole(bits)), whole(one >> bits)), ir.DoubleType())
        m = builder.bitcast(builder.or_(builder.and_(word, whole((1 << bits) - 1)), whole(one)), ir.DoubleType())
        return context.make_tuple(builder, signature.return_type, (n, m))

    return types.UniTuple(types.float64, 2)(types.float64), codegen


@jit(inner=True)
def log_from_one(x):
    """Return log(x) of a float64 from 1 up: n ln 2 + log(m), x = 2^n m, m from sqrt(1/2) to sqrt(2)."""
    n, m = exponent_and_fraction(x)
    over = m > math.sqrt(2)
    n, m = (n + 1.0, 0.5 * m) if over else (n, m)
    log = n * ln2_high(x) + (n * ln2_low(x) + log1p(m - 1.0))
    return log if x < math.inf else x


@jit(inner=True)
def tanh(x):
    """Return the hyperbolic tangent."""
    size, far = abs(x), like(x, 20)  # where it is 1 to the last digit
    e = expm1(like(x, 2) * (far if size > far else size))
    t = e / (e + like(x, 2))
    return -t if x < like(x, 0) else t


@jit(inner=True)
def logistic_parts(x):
    """Return 1 / (1 + exp(x)) and 1 / (1 + exp(-x)), both to all digits: their sum is 1."""
    e = exp(-abs(x))
    larger = like(x, 1) / (like(x, 1) + e)
    smaller = e * larger
    return (smaller, larger) if x > like(x, 0) else (larger, smaller)


@jit(inner=True)
def normal_tail(x):
    """Return (a, e, tail) of a = |x|: e = exp(-a^2 / 2), and the normal distribution's probability beyond a.

    The tail is e times a smooth function of (a - 3) / (a + 3); the exponent is taken with what its rounding left out,
    since an error in it is one in the result. At `far` a stays: there the power of two in e is 0, and so is e.
    """
    half, far = like(x, 0.5), like(x, 13.27 if is_single(x) else 37.66)
    a = far if abs(x) > far else abs(x)
    slope = -half * a
    exponent = slope * a
    q, s = exp_parts(exponent, product_error(slope, a, exponent))
    e = s + s * q
    tail = e * mills((a - like(x, 3)) / (a + like(x, 3))) if is_single(x) else half * math.erfc(a * math.sqrt(half))
    return a, e, tail


@jit(inner=True)
def normal_parts(x):
    """Return the normal distribution's density at x and its probability of less than x, both to all digits."""
    _, e, tail = normal_tail(x)
    return e * like(x, 1 / math.sqrt(2 * math.pi)), (like(x, 1) - tail if x > like(x, 0) else tail)
