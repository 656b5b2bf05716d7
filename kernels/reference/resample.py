"""Enlarging and putting back: interpolation, and pixels put where a maximum stood.

    x (N, D, H, W, C)   y (N, O, P, Q, C)   positions, as x: flat places in the D * H * W pixels of y

Interpolation is a matrix along each axis, whose transposes give its gradient.
"""

from collections.abc import Sequence

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array
from fastcnn.kernels.sampling import Sampling, samples


def matrices(image: Sequence[int], output: Sequence[int], how: Sequence[Sampling]) -> list[Array]:
    """Return the matrix (outputs, pixels) of each axis."""
    found: list[Array] = []
    for size, outputs, one in zip(image, output, how, strict=True):
        matrix = np.zeros((outputs, size))
        for o, pairs in enumerate(samples(size, outputs, one)):
            for pixel, weight in pairs:
                matrix[o, pixel] += weight
        found.append(matrix)
    return found


def upsample_forward(x: Array, how: Sequence[Sampling], y: Array) -> None:
    """Fill y with x interpolated; `how` holds a `Sampling` for each of three axes."""
    depth, height, width = matrices(x.shape[1:4], y.shape[1:4], how)
    y[...] = np.einsum("od,ph,qw,ndhwc->nopqc", depth, height, width, x, optimize=True)


def upsample_backward_input(dy: Array, how: Sequence[Sampling], dx: Array) -> None:
    """Fill dx: every pixel collects dy from the outputs that it went to, by its weight in each."""
    depth, height, width = matrices(dx.shape[1:4], dy.shape[1:4], how)
    dx[...] = np.einsum("od,ph,qw,nopqc->ndhwc", depth, height, width, dy, optimize=True)


def max_unpool_forward(x: Array, positions: Array, y: Array) -> None:
    """Fill y with zeros, and x put at its positions; of several at one position the last stays."""
    N, C = y.shape[0], y.shape[4]
    flat = np.zeros((N, y[0, ..., 0].size if N else 0, C), y.dtype)
    for n in range(N):
        for pixel in np.ndindex(*x.shape[1:4]):
            place = positions[n, *pixel].astype(np.int64)
            met = (place >= 0) & (place < flat.shape[1])
            flat[n, place[met], np.flatnonzero(met)] = x[n, *pixel][met]
    y[...] = flat.reshape(y.shape)


def max_unpool_backward_input(dy: Array, positions: Array, dx: Array) -> None:
    """Fill dx with dy as it stands at the positions."""
    N, C = dx.shape[0], dx.shape[4]
    for n in range(N):
        flat = dy[n].reshape(-1, C)
        place = positions[n].astype(np.int64)
        met = (place >= 0) & (place < len(flat))
        dx[n] = np.where(
            met, np.take_along_axis(flat, np.where(met, place, 0).reshape(-1, C), 0).reshape(dx[n].shape), 0
        )
