"""Convolution as a matrix: a block Toeplitz matrix M with y = M x, for reading, teaching and tests.

    x (*axes, C) and y (*outputs, K), both flattened     M (pixels of y * K, pixels of x * C)

Row (p, k) of M holds the filter of output channel k where it lies over x for output pixel p. The
transpose of M is the transposed convolution, and so the gradient by the input.
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Array, Shape, as_float
from fastcnn.errors import ShapeError
from fastcnn.shapes import IntOrAxes, Padding, output_size, padding_pairs, per_axis, whole


@checks_arguments
def conv_matrix(
    weight: ArrayLike,
    input_shape: Sequence[int],
    stride: IntOrAxes = 1,
    padding: Padding = 0,
    dilation: IntOrAxes = 1,
    groups: int = 1,
) -> Any:
    """Return the matrix of a convolution of one image.

    Parameters
    ----------
    weight
        The filter (*filter, C / groups, K) of a `Conv1d`, `Conv2d` or `Conv3d`.
    input_shape
        The image's shape (*axes, C), without the batch axis.
    stride, padding, dilation, groups
        As in those layers.

    Returns
    -------
    A scipy.sparse.csr_array in the weight's dtype where SciPy is installed, else a NumPy array.

    Raises
    ------
    ShapeError
        If weight and image do not fit each other.

    >>> M = conv_matrix([[[1.0]], [[2.0]], [[3.0]]], (5, 1))
    >>> M = M if isinstance(M, np.ndarray) else M.toarray()
    >>> M
    array([[1., 2., 3., 0., 0.],
           [0., 1., 2., 3., 0.],
           [0., 0., 1., 2., 3.]])
    """
    w = as_float(weight, "the weight")
    shape = tuple(input_shape) if isinstance(input_shape, list | tuple) else ()
    rank, groups = w.ndim - 2, whole(groups, 1, "groups")
    _check(w, shape, groups)
    window, C, K = w.shape[:rank], shape[-1], w.shape[-1]
    strides, dilations = per_axis(stride, rank, 1, "stride"), per_axis(dilation, rank, 1, "dilation")
    pairs = padding_pairs(padding, rank, window, strides, dilations)
    geometry = list(zip(shape, window, strides, pairs, dilations, strict=False))
    outputs = tuple(output_size(*axis, ceil_mode=False) for axis in geometry)
    if min(outputs) < 1:
        raise ShapeError(f"conv_matrix got an image of shape {shape}, smaller than the filter {window}: pad it.")
    rows, columns, values = [], [], []
    for tap in product(*map(range, window)):
        target, source = _pixels(tap, shape[:-1], outputs, strides, pairs, dilations)
        for c, k in product(range(C // groups), range(K)):
            rows.append(target * K + k)
            columns.append(source * C + k // (K // groups) * (C // groups) + c)
            values.append(np.full(target.size, w[(*tap, c, k)]))
    size = (prod(outputs) * K, prod(shape))
    return _assemble(np.concatenate(values), np.concatenate(rows), np.concatenate(columns), size)


def _check(w: Array, shape: Shape, groups: int) -> None:
    for axis in shape:
        whole(axis, 1, "an axis of input_shape")
    if w.ndim not in (3, 4, 5) or len(shape) != w.ndim - 1 or w.size == 0:
        raise ShapeError(
            f"conv_matrix got a weight of shape {w.shape} and input_shape {shape}: give (*filter, C / groups, K) "
            "and (*axes, C) with as many axes in both, from one to three."
        )
    if w.shape[-2] * groups != shape[-1] or w.shape[-1] % groups:
        raise ShapeError(
            f"conv_matrix got a weight of shape {w.shape} for {shape[-1]} channels in groups={groups}: "
            "its last two axes must be C / groups and a multiple of groups."
        )


def _pixels(
    tap: Shape, image: Shape, outputs: Shape, stride: Shape, pairs: Sequence[tuple[int, int]], dilation: Shape
) -> tuple[Array, Array]:
    """Return the flat numbers of the output pixels where a tap meets the image, and of the pixels it meets there."""
    axes = [np.arange(count) for count in outputs]
    met = [p * s + r * d - before for p, s, r, d, (before, _) in zip(axes, stride, tap, dilation, pairs, strict=True)]
    inside = [(at >= 0) & (at < size) for at, size in zip(met, image, strict=True)]
    places = (
        np.ravel_multi_index(np.ix_(*(at[keep] for at, keep in zip(each, inside, strict=True))), size).ravel()
        for each, size in ((axes, outputs), (met, image))
    )
    target, source = places
    return target, source


def _assemble(values: Array, rows: Array, columns: Array, size: tuple[int, int]) -> Any:
    try:
        from scipy.sparse import csr_array
    except ImportError:
        matrix = np.zeros(size, values.dtype)
        matrix[rows, columns] = values
        return matrix
    return csr_array((values, (rows, columns)), shape=size)
