"""Batches of images gathered and moved: each may be mirrored, and is then shifted.

    images (M, H, W, C)   rows (N,) whole numbers below M   flip, down, right (N,)   fill (C,)   y (N, H, W, C)

    y[n, h, w] = image[h - down[n], w - right[n]]   image = images[rows[n]], mirrored left to right where flip[n]

A place that no pixel has come to gets `fill`.
"""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array

Whole = npt.NDArray[np.int64]


def move_images(
    images: Array, rows: Whole, flip: npt.NDArray[np.bool_], down: Whole, right: Whole, fill: Array, y: Array
) -> None:
    """Fill y with the images of some rows, each moved in its way."""
    H, W = y.shape[1:3]
    y[...] = fill
    for n, row in enumerate(rows):
        image = images[row][:, ::-1] if flip[n] else images[row]
        h, w = np.arange(H) + down[n], np.arange(W) + right[n]
        stays = np.ix_((h >= 0) & (h < H), (w >= 0) & (w < W))
        y[n][np.ix_(h[(h >= 0) & (h < H)], w[(w >= 0) & (w < W)])] = image[stays]
