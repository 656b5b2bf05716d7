"""A device that exists in tests alone: its arrays hide their numbers, as those on a graphics card do.

What would cross from host to device, or wait for it, without the backend's knowledge raises here. Kernels are those of
the reference room, and none is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastcnn.backend import Backend, import_kernels


class DeviceArray:
    """Numbers of the device: what has a shape, a dtype, slices and other shapes, and tells no number."""

    __array_ufunc__ = None  # NumPy's functions, and arithmetic with its arrays, raise a TypeError
    __hash__ = object.__hash__

    def __init__(self, hidden: np.ndarray) -> None:
        self._hidden = hidden
        self.shape, self.dtype, self.nbytes = hidden.shape, hidden.dtype, hidden.nbytes
        self.size, self.ndim = hidden.size, hidden.ndim

    def __len__(self) -> int:
        return len(self._hidden)

    def __getitem__(self, key: Any) -> DeviceArray:
        keys = key if isinstance(key, tuple) else (key,)
        assert all(isinstance(one, slice | int) or one in (None, ...) for one in keys), "only slices are views"
        return DeviceArray(self._hidden[(*keys, ...)])

    def reshape(self, *shape: Any) -> DeviceArray:
        other = self._hidden.reshape(*shape)
        assert np.shares_memory(other, self._hidden) or not other.size, "another shape would be a copy"
        return DeviceArray(other)

    def view(self, dtype: np.dtype) -> DeviceArray:
        return DeviceArray(self._hidden.view(dtype))

    def astype(self, dtype: np.dtype, copy: bool = True) -> DeviceArray:
        return DeviceArray(self._hidden.astype(dtype, copy=copy))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("an array of the device was read, or written, without the backend")

    __array__ = __array_function__ = __iter__ = __bool__ = __float__ = __int__ = __index__ = __setitem__ = _refuse
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = _refuse  # type: ignore[assignment]


class Kernels:
    """An operation of the reference room for arrays of the device; one of NumPy is refused."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if isinstance(found, type) or not callable(found):
            return found

        def kernel(*arguments: Any) -> Any:
            return found(*map(_revealed, arguments))

        setattr(self, name, kernel)
        return kernel


def _revealed(argument: Any) -> Any:
    assert not isinstance(argument, np.ndarray), "a kernel of the device got an array of the host"
    if isinstance(argument, tuple | list):
        make = getattr(argument, "_make", type(argument))  # of a named tuple
        return make(map(_revealed, argument))
    return argument._hidden if isinstance(argument, DeviceArray) else argument


class StrictBackend(Backend):
    """The device: nothing is fused, and nothing is kept."""

    name = "strict"
    alignment = 256

    def __init__(self) -> None:
        self.reads = 0  # how often somebody has waited for numbers

    def kernels(self, operation: str) -> Any:
        return Kernels(import_kernels("reference", operation))

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        return DeviceArray(np.frombuffer(b"\x7f" * (int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy())

    def zeros(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        return DeviceArray(np.zeros(shape, dtype))

    def upload(self, host: np.ndarray, out: Any) -> None:
        assert isinstance(host, np.ndarray)
        assert host.shape == out.shape
        np.copyto(out._hidden, host, casting="same_kind")

    def download(self, array: Any) -> np.ndarray:
        self.reads += 1
        return array._hidden.copy()

    def owns(self, value: object) -> bool:
        return isinstance(value, DeviceArray)
