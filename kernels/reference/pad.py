"""Padding of images, constant or from the image itself, and its gradient.

    x (N, D, H, W, C)   y (N, D + before + after, ..., C), per axis

A row a b c, padded by two before and one after: constant 0 0 a b c 0, replicate a a a b c c, reflect c b a b c b,
circular b c a b c a.
"""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.problem import Padding, Pair
from fastcnn.kernels.reference.definition.windows import Array

OUTSIDE = -1


def sources(size: int, pair: Pair, mode: str) -> npt.NDArray[np.int64]:
    """Return which pixel of an axis stands at each place of the padded axis, or OUTSIDE where a constant does.

    >>> [sources(3, (2, 1), mode).tolist() for mode in ("constant", "reflect", "replicate", "circular")]
    [[-1, -1, 0, 1, 2, -1], [2, 1, 0, 1, 2, 1], [0, 0, 0, 1, 2, 2], [1, 2, 0, 1, 2, 0]]
    """
    at = np.arange(-pair[0], size + pair[1])
    if mode == "constant":
        return np.where((at < 0) | (at >= size), OUTSIDE, at)
    if mode == "reflect":
        return np.abs(np.where(at >= size, 2 * (size - 1) - at, at))
    return at % size if mode == "circular" else np.clip(at, 0, size - 1)


def pad_forward(x: Array, padding: Padding, mode: str, value: float, y: Array) -> None:
    """Fill y with x inside its padding; `value` is the constant one's."""
    maps = [sources(size, pair, mode) for size, pair in zip(x.shape[1:4], padding, strict=True)]
    y[...] = x[:, maps[0][:, None, None], maps[1][:, None], maps[2]]
    for axis, pixels in enumerate(maps, 1):
        np.moveaxis(y, axis, 0)[pixels == OUTSIDE] = value


def pad_backward_input(dy: Array, padding: Padding, mode: str, dx: Array) -> None:
    """Fill dx: every pixel collects dy from all places where it stands."""
    total = dy.astype(np.float64)
    for axis, (size, pair) in enumerate(zip(dx.shape[1:4], padding, strict=True), 1):
        pixels = sources(size, pair, mode)
        given = np.moveaxis(total, axis, 0)
        part = np.zeros((size, *given.shape[1:]))
        np.add.at(part, pixels[pixels != OUTSIDE], given[pixels != OUTSIDE])
        total = np.moveaxis(part, 0, axis)
    dx[...] = total
