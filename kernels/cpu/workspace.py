"""Scratch memory of the kernels: one growing buffer per Python thread, purpose and dtype, aligned to cache lines.

Kernels allocate nothing themselves: a fresh allocation of this size would cost a page fault every 4 KiB, on every call.
"""

import threading

import numpy as np

LINE = 64  # bytes of a cache line; also the widest vector

_buffers = threading.local()


def scratch(purpose: str, elements: int, dtype: np.dtype) -> np.ndarray:
    """Return a 1-D array of at least `elements`, valid until this thread asks for the same purpose again."""
    held: dict[tuple[str, np.dtype], np.ndarray] | None = getattr(_buffers, "held", None)
    if held is None:
        held = _buffers.held = {}
    buffer = held.get((purpose, dtype))
    if buffer is None or buffer.size < elements:
        buffer = held[purpose, dtype] = aligned_empty(elements, dtype)
    return buffer


def aligned_empty(elements: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised 1-D array that starts on a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(elements * itemsize + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + elements * itemsize].view(dtype)


def held_bytes() -> int:
    """Return the bytes of scratch memory that the calling thread holds."""
    return sum(buffer.nbytes for buffer in getattr(_buffers, "held", {}).values())


def release() -> None:
    """Drop the calling thread's scratch memory; kernels make it again as they need it.

    >>> release()
    >>> held_bytes()
    0
    """
    getattr(_buffers, "held", {}).clear()
