"""When to store past the caches: non-temporal (streaming) stores, which read no line before they write it."""

import numpy as np

from fastcnn.kernels.cpu.runtime.cpu_info import cache_bytes


def streams(out: np.ndarray, arrays: int = 2, lanes: int = 0, row: int = 0) -> bool:
    """Say whether to store an array with non-temporal stores: the caches do not hold it and what it is made from.

    Parameters
    ----------
    arrays
        How many of its size pass through the caches, itself included.
    lanes
        Elements of a vector, where only whole vectors are stored so: then it must begin at a multiple of one.
    row
        All that is stored at once begins at a multiple of so many elements, which must be one of vectors, too.
    """
    if arrays * out.nbytes <= cache_bytes().L3:
        return False
    vector = lanes * out.itemsize
    return not vector or (out.ctypes.data % vector == 0 and row * out.itemsize % vector == 0)
