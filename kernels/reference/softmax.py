"""Softmax over channels, and its logarithm.

    x, y, dy, dx (..., C)    y[c] = exp(x[c]) / sum over k of exp(x[k])

The largest x is first taken off every one: no exponential overflows, and the sum is at least 1.
"""

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array


def softmax_forward(x: Array, y: Array) -> None:
    """Fill y with exp(x) over the sum of exp(x) of its pixel."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    y[...] = exponentials / exponentials.sum(axis=-1, keepdims=True)


def softmax_backward_input(y: Array, dy: Array, dx: Array) -> None:
    """Fill dx with y * (dy - the sum of dy * y of its pixel)."""
    dx[...] = y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def log_softmax_forward(x: Array, y: Array) -> None:
    """Fill y with x less the logarithm of the sum of exp(x) of its pixel."""
    shifted = x - x.max(axis=-1, keepdims=True)
    y[...] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_softmax_backward_input(y: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy - exp(y) * the sum of dy of its pixel."""
    dx[...] = dy - np.exp(y) * dy.sum(axis=-1, keepdims=True)
