"""Permutation of axes: y[i_a, i_b, ...] = x[i_0, i_1, ...], where axis k of y is axis axes[k] of x.

The gradient is the permutation by the inverse order.
"""

from collections.abc import Sequence

from fastcnn.kernels.reference.definition.windows import Array


def permute(x: Array, axes: Sequence[int], y: Array) -> None:
    """Fill y with x, its axes in this order."""
    y[...] = x.transpose(axes)
