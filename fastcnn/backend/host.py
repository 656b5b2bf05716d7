"""The two rooms whose arrays are NumPy's: "reference", plain NumPy, and "cpu", compiled kernels."""

import mmap
import sys
from collections.abc import Callable, Sequence
from ctypes import addressof
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from fastcnn.arrays import Array, Shape
from fastcnn.backend import registry
from fastcnn.backend.base import Backend, import_kernels
from fastcnn.backend.fusions import Fused
from fastcnn.concurrency.streams import Streams

# Rows of vectors start on a cache line: no vector load of any width is split across two lines.
CACHE_LINE = 64

FEW_BYTES = 1 << 14  # which take about a microsecond to copy

LARGE = 1 << 20  # bytes from which on an array has a mapping of its own: smaller ones would waste most of a page

# Linux's flag for a mapping that is not held against the memory there is; Python 3.11 has no name for it.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class HostBackend(Backend):
    """NumPy arrays, and the kernels of a room of that name in plain Python."""

    alignment = CACHE_LINE
    fuses = frozenset(Fused)
    keeps_constants = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return registry.get, (self.name,)

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array whose first element stands on a cache line, not filled."""
        return _aligned(np.empty, shape, dtype)

    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array of zeros whose first element stands on a cache line."""
        return _aligned(np.zeros, shape, dtype)

    def upload(self, host: Array, out: Array) -> None:
        """Fill `out` with an array of its shape, cast to its dtype."""
        np.copyto(out, host, casting="same_kind")

    def download(self, array: Array) -> Array:
        """Return a copy."""
        return array.copy()

    def owns(self, value: object) -> bool:
        """Say whether something is a NumPy array."""
        return isinstance(value, np.ndarray)

    def resident(self, array: Array) -> Array:
        """Return the array itself."""
        return array

    def writer(self, out: Array) -> Callable[[Array], None]:
        """Return a function that fills `out` with arrays of its shape, as `upload` does.

        Few bytes are copied without handing Python's lock to other threads, which would cost more than the copy.
        """
        if not 0 < out.nbytes <= FEW_BYTES:
            return lambda host: self.upload(host, out)
        memory, dtype = out.data.cast("B"), out.dtype

        def write(host: Array) -> None:
            if host.dtype is dtype and host.flags.c_contiguous:
                memory[:] = host.data.cast("B")
            else:
                self.upload(host, out)

        return write

    def write(self, out: Array, numbers: Sequence[float]) -> None:
        """Fill a small array (n,) with numbers."""
        out[:] = numbers

    def read(self, array: Array) -> list[Any]:
        """Return the numbers of a small array (n,)."""
        numbers: list[Any] = array.tolist()
        return numbers

    def view(self, array: Array) -> Array:
        """Return another array on the same memory, which lives as long as any view made of it in turn."""
        return np.asarray(array.data)

    def copy(self, source: Array, out: Array) -> None:
        """Fill `out` with `source`, cast to the dtype of `out`."""
        np.copyto(out, source, casting="same_kind")

    def fill(self, out: Array, value: float) -> None:
        """Fill `out` with a number."""
        out.fill(value)

    def unwritten(self) -> "Backend":
        """Return a backend whose large arrays take addresses, and no memory until somebody writes into them."""
        return _Unwritten(self.name)


class CpuBackend(HostBackend):
    """Compiled kernels: they have scratch memory, and can be called without being started."""

    def unwritten(self) -> "Backend":
        """Return a backend whose large arrays take addresses, and no memory until somebody writes into them."""
        return _UnwrittenCpu(self.name)

    @cached_property
    def _workspace(self) -> Any:
        return import_kernels("cpu", "runtime.workspace")

    @cached_property
    def streams(self) -> Streams:
        """What passes through networks compute on: scratch memory of their own, for as many as there are cores."""
        workspace = self._workspace
        return Streams(
            import_kernels("cpu", "runtime.cpu_info").available_cores(),
            lambda turn: workspace.Workspace(turn=addressof(turn)),
            workspace.enter,
        )

    def scratch_bytes(self, run: Callable[[], object]) -> int:
        """Return the bytes of scratch memory that the kernels called by `run()` hold, and start none of them."""
        with self._workspace.rehearsal(self._scratch):
            run()
            return int(self._workspace.held_bytes())

    def prepare(self, run: Callable[[], object]) -> None:
        """Compile the kernels called by `run()`, and start none of them."""
        with self._workspace.rehearsal(self._scratch, import_kernels("cpu", "runtime.native_launch").prepare):
            run()

    def _scratch(self, elements: int, dtype: np.dtype[Any]) -> Array:
        return self.empty((elements,), dtype)


class _Unwritten(HostBackend):
    """Memory that large arrays take addresses of only, until somebody writes into it."""

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return an array of zeros."""
        size = prod(shape) * dtype.itemsize
        if size < LARGE:
            return super().zeros(shape, dtype)
        # More than the machine has may be asked for, too: how much a network lacks is worth knowing.
        how = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE} if hasattr(mmap, "MAP_ANONYMOUS") else {}
        array: Array = np.frombuffer(mmap.mmap(-1, size, **how), dtype).reshape(shape)
        return array

    zeros = empty


class _UnwrittenCpu(_Unwritten, CpuBackend):
    """The same for compiled kernels."""


def _aligned(allocate: Any, shape: Shape, dtype: np.dtype[Any]) -> Array:
    size = prod(shape) * dtype.itemsize
    buffer = allocate(size + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    aligned: Array = buffer[start : start + size].view(dtype).reshape(shape)
    return aligned
