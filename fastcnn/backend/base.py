"""What graph, plan, layers, losses and optimizers may ask for of a device, whatever its arrays are.

Kernels are found by operation: `backend.conv` is a module with the same names in every room, imported when first asked
for, so `import fastcnn` loads no compiler. Numbers cross between host and device in `upload`, `write`, `download` and
`read` only. An engine that keeps to that runs on arrays that NumPy cannot see into: it needs their shape, dtype,
nbytes, size, reshape, view and slices.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from fastcnn.arrays import Array, Shape
from fastcnn.backend.fusions import Fused
from fastcnn.concurrency.streams import Streams
from fastcnn.errors import BackendError

Call: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]
"""A kernel and its arguments, ready to run."""


class Backend(ABC):
    """One device: its kernels by operation (`backend.conv`, ...), and its arrays."""

    name: str
    """What `get` and layers call it."""

    alignment: int
    """The bytes at whose multiples parameters and the arrays of plans start, within memory that starts there, too."""

    fuses: frozenset[Fused] = frozenset()
    """Which fused operations its kernels have; without any, all networks run and train."""

    keeps_constants: bool = False
    """Whether programs may keep what they make of parameters, which the engine then watches for changes."""

    def __getattr__(self, operation: str) -> Any:
        if operation.startswith("_"):
            raise AttributeError(operation)
        module = self.kernels(operation)
        setattr(self, operation, module)
        return module

    def kernels(self, operation: str) -> Any:
        """Return the kernels of an operation, as a module of the room does; AttributeError where it has none."""
        try:
            return import_kernels(self.name, operation)
        except ModuleNotFoundError as error:
            if error.name != f"fastcnn.kernels.{self.name}.{operation}":
                raise  # a library is missing
            raise AttributeError(f"the room {self.name!r} has no kernels {operation!r}") from None

    # Memory

    @abstractmethod
    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array of the device, aligned and not filled."""

    @abstractmethod
    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array of zeros of the device, aligned."""

    @abstractmethod
    def upload(self, host: Array, out: Array) -> None:
        """Fill a device array with a NumPy array of its shape, cast to its dtype."""

    @abstractmethod
    def download(self, array: Array) -> Array:
        """Return a NumPy copy of a device array."""

    @abstractmethod
    def owns(self, value: object) -> bool:
        """Say whether something is an array of the device."""

    def from_host(self, array: Array) -> Array:
        """Return the device's copy of a NumPy array."""
        out = self.empty(array.shape, array.dtype)
        self.upload(array, out)
        return out

    def resident(self, array: Array) -> Array:
        """Return a NumPy array as kernels can read it: a copy, or on the host the array itself."""
        return self.from_host(array)

    def writer(self, out: Array) -> Callable[[Array], None]:
        """Return a function that fills `out` with NumPy arrays of its shape, as `upload` does."""
        return lambda host: self.upload(host, out)

    def write(self, out: Array, numbers: Sequence[float]) -> None:
        """Fill a small device array (n,) with numbers, as before a step."""
        self.upload(np.array(numbers, out.dtype), out)

    def read(self, array: Array) -> list[Any]:
        """Return the numbers of a small device array (n,), as after a step: who asks waits for what fills it."""
        numbers: list[Any] = self.download(array).tolist()
        return numbers

    def view(self, array: Array) -> Array:
        """Return an array on the same memory for others; if the device keeps constants, one of its own.

        It then lives as long as any view that is made of it in turn.
        """
        return array

    # Between arrays of the device, at once; programs capture the operations `memory.copy` and `memory.fill` instead

    def copy(self, source: Array, out: Array) -> None:
        """Fill `out` with `source`, cast to the dtype of `out`."""
        self.memory.copy(source, out)

    def fill(self, out: Array, value: float) -> None:
        """Fill `out` with a number."""
        self.memory.fill(out, value)

    def gather(self, source: Array, rows: Array, out: Array) -> None:
        """Fill `out` with those rows of a `resident` array at valid indices, a NumPy array, cast to its dtype."""
        self.memory.gather(source, self.resident(rows), out)

    def all_finite(self, array: Array) -> bool:
        """Say whether no element is infinite or NaN."""
        count = self.zeros((1,), np.dtype(np.int64))
        self.optimizer.non_finite(array.reshape(-1), count)
        return self.read(count) == [0]

    # Running

    @cached_property
    def streams(self) -> Streams:
        """What passes through networks compute on."""
        return Streams(os.cpu_count() or 1, lambda turn: None, lambda workspace: workspace)

    def unwritten(self) -> "Backend":
        """Return a backend to plan on, of the same kernels: if it can, its arrays take no memory until written into."""
        return self

    def scratch_bytes(self, run: Callable[[], object]) -> int:
        """Return the bytes of scratch memory that the kernels called by `run()` hold, and start none of them."""
        return 0

    def prepare(self, run: Callable[[], object]) -> None:
        """Compile the kernels called by `run()`, and start none of them; by default nothing needs it."""
        return


def import_kernels(device: str, name: str) -> Any:
    """Return a module of a room; BackendError where the environment asks it for the impossible."""
    try:
        return import_module(f"fastcnn.kernels.{device}.{name}")
    except ValueError as error:
        raise BackendError(str(error)) from None
