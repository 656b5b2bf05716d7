"""The scalar functions of the activations and their gradients: f(x, a, b) and g(kept, dy, a, b), a `Pair` each.

They have no branches, stand on `simd/math.py`, and hold where exponentials would overflow; a factor that meets one
which vanishes is kept finite by `within`, since infinity times 0 is no number. What a gradient is at NaN is in
`reference/activation.py`: the comparisons are written so that they fail into that piece, in vectors as in tails.
"""

import math

from fastcnn.kernels.cpu.elementwise.map import Pair
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.simd.math import (
    exp,
    expm1,
    like,
    log1p,
    logistic_parts,
    normal_parts,
    normal_tail,
    tanh,
)

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
    """Return 0 where y <= 0, also of a dy that is NaN, else dy."""
    return like(y, 0) if y <= like(y, 0) else dy


@jit(inner=True)
def relu6(x, a, b):
    """Return min(max(x, 0), 6)."""
    return within(x, like(x, 0), like(x, 6))


@jit(inner=True)
def relu6_gradient(y, dy, a, b):
    """Return 0 where y <= 0 or y >= 6, else dy."""
    return like(y, 0) if (y <= like(y, 0)) | (y >= like(y, 6)) else dy


@jit(inner=True)
def clip(x, low, high):
    """Return x brought between low and high."""
    return within(x, low, high)


@jit(inner=True)
def add_clip(x, other, low, high):
    """Return x + other brought between low and high."""
    return within(x + other, low, high)


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
    slope = alpha * exp(within(x, like(x, -FAR), like(x, 0)))
    return dy * slope if x <= like(x, 0) else dy


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
    """Return x times the normal probability of less than x, as max(x, 0) - |x| times that of more than |x|."""
    a, _, tail = normal_tail(x)
    return (like(x, 0) if x < like(x, 0) else x) - a * tail


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
    """Return the gradient of `hardswish`: 0 up to -3, 1 from 3 on, and of NaN."""
    between = x * like(x, 1 / 3) + like(x, 0.5)
    slope = between if x < like(x, 3) else like(x, 1)
    return dy * (like(x, 0) if x <= like(x, -3) else slope)


@jit(inner=True)
def mish_parts(x):
    """Return n and d, with tanh(log(1 + exp(x))) = n / d, and e = exp(-|x|), in which both are written.

    With z = exp(x) it is (z^2 + 2 z) / (z^2 + 2 z + 2); where x > 0, both are divided by z^2, so that none overflows.
    """
    e = exp(-abs(x))
    n = like(x, 1) + (e + e) if x > like(x, 0) else e * (e + like(x, 2))
    return n, n + (like(x, 2) * (e * e) if x > like(x, 0) else like(x, 2)), e


@jit(inner=True)
def mish(x, a, b):
    """Return x * tanh(log(1 + exp(x)))."""
    n, d, _ = mish_parts(x)
    return (like(x, -FAR) if x < like(x, -FAR) else x) * (n / d)


@jit(inner=True)
def mish_gradient(x, dy, a, b):
    """Return the gradient of `mish`: n / d + x 4 z (1 + z) / (z^2 + 2 z + 2)^2, z = exp(x), in terms of exp(-|x|)."""
    n, d, e = mish_parts(x)
    slope = like(x, 4) * (e * (like(x, 1) + e)) * (e if x > like(x, 0) else like(x, 1)) / (d * d)
    return dy * (n / d + within(x, like(x, -FAR), like(x, FAR)) * slope)


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
    """Return dy times the sign of x, that of 0 and NaN being 0."""
    sign = like(x, -1) if x < like(x, 0) else like(x, 0)
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


CLIP = Pair(clip, add_clip)  # no gradient: a sum, which takes a second array as a gradient does

PAIRS = {  # an activation is a row of this table: its entry points are made from it
    "relu": Pair(relu, relu_gradient),
    "relu6": Pair(relu6, relu6_gradient),
    "leaky_relu": Pair(leaky_relu, leaky_relu_gradient),
    "elu": Pair(elu, elu_gradient),
    "sigmoid": Pair(sigmoid, sigmoid_gradient),
    "tanh": Pair(hyperbolic_tangent, tanh_gradient),
    "silu": Pair(silu, silu_gradient),
    "gelu": Pair(gelu, gelu_gradient),
    "gelu_tanh": Pair(gelu_tanh, gelu_tanh_gradient),
    "hardswish": Pair(hardswish, hardswish_gradient),
    "mish": Pair(mish, mish_gradient),
    "softplus": Pair(softplus, softplus_gradient),
    "abs": Pair(absolute, absolute_gradient),
    "soft_abs": Pair(soft_abs, soft_abs_gradient),
}
