"""Filter taps as strided views of a padded image: "pixel p * stride + r * dilation - pad" in NumPy.

    x (N, D, H, W, C)   pixels that tap (t, r, s) meets, over all outputs: (N, O, P, Q, C)

A forward pass reads the views; a backward pass adds to the views of a padded array of zeros and
keeps what lies inside the image.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.problem import Padding, Triple

Array = npt.NDArray[np.floating]
Epilogue = int | Callable[[Array], None]  # 0, 1 (ReLU), or what changes finished outputs in place


def each_tap(window: Triple) -> Iterator[Triple]:
    """Yield the positions (t, r, s) of a window of (T, R, S) pixels, s fastest."""
    T, R, S = window
    return product(range(T), range(R), range(S))


def pad(x: npt.NDArray, padding: Padding, overhang: Triple = (0, 0, 0)) -> npt.NDArray:
    """Return x between zeros: `padding` around it, and `overhang` more behind it."""
    (front, back), (top, bottom), (left, right) = padding
    deep, low, wide = overhang
    behind = ((front, back + deep), (top, bottom + low), (left, right + wide))
    return np.pad(x, ((0, 0), *behind, (0, 0)))


def inside(padded: npt.NDArray, padding: Padding, shape: tuple[int, ...]) -> npt.NDArray:
    """Return the view of the padded array that holds the image of this shape (N, D, H, W, C)."""
    starts = [before for before, _ in padding]
    box = [slice(start, start + size) for start, size in zip(starts, shape[1:4], strict=True)]
    return padded[:, box[0], box[1], box[2]]


def tap_view(
    padded: npt.NDArray, tap: Triple, output: tuple[int, ...], stride: Triple, dilation: Triple
) -> npt.NDArray:
    """Return the view (N, O, P, Q, C) of the pixels this tap meets, for outputs (O, P, Q)."""
    box = [
        slice(at * apart, at * apart + (size - 1) * step + 1, step)
        for at, apart, size, step in zip(tap, dilation, output, stride, strict=True)
    ]
    return padded[:, box[0], box[1], box[2]]


def apply_epilogue(epilogue: Epilogue, y: Array) -> None:
    """Apply an epilogue to finished outputs."""
    if callable(epilogue):
        epilogue(y)
    elif epilogue:
        np.maximum(y, 0, out=y)
