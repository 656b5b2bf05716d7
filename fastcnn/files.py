"""The one door for files that fastcnn writes: a reader finds the old file or the new one whole, never a part.

Data goes into a part file beside the target, which then takes the target's name in one step. A part file belongs to
one call, and its name says which process makes it: several may write to one path, and the last one to end counts. What
killed processes have left of theirs is removed by the next call for that path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np

from fastcnn.arrays import Array
from fastcnn.errors import ArgumentError

LONGEST_STEM = 160  # bytes: file systems take names of 255, and a part's name holds more than its target's
OLD = 24 * 3600  # seconds after which a part file is nobody's, if its process cannot be asked

_calls = count()
_being_written: set[str] = set()  # names of parts of this process, which is alive, but whose number another had before


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Put data into the file at path, or raise OSError and leave what was there.

    A symbolic link stays, and its target is replaced; a file that was there hands on its mode and owner. What is no
    file, such as a pipe or a terminal, is written to as it is.
    """
    target = _target(Path(path))
    before = target.stat() if target.exists() else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        target.write_bytes(data)  # a folder refuses by itself
        return
    _remove_leftovers(target)
    part = target.with_name(f"{_prefix(target)}{_host()}-{os.getpid()}-{next(_calls)}.part")
    _being_written.add(part.name)
    try:
        with os.fdopen(_create(part, before), "wb") as file:
            file.write(data)
        os.replace(part, target)
    except BaseException:  # Ctrl-C, too
        part.unlink(missing_ok=True)
        raise
    finally:
        _being_written.discard(part.name)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Array], header: Mapping[str, str]) -> None:
    """Put arrays, in any order in memory, into a safetensors file; OSError as `write_atomically`.

    >>> import tempfile
    >>> from safetensors.numpy import load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/a.safetensors", {"a": np.arange(4.0).reshape(2, 2).T}, {})
    ...     load_file(f"{folder}/a.safetensors")["a"]
    array([[0., 2.],
           [1., 3.]])
    """
    from safetensors.numpy import save as serialize

    write_atomically(path, serialize({name: plain(array, name) for name, array in tensors.items()}, dict(header)))


def plain(array: Array, name: str) -> Array:
    """Return an array as files hold it, C-contiguous and in this machine's byte order, or refuse what they do not hold.

    Some versions of safetensors write the memory of an array whatever its order is.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{name!r} names an array and is no text in UTF-8: give it another name.") from None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ArgumentError(f"{name} has type {array.dtype}, which no file holds: convert it to float32 or float64.")
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _target(path: Path) -> Path:
    """Return the file that a path leads to over symbolic links; it need not be there yet."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    # A link of /proc, as /dev/stdout leads to, has no file behind its name: open it as it is.
    return target if target.exists() or not path.exists() else path


def _create(part: Path, before: os.stat_result | None) -> int:
    """Make a part file with the mode and, as far as allowed, the owner of what it replaces; return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode) & 0o777
    descriptor = os.open(part, flags, mode)
    if before is not None and hasattr(os, "fchmod"):
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
            with suppress(OSError):  # another's file in a folder of ours becomes ours
                os.fchown(descriptor, before.st_uid, before.st_gid)
        if stat.S_IMODE(made.st_mode) != mode:
            os.fchmod(descriptor, mode)
    return descriptor


def _prefix(target: Path) -> str:
    """Return how the names of a file's parts begin."""
    name = target.name
    if len(os.fsencode(name)) > LONGEST_STEM:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


def _host() -> str:
    """Return a word for this machine: a process is known by its number on its own machine only."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _remove_leftovers(target: Path) -> None:
    """Remove the parts of a file whose processes are gone."""
    prefix = _prefix(target)
    with suppress(OSError):  # a folder that cannot be listed, or another's part: the new file counts
        names = [name for name in os.listdir(target.parent) if name.startswith(prefix) and name.endswith(".part")]
        for name in names:
            if _is_left_over(target.with_name(name), name.removeprefix(prefix).removesuffix(".part")):
                target.with_name(name).unlink(missing_ok=True)


def _is_left_over(part: Path, maker: str) -> bool:
    """Say whether nobody writes a part file any more; `maker` is "host-process-call"."""
    host, _, rest = maker.partition("-")
    process = rest.partition("-")[0] or maker  # a part of old has the process alone
    if not process.isdecimal():
        return False
    if host == _host():
        if int(process) == os.getpid():
            return part.name not in _being_written
        if os.name == "posix" and not _is_alive(int(process)):
            return True
    try:
        return time.time() - part.stat().st_mtime > OLD
    except OSError:
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
