"""The one place that picks a room of kernels: `get("cpu")`, `get("reference")`.

A Backend is what graph, plan and trainer see of a device: modules of kernels under the same names in
every room, and the few array operations that are not kernels. A module is imported when first asked
for, so `import fastcnn` loads no compiler.
"""

import os
from collections.abc import Callable
from ctypes import addressof
from functools import cache, cached_property
from importlib import import_module
from math import prod
from typing import Any, TypeAlias

import numpy as np

from fastcnn.arrays import Array, Shape
from fastcnn.concurrency.streams import Streams
from fastcnn.errors import BackendError

DEVICES = ("cpu", "reference")

Call: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]
"""A kernel and its arguments, ready to run."""

# Rows of vectors start on a cache line: no vector load of any width is split across two lines.
CACHE_LINE = 64

FEW_BYTES = 1 << 14  # which take about a microsecond to copy


class Backend:
    """One device: its kernels by operation (`backend.conv`, ...), and its arrays, NumPy's in both rooms.

    A module of kernels is imported at the first look.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, operation: str) -> Any:
        try:
            module = import_kernels(self.name, operation)
        except ModuleNotFoundError as error:
            if error.name != f"fastcnn.kernels.{self.name}.{operation}":
                raise  # a library is missing
            raise AttributeError(f"the room {self.name!r} has no kernels {operation!r}") from None
        setattr(self, operation, module)
        return module

    def __reduce__(self) -> tuple[Any, ...]:
        return get, (self.name,)

    @cached_property
    def _workspace(self) -> Any:
        return import_kernels("cpu", "runtime.workspace")

    @cached_property
    def streams(self) -> Streams:
        """What passes through networks compute on; the reference room has no scratch memory."""
        if self.name == "reference":
            return Streams(os.cpu_count() or 1, lambda turn: None, lambda workspace: workspace)
        workspace = self._workspace
        return Streams(
            import_kernels("cpu", "runtime.cpu_info").available_cores(),
            lambda turn: workspace.Workspace(turn=addressof(turn)),
            workspace.enter,
        )

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array whose first element stands on a cache line, not filled."""
        return _aligned(np.empty, shape, dtype)

    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array of zeros whose first element stands on a cache line."""
        return _aligned(np.zeros, shape, dtype)

    def from_host(self, array: Array) -> Array:
        """Return the device's copy of a NumPy array."""
        out = self.empty(array.shape, array.dtype)
        np.copyto(out, array)
        return out

    def to_host(self, array: Array) -> Array:
        """Return a NumPy copy of a device array."""
        return array.copy()

    def view(self, array: Array) -> Array:
        """Return another array on the same memory, which lives as long as any view made of it in turn."""
        return np.asarray(array.data)

    def copy(self, source: Array, out: Array) -> None:
        """Fill `out` with `source`, a NumPy or device array, cast to the dtype of `out`."""
        np.copyto(out, source, casting="same_kind")

    def writer(self, out: Array) -> Callable[[Array], None]:
        """Return a function that fills `out` with arrays of its shape, as `copy` does.

        Few bytes are copied without handing Python's lock to other threads, which would cost more than the copy.
        """
        if not 0 < out.nbytes <= FEW_BYTES:
            return lambda source: self.copy(source, out)
        memory, dtype = out.data.cast("B"), out.dtype

        def write(source: Array) -> None:
            if source.dtype is dtype and source.flags.c_contiguous:
                memory[:] = source.data.cast("B")
            else:
                self.copy(source, out)

        return write

    def gather(self, source: Array, indices: Array, out: Array) -> None:
        """Fill `out` with the rows of `source` at valid `indices`, cast to the dtype of `out`."""
        if source.dtype != out.dtype:
            self.copy(source[indices], out)
            return
        # "clip" writes straight into `out`; the default mode fills a second array first.
        np.take(source, indices, axis=0, out=out, mode="clip")

    def add(self, a: Array, b: Array, out: Array) -> None:
        """Fill `out` with a + b; `out` may be either of them."""
        np.add(a, b, out=out)

    def all_finite(self, array: Array) -> bool:
        """Say whether no element is infinite or NaN."""
        count = np.empty(1, np.int64)
        self.optimizer.non_finite(array.reshape(-1), count)
        return not count[0]

    def scratch_bytes(self, run: Callable[[], object]) -> int:
        """Return the bytes of scratch memory that the kernels called by `run()` hold, and start none of them.

        The reference kernels hold none: what NumPy needs within a call is not counted.
        """
        if self.name == "reference":
            return 0
        with self._workspace.rehearsal(lambda elements, dtype: self.empty((elements,), dtype)):
            run()
            return int(self._workspace.held_bytes())

    def prepare(self, run: Callable[[], object]) -> None:
        """Compile the kernels called by `run()`, and start none of them; the reference kernels need nothing."""
        if self.name == "reference":
            return
        with self._workspace.rehearsal(
            lambda elements, dtype: self.empty((elements,), dtype),
            import_kernels("cpu", "runtime.native_launch").prepare,
        ):
            run()


def _aligned(allocate: Any, shape: Shape, dtype: np.dtype[Any]) -> Array:
    size = prod(shape) * dtype.itemsize
    buffer = allocate(size + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    aligned: Array = buffer[start : start + size].view(dtype).reshape(shape)
    return aligned


def import_kernels(device: str, name: str) -> Any:
    """Return a module of a room; BackendError where the environment asks it for the impossible."""
    try:
        return import_module(f"fastcnn.kernels.{device}.{name}")
    except ValueError as error:
        raise BackendError(str(error)) from None


def check_device(device: str) -> str:
    """Return `device`, or refuse a name that is no device; imports nothing."""
    if device not in DEVICES:
        raise BackendError(f"device {device!r} was given: choose one of {', '.join(DEVICES)}.")
    return device


def get(device: str) -> Backend:
    """Return the backend of a device by name; its kernels are imported as they are needed.

    >>> get("reference").name
    'reference'
    """
    return _load(check_device(device))


_load = cache(Backend)
