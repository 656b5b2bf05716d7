"""The rectified linear unit: y = max(x, 0), element by element, for arrays of any shape.

Its gradient at 0 is 0. A NaN passes forward, and y may be x, dx may be dy.
"""

import numpy as np

from fastcnn.kernels.reference.taps import Array


def relu_forward(x: Array, y: Array) -> None:
    """Fill y with max(x, 0)."""
    np.maximum(x, 0, out=y)


def relu_backward_input(y: Array, dy: Array, dx: Array) -> None:
    """Fill dx with dy where y > 0, else with 0."""
    dx[...] = np.where(y > 0, dy, 0)
