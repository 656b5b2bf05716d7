"""Optimizers: one step for all parameters of a network at once, on its two flat arrays."""

from math import isfinite

from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError


class SGD:
    """Stochastic gradient descent with momentum and weight decay, by PyTorch's rule.

        g = gradient + weight_decay * w        v = momentum * v + g
        w = w - lr * v                         or, Nesterov: w - lr * (g + momentum * v)

    `lr` may be changed at any time. `state` holds the velocity after the first step.

    >>> import numpy as np
    >>> from fastcnn.backend import get
    >>> weight = np.array([1.0, 2.0])
    >>> SGD(lr=0.5).update(get("reference"), weight, np.array([1.0, -1.0]))
    >>> weight
    array([0.5, 2.5])
    """

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.lr = _not_negative(lr, "lr")
        self.momentum = _not_negative(momentum, "momentum")
        self.weight_decay = _not_negative(weight_decay, "weight_decay")
        self.nesterov = bool(nesterov)
        if self.momentum >= 1:
            raise ArgumentError(f"momentum={momentum!r} was given: it must lie below 1.")
        if self.nesterov and not self.momentum:
            raise ArgumentError("nesterov=True was given without momentum: give momentum > 0.")
        self.state: dict[str, Array] = {}

    def __repr__(self) -> str:
        return f"SGD({self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}, nesterov={self.nesterov})"

    def update(self, backend: Backend, values: Array, gradients: Array) -> None:
        """Change flat parameter values in place by one step against their gradients."""
        velocity = self.state.get("velocity")
        if velocity is None or (velocity.shape, velocity.dtype) != (values.shape, values.dtype):
            velocity = self.state["velocity"] = backend.zeros(values.shape, values.dtype)
        backend.optimizer.sgd_update(
            values, gradients, velocity, self.lr, self.momentum, self.weight_decay, self.nesterov
        )


def _not_negative(value: float, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not (isfinite(number) and number >= 0):
        raise ArgumentError(f"{name}={value!r} was given: it must be a finite number >= 0.")
    return number
