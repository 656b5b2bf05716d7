"""A gain learned for each channel: y = g x and its gradients.

x (..., C)   g (C,)   y as x
"""

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array


def gain_forward(x: Array, g: Array, y: Array) -> None:
    """Fill y with g[c] * x."""
    np.multiply(x, g, out=y)


def gain_backward_input(g: Array, dy: Array, dx: Array) -> None:
    """Fill dx with g[c] * dy."""
    np.multiply(dy, g, out=dx)


def gain_backward_weight(x: Array, dy: Array, dg: Array) -> None:
    """Fill dg with the sums of dy * x over all pixels."""
    dg[...] = (dy * x).reshape(-1, dg.size).sum(axis=0)
