"""Activations: y = f(x), element by element, for arrays of any shape; `reference/activation.py` defines them.

A NaN passes forward, and y may be x, dx may be dy. Each is a `Pair` of scalar functions f(x, a, b) and
g(kept, dy, a, b), as a user's own are (`elementwise_forward`), and runs in the loops of `elementwise.py`. They have no
branches, stand on `elementary.py`, and hold where exponentials would overflow; a factor that meets one that vanishes is
kept finite by `within`, since infinity times 0 is no number.
"""

import math
from functools import lru_cache

import numba
from numba.core.errors import NumbaError

from fastcnn.kernels.cpu.compiler import OPTIONS, jit
from fastcnn.kernels.cpu.elementary import (
    exp,
    expm1,
    like,
    log1p,
    logistic_parts,
    normal_parts,
    tanh,
)
from fastcnn.kernels.cpu.elementwise import Pair, apply, apply_gradient
from fastcnn.kernels.cpu.epilogue import RELU as RELU_BIT
from fastcnn.kernels.cpu.epilogue import epilogue_of
from fastcnn.kernels.cpu.gain import gain_backward_input, gain_backward_weight, gain_forward
from fastcnn.kernels.cpu.softmax import (
    log_softmax_backward_input,
    log_softmax_forward,
    softmax_backward_input,
    softmax_forward,
)

__all__ = [
    "gain_backward_input",
    "gain_backward_weight",
    "gain_forward",
    "log_softmax_backward_input",
    "log_softmax_forward",
    "softmax_backward_input",
    "softmax_forward",
]

FAR = 1e3  # where every exponential of these functions has vanished, or its function is 1, and whose cube is finite


@jit(inner=True)
def within(x, low, high):
    """Return x, or the nearer end where it lies beyond one; NaN stays."""
    x = low if x < low else x
    return high if x > high else x


# Rectified linear units


@jit(inner=True)
def relu(x, a, b):
    """Return max(x, 0)."""
    return like(x, 0) if x <= like(x, 0) else x


@jit(inner=True)
def relu_gradient(y, dy, a, b):
    """Return dy where y > 0, else 0, also of a dy that is NaN."""
    return dy if y > like(y, 0) else like(y, 0)


@jit(inner=True)
def leaky_relu(x, slope, b):
    """Return x where it is positive, else slope * x."""
    return x if x > like(x, 0) else slope * x


@jit(inner=True)
def leaky_relu_gradient(x, dy, slope, b):
    """Return the gradient of `leaky_relu`, that of negative x at 0."""
    return dy if x > like(x, 0) else slope * dy


@jit(inner=True)
def elu(x, alpha, b):
    """Return x where it is positive, else alpha * (exp(x) - 1)."""
    low = like(x, 0) if x > like(x, 0) else x
    return x if x > like(x, 0) else alpha * expm1(low)


@jit(inner=True)
def elu_gradient(x, dy, alpha, b):
    """Return the gradient of `elu`, that of negative x at 0."""
    return dy if x > like(x, 0) else dy * (alpha * exp(within(x, like(x, -FAR), like(x, 0))))


# Sigmoids and units weighed by one


@jit(inner=True)
def sigmoid(x, a, b):
    """Return 1 / (1 + exp(-x))."""
    return logistic_parts(x)[1]


@jit(inner=True)
def sigmoid_gradient(y, dy, a, b):
    """Return the gradient of `sigmoid` from its output."""
    return dy * (y * (like(y, 1) - y))


@jit(inner=True)
def hyperbolic_tangent(x, a, b):
    """Return tanh(x)."""
    return tanh(x)


@jit(inner=True)
def tanh_gradient(y, dy, a, b):
    """Return the gradient of tanh from its output."""
    return dy * ((like(y, 1) - y) * (like(y, 1) + y))


@jit(inner=True)
def silu(x, a, b):
    """Return x / (1 + exp(-x))."""
    return (like(x, -FAR) if x < like(x, -FAR) else x) * logistic_parts(x)[1]


@jit(inner=True)
def silu_gradient(x, dy, a, b):
    """Return the gradient of `silu`."""
    rest, part = logistic_parts(x)
    return dy * (part + within(x, like(x, -FAR), like(x, FAR)) * part * rest)


@jit(inner=True)
def gelu(x, a, b):
    """Return x times the normal probability of less than x."""
    return (like(x, -FAR) if x < like(x, -FAR) else x) * normal_parts(x)[1]


@jit(inner=True)
def gelu_gradient(x, dy, a, b):
    """Return the gradient of `gelu`."""
    density, less = normal_parts(x)
    return dy * (less + within(x, like(x, -FAR), like(x, FAR)) * density)


@jit(inner=True)
def gelu_tanh_exponent(x):
    """Return u, with (1 + tanh(u / 2)) / 2 = 1 / (1 + exp(-u)) near the normal probability, and du / dx."""
    scale, cubic = like(x, 2 * math.sqrt(2 / math.pi)), like(x, 0.044715)
    square = x * x
    return scale * x * (like(x, 1) + cubic * square), scale * (like(x, 1) + like(x, 3) * cubic * square)


@jit(inner=True)
def gelu_tanh(x, a, b):
    """Return `gelu` by its approximation with tanh."""
    near = within(x, like(x, -FAR), like(x, FAR))
    return (like(x, -FAR) if x < like(x, -FAR) else x) * logistic_parts(gelu_tanh_exponent(near)[0])[1]


@jit(inner=True)
def gelu_tanh_gradient(x, dy, a, b):
    """Return the gradient of `gelu_tanh`."""
    near = within(x, like(x, -FAR), like(x, FAR))
    u, slope = gelu_tanh_exponent(near)
    rest, part = logistic_parts(u)
    return dy * (part + near * slope * part * rest)


@jit(inner=True)
def hardswish(x, a, b):
    """Return x * min(max(x + 3, 0), 6) / 6."""
    part = within(x + like(x, 3), like(x, 0), like(x, 6))
    return (like(x, -3) if x < like(x, -3) else x) * (part * like(x, 1 / 6))


@jit(inner=True)
def hardswish_gradient(x, dy, a, b):
    """Return the gradient of `hardswish`: 0 up to -3, 1 from 3 on."""
    between = x * like(x, 1 / 3) + like(x, 0.5)
    slope = like(x, 0) if x <= like(x, -3) else between
    return dy * (like(x, 1) if x >= like(x, 3) else slope)


# Smooth rectification


@jit(inner=True)
def softplus(x, k, threshold):
    """Return log(1 + exp(k x)) / k, or x where k x > threshold."""
    smooth = (like(x, 0) if x < like(x, 0) else x) + log1p(exp(-abs(k * x))) * (like(x, 1) / k)
    return x if k * x > threshold else smooth


@jit(inner=True)
def softplus_gradient(x, dy, k, threshold):
    """Return the gradient of `softplus`."""
    return dy if k * x > threshold else dy * logistic_parts(k * x)[1]


@jit(inner=True)
def absolute(x, a, b):
    """Return |x|."""
    return abs(x)


@jit(inner=True)
def absolute_gradient(x, dy, a, b):
    """Return dy times the sign of x."""
    sign = like(x, -1) if x < like(x, 0) else x
    return dy * (like(x, 1) if x > like(x, 0) else sign)


@jit(inner=True)
def soft_abs(x, k, b):
    """Return (2 / k) log cosh(v), v = k |x| / 2.

    log cosh v = v - log 2 + log(1 + e^2), e = exp(-v), whose digits cancel where v is small; there it is
    log(1 + (1 - e)^2 / (2 e)).
    """
    half, size = like(x, 0.5) * k, abs(x)
    v = half * size
    m = expm1(-v)
    e = like(x, 1) + m
    is_near = v < like(x, 1)
    smooth = log1p(m * m / (e + e) if is_near else e * e) * (like(x, 1) / half)
    return smooth + (like(x, 0) if is_near else size - like(x, math.log(2)) / half)


@jit(inner=True)
def soft_abs_gradient(x, dy, k, b):
    """Return the gradient of `soft_abs`."""
    return dy * tanh(like(x, 0.5) * k * x)


RELU = Pair(relu, relu_gradient)
LEAKY_RELU = Pair(leaky_relu, leaky_relu_gradient)
ELU = Pair(elu, elu_gradient)
SIGMOID = Pair(sigmoid, sigmoid_gradient)
TANH = Pair(hyperbolic_tangent, tanh_gradient)
SILU = Pair(silu, silu_gradient)
GELU = Pair(gelu, gelu_gradient)
GELU_TANH = Pair(gelu_tanh, gelu_tanh_gradient)
HARDSWISH = Pair(hardswish, hardswish_gradient)
SOFTPLUS = Pair(softplus, softplus_gradient)
ABS = Pair(absolute, absolute_gradient)
SOFT_ABS = Pair(soft_abs, soft_abs_gradient)

PAIRS = {
    "leaky_relu": LEAKY_RELU, "elu": ELU, "sigmoid": SIGMOID, "tanh": TANH, "silu": SILU, "gelu": GELU,
    "gelu_tanh": GELU_TANH, "hardswish": HARDSWISH, "softplus": SOFTPLUS, "abs": ABS, "soft_abs": SOFT_ABS,
}  # fmt: skip


def epilogue(kernel, numbers, dtype):
    """Return what convolutions take to apply `<kernel>_forward(x, *numbers, y)` to their outputs."""
    if kernel == "relu":
        return RELU_BIT
    if kernel == "elementwise":
        return epilogue_of(users_f(*numbers).address("f", dtype))
    return epilogue_of(PAIRS[kernel].address("f", dtype), *numbers)


def relu_forward(x, y):
    """Fill y with max(x, 0)."""
    apply(RELU, x, y)


def relu_backward_input(y, dy, dx):
    """Fill dx with dy where y > 0, else with 0."""
    apply_gradient(RELU, y, dy, dx)


def leaky_relu_forward(x, slope, y):
    """Fill y with x where it is positive, else with slope * x."""
    apply(LEAKY_RELU, x, y, slope)


def leaky_relu_backward_input(x, dy, slope, dx):
    """Fill dx with dy where x is positive, else with slope * dy."""
    apply_gradient(LEAKY_RELU, x, dy, dx, slope)


def elu_forward(x, alpha, y):
    """Fill y with x where it is positive, else with alpha * (exp(x) - 1)."""
    apply(ELU, x, y, alpha)


def elu_backward_input(x, dy, alpha, dx):
    """Fill dx with dy where x is positive, else with alpha * exp(x) * dy."""
    apply_gradient(ELU, x, dy, dx, alpha)


def sigmoid_forward(x, y):
    """Fill y with 1 / (1 + exp(-x))."""
    apply(SIGMOID, x, y)


def sigmoid_backward_input(y, dy, dx):
    """Fill dx with dy * y * (1 - y)."""
    apply_gradient(SIGMOID, y, dy, dx)


def tanh_forward(x, y):
    """Fill y with tanh(x)."""
    apply(TANH, x, y)


def tanh_backward_input(y, dy, dx):
    """Fill dx with dy * (1 - y^2)."""
    apply_gradient(TANH, y, dy, dx)


def silu_forward(x, y):
    """Fill y with x * s(x)."""
    apply(SILU, x, y)


def silu_backward_input(x, dy, dx):
    """Fill dx with dy * (s + x s (1 - s)), s = s(x)."""
    apply_gradient(SILU, x, dy, dx)


def gelu_forward(x, y):
    """Fill y with x * P(x)."""
    apply(GELU, x, y)


def gelu_backward_input(x, dy, dx):
    """Fill dx with dy * (P(x) + x p(x)), p the normal density."""
    apply_gradient(GELU, x, dy, dx)


def gelu_tanh_forward(x, y):
    """Fill y with x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    apply(GELU_TANH, x, y)


def gelu_tanh_backward_input(x, dy, dx):
    """Fill dx with dy times the slope of `gelu_tanh_forward`."""
    apply_gradient(GELU_TANH, x, dy, dx)


def hardswish_forward(x, y):
    """Fill y with x * min(max(x + 3, 0), 6) / 6."""
    apply(HARDSWISH, x, y)


def hardswish_backward_input(x, dy, dx):
    """Fill dx with dy * (x / 3 + 1 / 2) between -3 and 3, below with 0 and above with dy."""
    apply_gradient(HARDSWISH, x, dy, dx)


def softplus_forward(x, k, threshold, y):
    """Fill y with log(1 + exp(k x)) / k, or with x where k x > threshold."""
    apply(SOFTPLUS, x, y, k, threshold)


def softplus_backward_input(x, dy, k, threshold, dx):
    """Fill dx with dy * s(k x), or with dy where k x > threshold."""
    apply_gradient(SOFTPLUS, x, dy, dx, k, threshold)


def abs_forward(x, y):
    """Fill y with |x|."""
    apply(ABS, x, y)


def abs_backward_input(x, dy, dx):
    """Fill dx with dy * sign(x)."""
    apply_gradient(ABS, x, dy, dx)


def soft_abs_forward(x, k, y):
    """Fill y with (2 / k) log cosh(k x / 2)."""
    apply(SOFT_ABS, x, y, k)


def soft_abs_backward_input(x, dy, k, dx):
    """Fill dx with dy * tanh(k x / 2)."""
    apply_gradient(SOFT_ABS, x, dy, dx, k)


USERS_KEPT = 64  # functions of users whose loops are kept


@lru_cache(USERS_KEPT)
def users_f(f):
    """Return the pair of a user's function f(x)."""
    of_x = scalar(f)

    @scalar
    def forward(x, a, b):
        return of_x(x)

    return Pair(forward, None, is_own=False)


@lru_cache(USERS_KEPT)
def users_df(df):
    """Return the pair of the derivative df(x) of a user's function."""
    of_x = scalar(df)

    @scalar
    def gradient(x, dy, a, b):
        return dy * of_x(x)

    return Pair(None, gradient, is_own=False)


def scalar(function):
    """Compile a user's function, unless it is compiled already."""
    return function if hasattr(function, "py_func") else numba.njit(**OPTIONS)(function)


def elementwise_check(f, df, dtype):
    """Compile a user's functions, or raise a ValueError that says what is wrong with them."""
    for role, pair, part, function in (("f", users_f, "f", f), ("df", users_df, "g", df)):
        try:
            pair(function).address(part, dtype)
        except NumbaError as error:
            reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
            raise ValueError(
                f"Numba cannot compile {role} as a function of one {dtype.name} ({reason}): "
                "write it with numbers, comparisons, and functions of math and numpy."
            ) from None


def elementwise_forward(x, f, y):
    """Fill y with f(x)."""
    apply(users_f(f), x, y)


def elementwise_backward_input(x, dy, df, dx):
    """Fill dx with dy * df(x)."""
    apply_gradient(users_df(df), x, dy, dx)
