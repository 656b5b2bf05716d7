"""Numbers moved about in memory: copies from one dtype to another, one number everywhere, and chosen rows."""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array


def copy(source: Array, out: Array) -> None:
    """Fill out with source, an array of its shape, cast to the dtype of out."""
    np.copyto(out, source, casting="unsafe")


def fill(out: Array, value: float) -> None:
    """Fill out with a number."""
    out.fill(value)


def gather(source: Array, rows: npt.NDArray[np.int64], out: Array) -> None:
    """Fill out with those rows of source, at valid indices, cast to the dtype of out."""
    if source.dtype != out.dtype:
        np.copyto(out, source[rows], casting="same_kind")
        return
    # "clip" writes straight into `out`; the default mode fills a second array first.
    np.take(source, rows, axis=0, out=out, mode="clip")
