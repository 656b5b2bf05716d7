"""Fixed filters as ready weights: box, Gaussian, Sobel, Laplacian, sharpen.

    weight (R, S, 1, 1), or with `channels` (R, S, 1, C): the same filter for each of C channels

Layers correlate: filter and window meet pixel by pixel, unflipped. So `sobel_x` is positive where an image grows
brighter to the right, `sobel_y` where it does downwards.

An edge in both channels of an image, found by a convolution in as many groups as there are channels:

>>> import numpy as np
>>> from fastcnn import Conv2d, filters
>>> image = np.zeros((1, 3, 4, 2))
>>> image[:, :, 2:, 0] = 1.0  # channel 0: bright from column 2 on
>>> image[:, :, 2:, 1] = 5.0  # channel 1: brighter
>>> layer = Conv2d(2, 2, 3, groups=2, bias=False, device="reference")
>>> layer.params["weight"] = filters.sobel_x(channels=2)
>>> layer.forward(image)[0, 0].T.tolist()
[[4.0, 4.0], [20.0, 20.0]]

Source: Gonzalez and Woods, Digital Image Processing, chapter 3.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Array
from fastcnn.errors import ArgumentError
from fastcnn.shapes import IntOrAxes, is_number, per_axis, whole

# A Gaussian is cut where it has fallen to 1% of its height.
DEVIATIONS = 3


@checks_arguments
def box(size: IntOrAxes, channels: int = 1) -> Array:
    """Return the mean of a window of `size` pixels, as float64.

    Parameters
    ----------
    size
        One number >= 1, or (rows, columns).
    channels
        C of the weight (R, S, 1, C), at least 1.

    >>> box(3)[:, :, 0, 0].round(3).tolist()
    [[0.111, 0.111, 0.111], [0.111, 0.111, 0.111], [0.111, 0.111, 0.111]]
    """
    R, S = per_axis(size, 2, 1, "size")
    return _weight(np.full((R, S), 1 / (R * S)), channels)


@checks_arguments
def gaussian(sigma: float, size: int | Sequence[int] | None = None, channels: int = 1) -> Array:
    """Return a Gaussian of `sigma` pixels that sums to 1, as float64.

    Parameters
    ----------
    sigma
        The deviation in pixels, above 0.
    size
        One number >= 1, or (rows, columns), None for 2 * ceil(3 * sigma) + 1; an even one has its centre between two
        pixels.
    channels
        C of the weight (R, S, 1, C), at least 1.

    >>> gaussian(1.0, size=3)[:, :, 0, 0].round(3).tolist()
    [[0.075, 0.124, 0.075], [0.124, 0.204, 0.124], [0.075, 0.124, 0.075]]
    """
    if not is_number(sigma) or sigma <= 0:
        raise ArgumentError(f"sigma={sigma!r} was given: give a number of pixels > 0.")
    rows, columns = per_axis(2 * ceil(DEVIATIONS * sigma) + 1 if size is None else size, 2, 1, "size")
    return _weight(np.multiply.outer(_bell(rows, float(sigma)), _bell(columns, float(sigma))), channels)


def _bell(size: int, sigma: float) -> Array:
    # The nearest pixels' own exponent is taken off, so that no bell is too narrow for its sum to be above zero.
    exponent = ((np.arange(size) - (size - 1) / 2) / sigma) ** 2 / 2
    bell = np.exp(exponent.min() - exponent)
    values: Array = bell / bell.sum()
    return values


@checks_arguments
def sobel_x(channels: int = 1) -> Array:
    """Return the derivative along a row, smoothed along the column: 8 times the slope per pixel, as float64.

    Parameters
    ----------
    channels
        C of the weight (3, 3, 1, C), at least 1.

    >>> sobel_x()[:, :, 0, 0].tolist()
    [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]
    """
    return _weight(np.multiply.outer([1, 2, 1], [-1, 0, 1]), channels)


@checks_arguments
def sobel_y(channels: int = 1) -> Array:
    """Return the derivative along a column, smoothed along the row: 8 times the slope per pixel, as float64.

    Parameters
    ----------
    channels
        C of the weight (3, 3, 1, C), at least 1.

    >>> sobel_y()[:, :, 0, 0].tolist()
    [[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]]
    """
    return _weight(np.multiply.outer([-1, 0, 1], [1, 2, 1]), channels)


@checks_arguments
def laplacian(channels: int = 1) -> Array:
    """Return the sum of the second derivatives, from the four neighbours, as float64.

    Parameters
    ----------
    channels
        C of the weight (3, 3, 1, C), at least 1.

    >>> laplacian()[:, :, 0, 0].tolist()
    [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]
    """
    return _weight([[0, 1, 0], [1, -4, 1], [0, 1, 0]], channels)


@checks_arguments
def sharpen(channels: int = 1) -> Array:
    """Return the pixel less the Laplacian, which sums to 1, as float64.

    Parameters
    ----------
    channels
        C of the weight (3, 3, 1, C), at least 1.

    >>> sharpen()[:, :, 0, 0].tolist()
    [[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]]
    """
    return _weight([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], channels)


def _weight(values: ArrayLike, channels: int) -> Array:
    """Return (R, S, 1, C) from (R, S)."""
    image = np.asarray(values, np.float64)[:, :, np.newaxis, np.newaxis]
    return np.repeat(image, whole(channels, 1, "channels"), axis=3)
