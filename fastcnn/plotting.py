"""Pictures of filters: each a tile, drawn by matplotlib without a display.

    weight (*filter, C, K): a tile for each output channel k, in colour where C = 3, else C grey tiles side by side

The colours run from -v to v, v being the largest magnitude in the filter of k: mid-grey is 0.
"""

from __future__ import annotations

from io import BytesIO
from math import ceil, sqrt
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastcnn.arrays import Array
from fastcnn.errors import ArgumentError, BackendError, DataError
from fastcnn.files import write_atomically

FORMATS = ("jpg", "pdf", "png", "svg")
INCHES = 0.8  # of a tile
TITLE_INCHES = 0.4
MOST_TILES = 4096  # more would each have less than a pixel's worth of attention, and fill the memory
RGB = 3


def check_plot(path: str | PathLike[str]) -> Path:
    """Return the path, or refuse before any work what could not be drawn at its end.

    Raises
    ------
    ArgumentError
        If the file's ending names none of FORMATS.
    BackendError
        If matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.removeprefix(".").lower() not in FORMATS:
        raise ArgumentError(f"the plot {target} has no ending that can be drawn: use one of {', '.join(FORMATS)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendError('A plot needs matplotlib, which is not installed; run: pip install "fastcnn[plot]"') from (
            error
        )
    return target


def tiles(weight: Array) -> Array:
    """Return the filters of a weight (*filter, C, K) as pictures in [0, 1], 0.5 being a weight of 0.

    Filters of one axis become a row, those of three axes their slices side by side.

    Returns
    -------
    (K, 1, R, S, 3) in colour where C = 3 and the filter has two axes, else (K, C, R, S) in grey.

    >>> tiles(np.zeros((5, 5, 3, 8))).shape, tiles(np.zeros((5, 5, 1, 8))).shape
    ((8, 1, 5, 5, 3), (8, 1, 5, 5))
    """
    w = weight.astype(np.float64)
    largest = np.abs(w).max(axis=tuple(range(w.ndim - 1)))
    w = w / np.where(largest > 0, 2 * largest, 1) + 0.5
    if w.ndim == 3:
        w = w[np.newaxis]
    if w.ndim == 5:
        T, R, S, C, K = w.shape
        w = w.transpose(1, 0, 2, 3, 4).reshape(R, T * S, C, K)
    elif weight.ndim == 4 and w.shape[2] == RGB:
        return w.transpose(3, 0, 1, 2)[:, np.newaxis]
    return w.transpose(3, 2, 0, 1)


def plot_filters(weight: Array, path: str | PathLike[str], title: str = "") -> None:
    """Draw the filters of a weight (*filter, C, K) into a file of a format in FORMATS.

    Raises
    ------
    ArgumentError, BackendError
        As `check_plot`.
    DataError
        If a weight is not finite, there are more than MOST_TILES tiles, or the file cannot be written.
    """
    target = check_plot(path)
    if not np.isfinite(weight).all():
        raise DataError("the filters hold NaN or infinity, and cannot be drawn: train the network anew.")
    pictures = tiles(weight)
    K, C = pictures.shape[:2]
    if K * C > MOST_TILES:
        raise DataError(f"the filters make {K * C:,} tiles, and at most {MOST_TILES:,} are drawn: name another layer.")
    columns, rows = layout(K, C, pictures.shape[3] / pictures.shape[2])
    write_figure(_figure(pictures, columns, rows, title), target)


def write_figure(figure: Any, path: Path) -> None:
    """Put a figure of matplotlib into a file of the format that its ending names, in one step, or raise a DataError."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, format=path.suffix.removeprefix(".").lower())
    try:
        write_atomically(path, drawn.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None


def layout(K: int, C: int, aspect: float) -> tuple[int, int]:
    """Return columns and rows of tiles: nearly square for C = 1, else the C tiles of a filter in a row.

    >>> layout(16, 1, 1.0), layout(10, 1, 1.0), layout(8, 6, 1.0)
    ((4, 4), (4, 3), (6, 8))
    """
    if C > 1:
        return C, K
    columns = min(K, max(1, ceil(sqrt(K / aspect))))
    return columns, ceil(K / columns)


def _figure(pictures: Array, columns: int, rows: int, title: str) -> Any:
    from matplotlib.figure import Figure  # a figure of its own, without pyplot, needs no display

    tall, wide = pictures.shape[2:4]
    larger = max(tall, wide)
    size = (max(3.0, columns * INCHES * wide / larger), rows * INCHES * tall / larger + TITLE_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=8)
    flat = pictures.reshape(-1, *pictures.shape[2:])
    for number, axes in enumerate(np.atleast_1d(figure.subplots(rows, columns)).flat):
        axes.axis("off")
        if number < len(flat):
            axes.imshow(flat[number], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure
