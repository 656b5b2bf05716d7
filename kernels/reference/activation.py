"""Activations: y = f(x), element by element, for arrays of any shape.

    ReLU         max(x, 0)                          sigmoid     s(x) = 1 / (1 + exp(-x))
    leaky ReLU   x > 0: x       else slope x        SiLU        x s(x)
    ReLU6        min(max(x, 0), 6)
    ELU          x > 0: x       else a (e^x - 1)    GELU        x P(x), P the normal distribution's probability
    |x|          gradient sign(x), 0 at 0           hardswish   x min(max(x + 3, 0), 6) / 6
    Mish         x tanh(log(1 + e^x))
    softplus     log(1 + exp(k x)) / k, or x where k x > threshold: the smooth ReLU
    soft |x|     (2 / k) log(1 + exp(k x)) - x - (2 / k) log 2 = (2 / k) log cosh(k x / 2)

A gradient takes x or y, whichever is cheaper: never both. ReLU's is 0 at 0. A NaN passes forward, y may be x, and
dx may be dy. All hold for any finite x, and have their limits at infinity: exponentials are taken of negative numbers.

At NaN a function of pieces has the slope of the piece that PyTorch's comparisons fail into, whatever stands beside it
and whatever kernel it is part of; a smooth function has none:
    1      ReLU, ReLU6, ELU, hardswish: dx = dy        slope    leaky ReLU
    0      |x|                                         NaN      sigmoid, tanh, SiLU, GELU, Mish, softplus, soft |x|

Sources: ELU, Clevert 2016; SiLU and GELU, Hendrycks and Gimpel 2016; hardswish, Howard 2019; Mish, Misra 2019;
softplus, Dugas 2001.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array
from fastcnn.kernels.reference.gain import gain_backward_input, gain_backward_weight, gain_forward
from fastcnn.kernels.reference.softmax import (
    log_softmax_backward_input,
    log_softmax_forward,
    softmax_backward_input,
    softmax_forward,
)

__all__ = [
    "abs_backward_input",
    "abs_forward",
    "backward_with_sums",
    "elementwise_backward_input",
    "elementwise_check",
    "elementwise_forward",
    "elu_backward_input",
    "elu_forward",
    "gain_backward_input",
    "gain_backward_weight",
    "gain_forward",
    "gelu_backward_input",
    "gelu_forward",
    "gelu_tanh_backward_input",
    "gelu_tanh_forward",
    "hardswish_backward_input",
    "hardswish_forward",
    "leaky_relu_backward_input",
    "leaky_relu_forward",
    "log_softmax_backward_input",
    "log_softmax_forward",
    "mish_backward_input",
    "mish_forward",
    "relu6_backward_input",
    "relu6_forward",
    "relu_backward_input",
    "relu_forward",
    "sigmoid_backward_input",
    "sigmoid_forward",
    "silu_backward_input",
    "silu_forward",
    "soft_abs_backward_input",
    "soft_abs_forward",
    "softmax_backward_input",
    "softmax_forward",
    "softplus_backward_input",
    "softplus_forward",
    "tanh_backward_input",
    "tanh_forward",
]

ScalarFunction = Callable[[float], float]

FAR = 1e3  # beyond it a factor is cut where it meets one that has vanished: infinity times 0 is no number
RELU6_MOST = 6  # of three bits before the point: Howard et al. 2017, for arithmetic of few digits
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def logistic(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), to all digits on both sides."""
    e = np.exp(-np.abs(x))
    return np.where(x > 0, 1, e) / (1 + e)


def normal_probability(x: Array) -> Array:
    """Return the probability that a normal number is less than x, to all digits on both sides."""
    found: Array = np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2)) / 2
    return found


def relu_forward(x: Array, y: Array) -> None:
    """Fill y with max(x, 0)."""
    np.maximum(x, 0, out=y)


def relu_backward_input(y: Array, dy: Array, dx: Array) -> None:
    """Fill dx with 0 where y <= 0, else with dy."""
    dx[...] = np.where(y <= 0, 0, dy)


def relu6_forward(x: Array, y: Array) -> None:
    """Fill y with min(max(x, 0), 6)."""
    np.clip(x, 0, RELU6_MOST, out=y)


def relu6_backward_input(y: Array, dy: Array, dx: Array) -> None:
    """Fill dx with 0 where y <= 0 or y >= 6, else with dy."""
    dx[...] = np.where((y <= 0) | (y >= RELU6_MOST), 0, dy)


def leaky_relu_forward(x: Array, slope: float, y: Array) -> None:
    """Fill y with x where it is positive, else with slope * x."""
    y[...] = np.where(x > 0, x, slope * x)


def leaky_relu_backward_input(x: Array, dy: Array, slope: float, dx: Array) -> None:
    """Fill dx with dy where x is positive, else with slope * dy."""
    dx[...] = np.where(x > 0, dy, slope * dy)


def elu_forward(x: Array, alpha: float, y: Array) -> None:
    """Fill y with x where it is positive, else with alpha * (exp(x) - 1)."""
    y[...] = np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward_input(x: Array, dy: Array, alpha: float, dx: Array) -> None:
    """Fill dx with alpha * exp(x) * dy where x <= 0, else with dy."""
    dx[...] = dy * np.where(x <= 0, alpha * np.exp(np.minimum(x, 0)), 1)


def sigmoid_forward(x: Array, y: Array) -> None:
    """Fill y with 1 / (1 + exp(-x))."""
    y[...] = logistic(x)


def sigmoid_backward_input(y: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * y * (1 - y)."""
    dx[...] = dy * (y * (1 - y))


def tanh_forward(x: Array, y: Array) -> None:
    """Fill y with tanh(x)."""
    np.tanh(x, out=y)


def tanh_backward_input(y: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * (1 - y^2)."""
    dx[...] = dy * ((1 - y) * (1 + y))


def silu_forward(x: Array, y: Array) -> None:
    """Fill y with x * s(x)."""
    y[...] = np.maximum(x, -FAR) * logistic(x)


def silu_backward_input(x: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * (s + x s (1 - s)), s = s(x) and 1 - s = s(-x)."""
    dx[...] = dy * (logistic(x) + np.clip(x, -FAR, FAR) * logistic(x) * logistic(-x))


def gelu_forward(x: Array, y: Array) -> None:
    """Fill y with x * P(x)."""
    y[...] = np.maximum(x, -FAR) * normal_probability(x)


def gelu_backward_input(x: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * (P(x) + x p(x)), p the normal density."""
    near = np.clip(x, -FAR, FAR).astype(np.float64)
    dx[...] = dy * (normal_probability(x) + near * np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi))


def gelu_tanh_forward(x: Array, y: Array) -> None:
    """Fill y with x / 2 * (1 + tanh(u)) = x s(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    near = np.clip(x, -FAR, FAR)
    y[...] = np.maximum(x, -FAR) * logistic(2 * GELU_SCALE * (near + GELU_CUBIC * near**3))


def gelu_tanh_backward_input(x: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * (s(2 u) + x * 2 u' s(2 u) s(-2 u))."""
    near = np.clip(x, -FAR, FAR)
    twice = 2 * GELU_SCALE * (near + GELU_CUBIC * near**3)
    slope = 2 * GELU_SCALE * (1 + 3 * GELU_CUBIC * near**2)
    dx[...] = dy * (logistic(twice) + near * slope * logistic(twice) * logistic(-twice))


def hardswish_forward(x: Array, y: Array) -> None:
    """Fill y with x * min(max(x + 3, 0), 6) / 6."""
    y[...] = np.maximum(x, -3) * (np.clip(x + 3, 0, 6) / 6)


def hardswish_backward_input(x: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * (x / 3 + 1 / 2) between -3 and 3, below with 0 and else with dy."""
    dx[...] = dy * np.where(x <= -3, 0, np.where(x < 3, x / 3 + 0.5, 1))


def mish_forward(x: Array, y: Array) -> None:
    """Fill y with x * tanh(log(1 + exp(x)))."""
    y[...] = np.maximum(x, -FAR) * np.tanh(np.logaddexp(0, x))


def mish_backward_input(x: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * (t + x s(x) (1 - t^2)), t = tanh(log(1 + exp(x)))."""
    smooth = np.logaddexp(0, x)
    e = np.exp(-2 * smooth)  # 1 - t^2 = 4 e / (1 + e)^2, of which no digit cancels
    dx[...] = dy * (np.tanh(smooth) + np.clip(x, -FAR, FAR) * logistic(x) * (4 * e / (1 + e) ** 2))


def softplus_forward(x: Array, k: float, threshold: float, y: Array) -> None:
    """Fill y with log(1 + exp(k x)) / k, or with x where k x > threshold."""
    smooth = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(k * x))) / k
    y[...] = np.where(k * x > threshold, x, smooth)


def softplus_backward_input(x: Array, dy: Array, k: float, threshold: float, dx: Array) -> None:
    """Fill dx with dy * s(k x), or with dy where k x > threshold."""
    dx[...] = dy * np.where(k * x > threshold, 1, logistic(k * x))


def abs_forward(x: Array, y: Array) -> None:
    """Fill y with |x|."""
    np.abs(x, out=y)


def abs_backward_input(x: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy * sign(x), that of 0 and NaN being 0."""
    dx[...] = dy * np.where(np.isnan(x), 0, np.sign(x))


def soft_abs_forward(x: Array, k: float, y: Array) -> None:
    """Fill y with (2 / k) log cosh(k x / 2).

    log cosh v = |v| + log((1 + exp(-2 |v|)) / 2), which for small v is log1p(2 sinh(v / 2)^2): nothing cancels.
    """
    v = np.abs(x) * (k / 2)
    near = np.log1p(2 * np.sinh(np.minimum(v, 1) / 2) ** 2) * (2 / k)
    y[...] = np.where(v < 1, near, np.abs(x) + (np.log1p(np.exp(-2 * v)) - math.log(2)) * (2 / k))


def soft_abs_backward_input(x: Array, dy: Array, k: float, dx: Array) -> None:
    """Fill dx with dy * tanh(k x / 2)."""
    dx[...] = dy * np.tanh(x * (k / 2))


def epilogue(kernel: str, numbers: tuple[Any, ...], dtype: np.dtype[Any]) -> Callable[[Array], None]:
    """Return what convolutions take to apply `<kernel>_forward(x, *numbers, y)` to their outputs."""
    forward = globals()[f"{kernel}_forward"]
    return lambda y: forward(y.copy(), *numbers, y)


def add_epilogue(residual: Array, y: Array, bounds: tuple[float, float]) -> Callable[[Array], None]:
    """Return what convolutions with output y take to add `residual` (as many elements), and bring it between bounds."""

    def apply(y: Array) -> None:
        y += residual.reshape(y.shape)
        np.clip(y, *bounds, out=y)

    return apply


def elementwise_check(f: ScalarFunction, df: ScalarFunction, dtype: np.dtype[np.floating]) -> None:
    """Try a user's functions, or raise a ValueError that says what is wrong with them."""
    for role, function in (("f", f), ("df", df)):
        try:
            float(function(0.5))
        except Exception as error:
            raise ValueError(
                f"{role} failed as a function of one {dtype.name} ({error}): it must take one number and return one."
            ) from None


def elementwise_forward(x: Array, f: ScalarFunction, y: Array) -> None:
    """Fill y with f(x), one element after another."""
    y[...] = np.vectorize(f, otypes=[y.dtype])(x) if x.size else x


def elementwise_backward_input(x: Array, dy: Array, df: ScalarFunction, dx: Array) -> None:
    """Fill dx with dy * df(x), one element after another."""
    dx[...] = dy * np.vectorize(df, otypes=[dx.dtype])(x) if x.size else x


def backward_with_sums(kernel: str, kept: Array, dy: Array, numbers: tuple[Any, ...], db: Array) -> None:
    """Fill dy with what `<kernel>_backward_input(kept, dy, *numbers, dy)` makes of it, and db (K,) with its sums."""
    globals()[f"{kernel}_backward_input"](kept, dy, *numbers, dy)
    db[...] = dy.reshape(-1, db.size).sum(axis=0)
