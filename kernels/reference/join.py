"""Several arrays in one: sums, products and concatenation, and how their gradients part again.

    sum             y = x_1 + x_2 + ...          dx_i = dy
    concatenation   x_i (A, L_i)   y (A, sum of L_i)   rows side by side
    gate            x (A, B, C)   gate (A, C)   y = x * gate   dgate = sum over B of dy * x

A gate is the second factor of a product: where B = 1 it is as large as the first. Squeeze and excitation (Hu et al.
2018) has A images, B pixels and C channels; a map of one channel over images of C is A pixels, B channels and C = 1.
"""

from collections.abc import Sequence

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array


def add_forward(xs: Sequence[Array], y: Array) -> None:
    """Fill y with the sum of the xs, added up in their order; y may be the first."""
    total = xs[0].copy()
    for x in xs[1:]:
        total += x
    y[...] = total


def add_backward_input(dy: Array, dxs: Sequence[Array | None]) -> None:
    """Fill every array of dxs with dy."""
    for dx in dxs:
        if dx is not None:
            dx[...] = dy


def concat_forward(xs: Sequence[Array], y: Array) -> None:
    """Fill the rows of y (A, sum of L_i) with those of the xs (A, L_i), side by side."""
    np.concatenate(xs, axis=1, out=y)


def concat_backward_input(dy: Array, widths: Sequence[int], dxs: Sequence[Array | None]) -> None:
    """Fill dxs (A, L_i), of these widths, with their parts of dy's rows; None is left out."""
    start = 0
    for width, dx in zip(widths, dxs, strict=True):
        if dx is not None:
            dx[...] = dy[:, start : start + width]
        start += width


def multiply_forward(x: Array, gate: Array, y: Array) -> None:
    """Fill y (A, B, C) with x (A, B, C) times gate (A, C); with dy for x this is the gradient by x."""
    np.multiply(x, gate[:, np.newaxis], out=y)


def multiply_backward_gate(x: Array, dy: Array, dgate: Array) -> None:
    """Fill dgate (A, C) with the sum of dy * x over B."""
    dgate[...] = np.multiply(dy, x, dtype=np.float64).sum(axis=1)
