"""Arrays at the door: dtypes, layouts and the two converters for channels-first arrays.

    N batch, C channels, * any number of spatial axes (at least one)

Inside fastcnn every image is channels last, (N, *, C), and every array is float32 or float64.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastcnn.errors import ArgumentError, DataError, ShapeError

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def from_nchw(x: ArrayLike) -> Array:
    """Turn a channels-first array (N, C, *) into a contiguous channels-last one (N, *, C).

    Parameters
    ----------
    x
        (N, C, ...), of any dtype.

    Raises
    ------
    ShapeError
        If it has fewer than three axes.

    >>> from_nchw(np.zeros((8, 3, 32, 30))).shape
    (8, 32, 30, 3)
    """
    array = np.asarray(x)
    _require_images(array, "from_nchw", "(N, C, ...)")
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def to_nchw(x: ArrayLike) -> Array:
    """Turn a channels-last array (N, *, C) into a contiguous channels-first one (N, C, *).

    Parameters
    ----------
    x
        (N, ..., C), of any dtype.

    Raises
    ------
    ShapeError
        If it has fewer than three axes.

    >>> to_nchw(np.zeros((8, 32, 30, 3))).shape
    (8, 3, 32, 30)
    """
    array = np.asarray(x)
    _require_images(array, "to_nchw", "(N, ..., C)")
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def _require_images(array: Array, function: str, layout: str) -> None:
    if array.ndim < 3:
        raise ShapeError(
            f"{function} got an array of shape {array.shape}, and needs at least three axes "
            f"{layout}: add the missing ones with reshape."
        )


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype, or refuse one that no kernel takes."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in FLOATS:
        raise ArgumentError(f"dtype {dtype!r} was given: choose float32 or float64.")
    return found


def wider(own: np.dtype[Any], given: np.dtype[Any]) -> np.dtype[Any]:
    """Return the wider of a layer's dtype and an array's: float64 if either is wider than 32 bits.

    >>> wider(np.dtype("float32"), np.dtype("float16")), wider(FLOATS[0], FLOATS[1])
    (dtype('float32'), dtype('float64'))
    """
    return FLOATS[1] if max(own.itemsize, given.itemsize) > FLOATS[0].itemsize else FLOATS[0]


def as_float(x: ArrayLike, what: str) -> Array:
    """Return `x` as an array of floats of any width; refuse integers, which hide their scale."""
    try:
        array = np.asarray(x)
    except ValueError:
        array = np.empty((), object)
    if array.dtype.kind in "iub":
        raise DataError(
            f"{what} has dtype {array.dtype}, and floats are needed: "
            "convert it first, bytes of images for example by x.astype('float32') / 255."
        )
    if array.dtype.kind != "f":
        raise DataError(f"{what} is no array of real numbers: give a NumPy array of floats.")
    return array


def channels_first_hint(got: Shape, needed: Shape) -> str:
    """Return advice for shapes (without batch) where the channel axis seems to stand first."""
    if len(got) == len(needed) > 1 and got != needed and (*got[1:], got[0]) == needed:
        return "it looks channels-first: convert it with fastcnn.from_nchw."
    return ""


def check_gradient(given: Array, own: Array) -> None:
    """Refuse a gradient by an output that has another shape than that."""
    if given.shape != own.shape:
        raise ShapeError(
            f"backward got a gradient of shape {given.shape}, and the output has shape {own.shape}: give one of that "
            "shape."
        )
