"""The fully connected layer: a matrix product.

Arrays: x (N, F), w (F, K), b (K,), y (N, K), with y = x w + b.
"""

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array, Epilogue, apply_epilogue


def linear_forward(x: Array, w: Array, b: Array | None, epilogue: Epilogue, y: Array) -> None:
    """Fill y with x w + b, and apply the epilogue."""
    np.matmul(x, w, out=y)
    if b is not None:
        y += b
    apply_epilogue(epilogue, y)


def linear_backward_input(dy: Array, w: Array, dx: Array) -> None:
    """Fill dx with dy w'."""
    np.matmul(dy, w.T, out=dx)


def linear_backward_weight(x: Array, dy: Array, dw: Array) -> None:
    """Fill dw with x' dy."""
    np.matmul(x.T, dy, out=dw)


def linear_backward_bias(dy: Array, db: Array) -> None:
    """Fill db with the sum of dy over the batch."""
    db[...] = dy.sum(axis=0)
