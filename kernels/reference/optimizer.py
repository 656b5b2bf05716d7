"""Steps of optimizers, in place on flat arrays, and what is done to gradients before.

Every step first adds weight_decay * param to the gradient g (Adam with `decoupled` shrinks param instead). Then, with
PyTorch's names on the right and t the number of this step, from 1:

    SGD      v = momentum v + (1 - dampening) g                                              momentum_buffer
             param -= lr v, or with Nesterov's look-ahead lr (g + momentum v), or without momentum lr g
    Adam     m += (1 - beta1) (g - m)        v = beta2 v + (1 - beta2) g^2                   exp_avg, exp_avg_sq
             largest = max(largest, v) takes the place of v below (AMSGrad)                  max_exp_avg_sq
             param -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
    RMSprop  v = alpha v + (1 - alpha) g^2   m += (1 - alpha) (g - m)                        square_avg, grad_avg
             s = g / (sqrt(v) + eps), or centered g / (sqrt(v - m^2) + eps)
             param -= lr s, or b = momentum b + s, param -= lr b                             momentum_buffer
    Adagrad  v += g^2                        param -= lr g / (sqrt(v) + eps)                 sum

What a variant does not need comes as an array of size 0. The numbers of a step change from one to the next: they stand
in memory, as `rule` in float64. Sources: Polyak 1964, Sutskever et al. 2013; Kingma and Ba 2015, Loshchilov and Hutter
2019, Reddi et al. 2018; Tieleman and Hinton 2012, Graves 2013; Duchi et al. 2011.
"""

import math

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array

Doubles = npt.NDArray[np.float64]

NORM_EPSILON = 1e-6  # keeps the division of PyTorch's clip_grad_norm_ from one by 0
UNIT = 2.0**-600  # times this, no sum of squares of float64 overflows, and those that did are far from underflow
LEAST = 2.0**-100  # factors below go in two halves: neither is denormal in float32, nor far from it in float64


def sgd_update(param: Array, grad: Array, velocity: Array, rule: Doubles) -> None:
    """Take one step by (lr, momentum, dampening, weight_decay, nesterov): update param, and velocity with momentum."""
    lr, momentum, dampening, weight_decay, nesterov = rule.tolist()
    step = grad + weight_decay * param
    if momentum:
        velocity *= momentum
        velocity += (1 - dampening) * step
        step = step + momentum * velocity if nesterov else velocity
    param -= lr * step


def adam_update(param: Array, grad: Array, mean: Array, square: Array, largest: Array, rule: Doubles) -> None:
    """Take one step by (lr, beta1, beta2, eps, weight_decay, decoupled, step).

    Update param, mean, square, and largest where it has elements.
    """
    lr, beta1, beta2, eps, weight_decay, decoupled, step = rule.tolist()
    g = grad if decoupled else grad + weight_decay * param
    mean += (1 - beta1) * (g - mean)
    square *= beta2
    square += (1 - beta2) * g * g
    if largest.size:
        np.maximum(largest, square, out=largest)
    root = np.sqrt(largest if largest.size else square) / math.sqrt(1 - beta2**step)
    if decoupled:
        param *= 1 - lr * weight_decay
    param -= lr / (1 - beta1**step) * mean / (root + eps)


def rmsprop_update(param: Array, grad: Array, square: Array, mean: Array, velocity: Array, rule: Doubles) -> None:
    """Take one step by (lr, alpha, eps, weight_decay, momentum).

    Update param, square, and mean and velocity where they have elements.
    """
    lr, alpha, eps, weight_decay, momentum = rule.tolist()
    g = grad + weight_decay * param
    square *= alpha
    square += (1 - alpha) * g * g
    variance: Array = square
    if mean.size:
        mean += (1 - alpha) * (g - mean)
        variance = np.maximum(square - mean * mean, 0)
    step: Array = g / (np.sqrt(variance) + eps)
    if velocity.size:
        velocity *= momentum
        velocity += step
        step = velocity
    param -= lr * step


def adagrad_update(param: Array, grad: Array, total: Array, rule: Doubles) -> None:
    """Take one step by (lr, eps, weight_decay): update param and total, the sum of squares."""
    lr, eps, weight_decay = rule.tolist()
    g = grad + weight_decay * param
    total += g * g
    param -= lr * g / (np.sqrt(total) + eps)


def square_sum(a: Array, total: Doubles, scaled: Doubles | None = None) -> None:
    """Fill total (1,) with the sum of the squares of a; where that overflows, scaled (1,) with those of UNIT * a."""
    with np.errstate(over="ignore"):
        total[0] = (a.astype(np.float64) ** 2).sum()
    if scaled is not None and total[0] == math.inf:
        scaled[0] = ((UNIT * a.astype(np.float64)) ** 2).sum()


def norm_factor(squares: Doubles, limit: float, factor: Doubles, scaled: Doubles | None = None) -> None:
    """Fill factor (1,) with what brings a norm down to a limit: that of arrays with these sums of squares.

    `scaled` are those of `square_sum`. A factor (2,) is a product, of which neither part is denormal.
    """
    with np.errstate(over="ignore"):
        total, unit = float(squares.sum()), 1.0
    if total == math.inf and scaled is not None:
        total, unit = float(np.where(squares == math.inf, scaled, squares * UNIT * UNIT).sum()), UNIT
    found, half = limit / (math.sqrt(total) + NORM_EPSILON * unit), 1.0
    if len(factor) > 1 and found * unit < LEAST and found > 0:
        half = math.ldexp(1.0, (math.frexp(found)[1] + math.frexp(unit)[1] - 1) // 2)
        found /= half
    factor[0], factor[1:] = found * unit, half


def shrink(a: Array, factor: Doubles) -> None:
    """Multiply a by one factor after the other (1,) or (2,), by those that are below 1."""
    for part in factor.tolist():
        if part < 1:
            a *= part


def clamp(a: Array, limit: float) -> None:
    """Bring every element of a between -limit and limit; NaN stays."""
    np.clip(a, -limit, limit, out=a)


def non_finite(a: Array, count: npt.NDArray[np.int64]) -> None:
    """Fill count (1,) with how many elements of a are infinite or NaN."""
    count[0] = np.count_nonzero(~np.isfinite(a))
