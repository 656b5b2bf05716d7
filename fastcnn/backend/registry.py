"""The backends by name: each is made when it is first asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastcnn.backend.base import Backend
from fastcnn.errors import BackendError

_makers: dict[str, Callable[[], Backend]] = {}
_made: dict[str, Backend] = {}


def register(name: str, make: Callable[[], Backend]) -> None:
    """Let `get`, and networks, know a device by a name."""
    _makers[name] = make


@contextmanager
def registered(backend: Backend) -> Iterator[Backend]:
    """Let networks know a backend, by its name, for a while."""
    register(backend.name, lambda: backend)
    try:
        yield backend
    finally:
        del _makers[backend.name]
        _made.pop(backend.name, None)


def check_device(device: str) -> str:
    """Return `device`, or refuse a name that is no device; imports no kernels."""
    if device not in tuple(_makers):
        raise BackendError(f"device {device!r} was given: choose one of {', '.join(_makers)}.")
    return device


def get(device: str) -> Backend:
    """Return the backend of a device by name; its kernels are imported as they are needed.

    >>> get("reference").name
    'reference'
    """
    backend = _made.get(device)
    if backend is None:
        backend = _made.setdefault(check_device(device), _makers[device]())
    return backend
