"""Stochastic gradient descent, in place on flat arrays.

    g = grad + weight_decay * param
    velocity = momentum * velocity + g
    param = param - lr * velocity, or with Nesterov's look-ahead
    param = param - lr * (g + momentum * velocity)

This is PyTorch's rule with a dampening of 0. Where momentum is 0 the step is g itself, and the
velocity is neither read nor written.
"""

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel

BLOCK = 1 << 14  # elements a thread takes at once
SMALL = 1 << 15  # elements: for fewer no second thread wakes (9 us)


@jit(inner=True)
def sgd_block(block, thread, param, grad, velocity, lr, momentum, weight_decay, nesterov):
    """Take one step on a block of elements."""
    first, last = block * BLOCK, min(param.size, block * BLOCK + BLOCK)
    if momentum == 0:
        for i in range(first, last):
            w = param[np.uintp(i)]
            param[np.uintp(i)] = w - lr * (grad[np.uintp(i)] + weight_decay * w)
    else:
        for i in range(first, last):
            w = param[np.uintp(i)]
            g = grad[np.uintp(i)] + weight_decay * w
            v = momentum * velocity[np.uintp(i)] + g
            velocity[np.uintp(i)] = v
            param[np.uintp(i)] = w - lr * (g + momentum * v if nesterov else v)


@jit
def sgd_blocks(team, param, grad, velocity, lr, momentum, weight_decay, nesterov):
    """Do `sgd_update` with the factors in the arrays' own precision."""
    rate, keep = param.dtype.type(lr), param.dtype.type(momentum)
    decay = param.dtype.type(weight_decay)
    blocks = (param.size + BLOCK - 1) // BLOCK
    share(team, blocks, sgd_block, (param, grad, velocity, rate, keep, decay, nesterov))


def sgd_update(param, grad, velocity, lr, momentum, weight_decay, nesterov):
    """Take one step: update param, and velocity where there is momentum."""
    rule = float(lr), float(momentum), float(weight_decay), bool(nesterov)
    call_parallel(param.size > SMALL, sgd_blocks, param, grad, velocity, *rule)
