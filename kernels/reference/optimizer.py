"""Stochastic gradient descent, in place on flat arrays.

    g = grad + weight_decay * param
    velocity = momentum * velocity + g
    param = param - lr * velocity, or with Nesterov's look-ahead
    param = param - lr * (g + momentum * velocity)

This is PyTorch's rule with a dampening of 0. Where momentum is 0 the step is g itself, and the
velocity is neither read nor written.
"""

from fastcnn.kernels.reference.taps import Array


def sgd_update(
    param: Array,
    grad: Array,
    velocity: Array,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """Take one step: update param, and velocity where there is momentum."""
    step = grad + weight_decay * param
    if momentum:
        velocity *= momentum
        velocity += step
        step = step + momentum * velocity if nesterov else velocity
    param -= lr * step
