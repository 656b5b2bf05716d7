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

A task is a block that stays in the first cache: several short loops over it move no more memory than one would, and
LLVM makes vectors of each, which needs few enough arrays to tell apart.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.reduction.blocks import BLOCK as SUMMED
from fastcnn.kernels.cpu.reduction.blocks import LANES, join_blocks, join_lanes, partial_sums
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.runtime.workspace import scratch

BLOCK = 1 << 11  # elements of a task: five arrays of float32 are 40 KB
SEEN, FEW_SEEN = 1 << 14, 1 << 17  # the same where elements are looked at only
NORM_EPSILON = 1e-6  # keeps the division of PyTorch's clip_grad_norm_ from one by 0
UNIT = 2.0**-600  # times this, no sum of squares of float64 overflows, and those that did are far from underflow
LEAST = 2.0**-100  # factors below go in two halves: neither is denormal in float32, nor far from it in float64


@jit(inner=True)
def _range(block, a):
    """Return the first and last element of a block."""
    return block * BLOCK, min(a.size, block * BLOCK + BLOCK)


@jit(inner=True)
def _blocks(a):
    return (a.size + BLOCK - 1) // BLOCK


@jit(inner=True)
def _sgd_block(block, thread, param, grad, velocity, lr, momentum, fresh, weight_decay, nesterov):
    first, last = _range(block, param)
    one = param.dtype.type(1)
    if momentum == 0:
        for i in range(first, last):
            w = param[np.uintp(i)]
            param[np.uintp(i)] = w - lr * (grad[np.uintp(i)] + weight_decay * w)
    else:
        for i in range(first, last):
            w = param[np.uintp(i)]
            g = grad[np.uintp(i)] + weight_decay * w
            v = momentum * velocity[np.uintp(i)] + (g if fresh == one else fresh * g)
            velocity[np.uintp(i)] = v
            param[np.uintp(i)] = w - lr * (g + momentum * v if nesterov else v)


@jit
def _sgd(team, param, grad, velocity, rule):
    kind = param.dtype.type
    lr, momentum, dampening, weight_decay, nesterov = rule[0], rule[1], rule[2], rule[3], rule[4]
    numbers = (kind(lr), kind(momentum), kind(1.0 - dampening), kind(weight_decay), nesterov != 0.0)
    share(team, _blocks(param), _sgd_block, (param, grad, velocity, *numbers))


def sgd_update(param: np.ndarray, grad: np.ndarray, velocity: np.ndarray, rule: np.ndarray) -> None:
    """Take one step by (lr, momentum, dampening, weight_decay, nesterov): update param, and velocity with momentum."""
    call_parallel(param.size > SERIAL_ELEMENTS, _sgd, param, grad, velocity, rule)


@jit(inner=True)
def _adam_block(block, thread, param, grad, mean, square, largest, numbers):
    (keep, gain, rate, eps, decay, shrink, root), (first, last) = numbers, _range(block, param)
    zero = param.dtype.type(0)
    for i in range(first, last):
        g = grad[np.uintp(i)] + decay * param[np.uintp(i)]
        m = mean[np.uintp(i)]
        mean[np.uintp(i)] = m + keep[0] * (g - m)
        square[np.uintp(i)] = gain * square[np.uintp(i)] + keep[1] * g * g
    if largest.size:
        for i in range(first, last):
            v = square[np.uintp(i)]
            largest[np.uintp(i)] = largest[np.uintp(i)] if v < largest[np.uintp(i)] else v
    below = largest if largest.size else square
    for i in range(first, last):
        v = below[np.uintp(i)]
        step = mean[np.uintp(i)] / (math.sqrt(v if v > zero else zero) * root + eps)
        param[np.uintp(i)] = shrink * param[np.uintp(i)] - rate * step


@jit
def _adam(team, param, grad, mean, square, largest, rule):
    kind = param.dtype.type
    lr, beta1, beta2, eps, weight_decay = rule[0], rule[1], rule[2], rule[3], rule[4]
    decoupled, step = rule[5] != 0.0, np.int64(rule[6])
    keep, gain = (kind(1.0 - beta1), kind(1.0 - beta2)), kind(beta2)
    decay = kind(0.0 if decoupled else weight_decay)
    shrink = kind(1.0 - lr * weight_decay if decoupled else 1.0)
    rate, root = kind(lr / (1.0 - beta1**step)), kind(1.0 / math.sqrt(1.0 - beta2**step))
    numbers = keep, gain, rate, kind(eps), decay, shrink, root
    share(team, _blocks(param), _adam_block, (param, grad, mean, square, largest, numbers))


def adam_update(
    param: np.ndarray, grad: np.ndarray, mean: np.ndarray, square: np.ndarray, largest: np.ndarray, rule: np.ndarray
) -> None:
    """Take one step by (lr, beta1, beta2, eps, weight_decay, decoupled, step).

    Update param, mean, square, and largest where it has elements.
    """
    call_parallel(param.size > SERIAL_ELEMENTS, _adam, param, grad, mean, square, largest, rule)


@jit(inner=True)
def _rmsprop_block(block, thread, param, grad, square, mean, velocity, numbers):
    (lr, alpha, fresh, eps, decay, momentum), (first, last) = numbers, _range(block, param)
    zero = param.dtype.type(0)
    for i in range(first, last):
        g = grad[np.uintp(i)] + decay * param[np.uintp(i)]
        square[np.uintp(i)] = alpha * square[np.uintp(i)] + fresh * g * g
    if mean.size:
        for i in range(first, last):
            g, m = grad[np.uintp(i)] + decay * param[np.uintp(i)], mean[np.uintp(i)]
            mean[np.uintp(i)] = m + fresh * (g - m)
    centre = mean if mean.size else square  # read in any case, as a load behind a branch stops the vectors
    weight = param.dtype.type(1 if mean.size else 0)
    if velocity.size:
        for i in range(first, last):
            g, m = grad[np.uintp(i)] + decay * param[np.uintp(i)], centre[np.uintp(i)]
            variance = square[np.uintp(i)] - weight * m * m
            step = g / (math.sqrt(variance if variance > zero else zero) + eps)
            velocity[np.uintp(i)] = momentum * velocity[np.uintp(i)] + step
        for i in range(first, last):
            param[np.uintp(i)] -= lr * velocity[np.uintp(i)]
    else:
        for i in range(first, last):
            w, m = param[np.uintp(i)], centre[np.uintp(i)]
            g, variance = grad[np.uintp(i)] + decay * w, square[np.uintp(i)] - weight * m * m
            param[np.uintp(i)] = w - lr * g / (math.sqrt(variance if variance > zero else zero) + eps)


@jit
def _rmsprop(team, param, grad, square, mean, velocity, rule):
    kind = param.dtype.type
    lr, alpha, eps, weight_decay, momentum = rule[0], rule[1], rule[2], rule[3], rule[4]
    numbers = (kind(lr), kind(alpha), kind(1.0 - alpha), kind(eps), kind(weight_decay), kind(momentum))
    share(team, _blocks(param), _rmsprop_block, (param, grad, square, mean, velocity, numbers))


def rmsprop_update(
    param: np.ndarray, grad: np.ndarray, square: np.ndarray, mean: np.ndarray, velocity: np.ndarray, rule: np.ndarray
) -> None:
    """Take one step by (lr, alpha, eps, weight_decay, momentum).

    Update param, square, and mean and velocity where they have elements.
    """
    call_parallel(param.size > SERIAL_ELEMENTS, _rmsprop, param, grad, square, mean, velocity, rule)


@jit(inner=True)
def _adagrad_block(block, thread, param, grad, total, lr, eps, decay):
    first, last = _range(block, param)
    for i in range(first, last):
        w = param[np.uintp(i)]
        g = grad[np.uintp(i)] + decay * w
        v = total[np.uintp(i)] + g * g
        total[np.uintp(i)] = v
        param[np.uintp(i)] = w - lr * g / (math.sqrt(v) + eps)


@jit
def _adagrad(team, param, grad, total, rule):
    kind = param.dtype.type
    numbers = (kind(rule[0]), kind(rule[1]), kind(rule[2]))
    share(team, _blocks(param), _adagrad_block, (param, grad, total, *numbers))


def adagrad_update(param: np.ndarray, grad: np.ndarray, total: np.ndarray, rule: np.ndarray) -> None:
    """Take one step by (lr, eps, weight_decay): update param and total, the sum of squares."""
    call_parallel(param.size > SERIAL_ELEMENTS, _adagrad, param, grad, total, rule)


@jit(inner=True)
def _square_block(block, thread, a, unit, partial):
    first, last = block * SUMMED, min(a.size, block * SUMMED + SUMMED)
    lanes = partial[block]
    lanes[:] = 0.0
    whole = first + (last - first) // LANES * LANES
    for i in range(first, whole, LANES):
        for lane in range(LANES):
            x = np.float64(a[np.uintp(i + lane)]) * unit
            lanes[np.uintp(lane)] += x * x
    for i in range(whole, last):
        x = np.float64(a[np.uintp(i)]) * unit
        lanes[np.uintp(i - whole)] += x * x
    join_lanes(lanes)


@jit
def _square_sum(team, a, partial, total, scaled):
    share(team, partial.shape[0], _square_block, (a, 1.0, partial))
    total[0] = join_blocks(partial)
    if scaled.size > 0 and total[0] == math.inf:
        share(team, partial.shape[0], _square_block, (a, UNIT, partial))
        scaled[0] = join_blocks(partial)


def square_sum(a: np.ndarray, total: np.ndarray, scaled: np.ndarray | None = None) -> None:
    """Fill total (1,) with the sum of the squares of a; where that overflows, scaled (1,) with those of UNIT * a."""
    call_parallel(
        a.size > SERIAL_ELEMENTS, _square_sum, a, partial_sums(a), total, total[:0] if scaled is None else scaled
    )


@jit(inner=True)
def _shrink_block(block, thread, a, factor):
    first, last = _range(block, a)
    for i in range(first, last):
        a[np.uintp(i)] *= factor


@jit
def _shrink(team, a, factor):
    for i in range(factor.size):
        if factor[i] < 1.0:
            share(team, _blocks(a), _shrink_block, (a, a.dtype.type(factor[i])))


def shrink(a: np.ndarray, factor: np.ndarray) -> None:
    """Multiply a by one factor after the other (1,) or (2,), by those that are below 1."""
    call_parallel(a.size > SERIAL_ELEMENTS, _shrink, a, factor)


@jit
def _norm_factor(squares, limit, factor, scaled):
    total, unit = 0.0, 1.0
    for i in range(squares.size):
        total += squares[i]
    if total == math.inf and scaled.size > 0:
        total, unit = 0.0, UNIT
        for i in range(squares.size):
            total += scaled[i] if squares[i] == math.inf else squares[i] * UNIT * UNIT
    found, half = limit / (math.sqrt(total) + NORM_EPSILON * unit), 1.0
    if factor.size > 1 and found * unit < LEAST and found > 0.0:
        power = math.frexp(found)[1] + math.frexp(unit)[1] - 1
        half = math.ldexp(1.0, power // 2)
        found = found / half
    factor[0] = found * unit
    if factor.size > 1:
        factor[1] = half


def norm_factor(squares: np.ndarray, limit: float, factor: np.ndarray, scaled: np.ndarray | None = None) -> None:
    """Fill factor (1,) with what brings a norm down to a limit: that of arrays with these sums of squares.

    `scaled` are those of `square_sum`. A factor (2,) is a product, of which neither part is denormal.
    """
    call_serial(_norm_factor, squares, float(limit), factor, squares[:0] if scaled is None else scaled)


@jit(inner=True)
def _clamp_block(block, thread, a, limit):
    first, last = _range(block, a)
    for i in range(first, last):
        v = a[np.uintp(i)]
        a[np.uintp(i)] = limit if v > limit else (-limit if v < -limit else v)


@jit
def _clamp(team, a, limit):
    share(team, _blocks(a), _clamp_block, (a, a.dtype.type(limit)))


def clamp(a: np.ndarray, limit: float) -> None:
    """Bring every element of a between -limit and limit; NaN stays."""
    call_parallel(a.size > SERIAL_ELEMENTS, _clamp, a, float(limit))


@jit(inner=True)
def _non_finite_block(block, thread, a, largest, partial):
    first, last = block * SEEN, min(a.size, block * SEEN + SEEN)
    count = 0
    for i in range(first, last):
        count += not abs(a[np.uintp(i)]) <= largest
    partial[block] = count


@jit
def _non_finite(team, a, largest, partial, count):
    share(team, partial.size, _non_finite_block, (a, a.dtype.type(largest), partial))
    count[0] = partial.sum()


def non_finite(a: np.ndarray, count: np.ndarray) -> None:
    """Fill count (1,) with how many elements of a are infinite or NaN."""
    blocks = -(-a.size // SEEN)
    partial = scratch("non-finite", blocks, np.dtype(np.int64))[:blocks]
    call_parallel(a.size > FEW_SEEN, _non_finite, a, np.finfo(a.dtype).max, partial, count)
