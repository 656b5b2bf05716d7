"""Activations: y = f(x), element by element, for arrays of any shape; `reference/activation.py` defines them.

A NaN passes forward, and y may be x, dx may be dy. Each is a `Pair` of scalar functions
(`elementwise/functions.py`), as a user's own are (`elementwise_forward`), and runs in the loops of
`elementwise/map.py`.
"""

from functools import lru_cache
from math import inf
from types import FunctionType

import numba

from fastcnn.kernels.cpu.elementwise.bias_gradient import apply_gradient_sums
from fastcnn.kernels.cpu.elementwise.functions import (
    ABS,
    CLIP,
    ELU,
    GELU,
    GELU_TANH,
    HARDSWISH,
    LEAKY_RELU,
    PAIRS,
    RELU,
    RELU6,
    SIGMOID,
    SILU,
    SOFT_ABS,
    SOFTPLUS,
    TANH,
)
from fastcnn.kernels.cpu.elementwise.map import Pair, apply, apply_gradient
from fastcnn.kernels.cpu.gain import gain_backward_input, gain_backward_weight, gain_forward
from fastcnn.kernels.cpu.normalization.chunks import UNBOUNDED
from fastcnn.kernels.cpu.runtime.compiler import OPTIONS
from fastcnn.kernels.cpu.simd import epilogue_code
from fastcnn.kernels.cpu.simd.epilogue import epilogue_of
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


CLIPS = {"relu": epilogue_code.RELU, "relu6": epilogue_code.RELU | epilogue_code.CAP}  # what kernels do in registers

IN_REGISTERS = {  # bounds that kernels know how to keep after a sum
    UNBOUNDED: epilogue_code.ADD,
    (0.0, inf): epilogue_code.ADD | epilogue_code.RELU,
    (0.0, epilogue_code.SIX): epilogue_code.ADD | epilogue_code.RELU | epilogue_code.CAP,
}  # fmt: skip


def epilogue(kernel, numbers, dtype):
    """Return what convolutions take to apply `<kernel>_forward(x, *numbers, y)` to their outputs."""
    if kernel in CLIPS:
        return CLIPS[kernel]
    if kernel == "elementwise":
        return epilogue_of(users_f(*numbers).address("f", dtype))
    return epilogue_of(PAIRS[kernel].address("f", dtype), *numbers)


def add_epilogue(residual, y, bounds):
    """Return what convolutions with output y take to add `residual` (as many elements), and bring it between bounds."""
    address = (a.__array_interface__["data"][0] for a in (residual, y))
    general = epilogue_of(CLIP.address("g", y.dtype), *bounds, away=next(address) - next(address))
    return general | IN_REGISTERS.get(tuple(bounds), 0)


def backward_with_sums(kernel, kept, dy, numbers, db):
    """Fill dy with what `<kernel>_backward_input(kept, dy, *numbers, dy)` makes of it, and db (K,) with its sums."""
    if kernel == "elementwise":
        apply_gradient_sums(users_df(*numbers), kept, dy, db)
    else:
        apply_gradient_sums(PAIRS[kernel], kept, dy, db, *numbers)


def relu_forward(x, y):
    """Fill y with max(x, 0)."""
    apply(RELU, x, y)


def relu_backward_input(y, dy, dx):
    """Fill dx with 0 where y <= 0, else with dy."""
    apply_gradient(RELU, y, dy, dx)


def relu6_forward(x, y):
    """Fill y with min(max(x, 0), 6)."""
    apply(RELU6, x, y)


def relu6_backward_input(y, dy, dx):
    """Fill dx with 0 where y <= 0 or y >= 6, else with dy."""
    apply_gradient(RELU6, y, dy, dx)


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
    """Compile a user's function, unless it is compiled already; ufuncs and built-ins are for Numba to call only."""
    if hasattr(function, "py_func"):
        return function
    if isinstance(function, FunctionType):
        return numba.njit(**OPTIONS)(function)
    return numba.njit(**OPTIONS)(lambda x: function(x))


def reason_of(error):
    """Return what an error says first, in one line; Numba names the stages of its compiler before, and places after."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Failed in ")]
    first, *others = lines or [type(error).__name__]
    return f"{first} {others[0]}" if first.endswith(":") and others else first.rstrip(".")


def elementwise_check(f, df, dtype):
    """Compile a user's functions, or raise a ValueError that says what is wrong with them."""
    for role, pair, part, function in (("f", users_f, "f", f), ("df", users_df, "g", df)):
        try:
            pair(function).address(part, dtype)
        except Exception as error:  # whatever a user's function makes of Numba
            reason = reason_of(error)
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
