"""Activations: y = f(x), element by element, for arrays of any shape; `reference/activation.py` defines them.

A NaN passes forward, and y may be x, dx may be dy. Each is a `Pair` of scalar functions
(`elementwise/functions.py`), as a user's own are (`elementwise_forward`), and runs in the loops of
`elementwise/map.py`. Their entry points are made from the table of the pairs.
"""

from functools import lru_cache
from inspect import Parameter, Signature, signature
from math import inf
from types import FunctionType

import numba

from fastcnn.kernels.cpu.elementwise.bias_gradient import apply_gradient_sums
from fastcnn.kernels.cpu.elementwise.functions import CLIP, PAIRS
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


def entry_points(kernel, pair):
    """Return `<kernel>_forward(x, *numbers, y)` and `<kernel>_backward_input(kept, dy, *numbers, dx)` of a pair.

    The names of the numbers, and whether x or y is kept, are those of the scalar functions.
    """

    def forward(x, *numbers_and_y):
        *numbers, y = numbers_and_y
        apply(pair, x, y, *numbers)

    def backward_input(kept, dy, *numbers_and_dx):
        *numbers, dx = numbers_and_dx
        apply_gradient(pair, kept, dy, dx, *numbers)

    (_, *numbers), (kept, *_) = (list(signature(part.py_func).parameters) for part in (pair.f, pair.g))
    numbers = [name for name in numbers if name not in UNUSED]
    for function, name, part, names in (
        (forward, f"{kernel}_forward", pair.f, ["x", *numbers, "y"]),
        (backward_input, f"{kernel}_backward_input", pair.g, [kept, "dy", *numbers, "dx"]),
    ):
        function.__name__ = function.__qualname__ = name
        function.__doc__ = part.py_func.__doc__.replace("Return", f"Fill {names[-1]} with", 1)
        function.__signature__ = Signature([Parameter(each, Parameter.POSITIONAL_OR_KEYWORD) for each in names])
    return forward, backward_input


UNUSED = ("a", "b")  # what scalar functions call the numbers that they do without

for _kernel, _pair in PAIRS.items():
    globals()[f"{_kernel}_forward"], globals()[f"{_kernel}_backward_input"] = entry_points(_kernel, _pair)


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
