"""Where the machine code of the kernels is kept: in folders and files that nobody else can write, each with a checksum.

What lies here is run as it is. So a file is read only if this user or root owns it and no one else may write it, and
only if its checksum agrees: one that a full disk or a crash has cut short, or a bit has changed in, counts as missing.
`places` finds the folders once a process: one that others have filled may be read only, and new code then goes to
another. What cannot be kept is compiled again in the next process, and a warning says so, once.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

DIGEST_BYTES = 32
KINDS = (".nbc", ".o")  # what Numba compiled, and what `machine_code.py` did
PART = ".part"  # the end of a file's name while it is being written
ABANDONED = 24 * 3600  # seconds after which nobody is still writing
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ADVICE = "set FASTCNN_CACHE_DIR to a folder of your own that no one else can write"


class Places(NamedTuple):
    """The folders that are read, in their order, and the one that is written, None where none can be.

    `reason` is why those before it are not written, "" where there are none; `is_first_read`, whether the first may be
    read.
    """

    read: tuple[Path, ...]
    written: Path | None
    reason: str
    is_first_read: bool


class Kept(NamedTuple):
    """What the folders hold: compiled kernels, their bytes, and the paths of those that cannot be used."""

    files: int
    size: int
    damaged: list[Path]


def find(name: str) -> Places:
    """Find the folders called `name`, and make the first that can be made.

    They stand under FASTCNN_CACHE_DIR, else under the user's cache folder, else in the folder for temporary files.
    """
    read: list[Path] = []
    reasons: list[str] = []
    written: Path | None = None
    is_first_read: bool | None = None
    for root, may_be_link in _roots():
        flaw = _flaw_of_both(root, name, may_be_link) if root else "this user has no home folder"
        is_first_read = not flaw if is_first_read is None else is_first_read
        if root and not flaw:
            read.append(root / name)
            flaw = _why_not_written(root / name)
        if root and not flaw:
            written = root / name
            break
        reasons.append(flaw)
    else:
        with contextlib.suppress(OSError):
            written = Path(tempfile.mkdtemp(prefix="fastcnn-"))
            read.append(written)
            _passing.append((written, os.getpid()))
    return Places(tuple(read), written, " and ".join(reasons), bool(is_first_read))


def _roots() -> Iterator[tuple[Path | None, bool]]:
    """Yield the folders to look in (None for a home that there is not), and whether each may be a symbolic link."""
    if chosen := os.environ.get("FASTCNN_CACHE_DIR"):
        yield Path(chosen).absolute(), True
    home = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not home.is_absolute():
        with contextlib.suppress(RuntimeError):  # neither HOME nor the list of users names one
            home = Path.home() / ".cache"
    if home.is_absolute():
        _close_to_group(home / "fastcnn")
    yield (home / "fastcnn" if home.is_absolute() else None), True
    with contextlib.suppress(OSError):  # there may be no folder for temporary files, either
        yield Path(tempfile.gettempdir()) / f"fastcnn-{_user() if hasattr(os, 'geteuid') else 'cache'}", False


def _close_to_group(folder: Path) -> None:
    """Keep the group from writing a user's own cache folder: under a usual umask, whatever else made it let it."""
    with contextlib.suppress(OSError):
        status = folder.stat()
        if hasattr(os, "geteuid") and status.st_uid == _user() and status.st_mode & OTHERS_WRITE == stat.S_IWGRP:
            folder.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IWGRP)


def _user() -> int:
    return os.geteuid()


def _flaw_of_both(root: Path, name: str, may_be_link: bool) -> str:
    """Make the root and its folder, where need be; return what keeps the folder from being used, "" if nothing."""
    for path, link in ((root, may_be_link), (root / name, False)):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            flaw = _flaw(path, link)
        except OSError as error:
            flaw = f"cannot be made ({_words(error)})"
        if flaw:
            return f"{path} {flaw}"
    if not os.access(root / name, os.R_OK | os.X_OK):
        return f"{root / name} cannot be read (its owner lets others by chmod -R go=rX)"
    return ""


def _flaw(path: Path, may_be_link: bool) -> str:
    """Return why a folder cannot be trusted, "" if it can: it or its link is another's, or others may write it."""
    if not hasattr(os, "geteuid"):
        return ""  # Windows keeps users apart by their profiles' folders
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if not may_be_link:
            return "is a symbolic link"
        if not _is_ours(status):
            return "is a symbolic link of another user"
        status = path.stat()
    if not _is_ours(status):
        return "belongs to another user"
    # Where a folder is sticky, as the one for temporary files is, others cannot replace what stands in it.
    return (
        "can be written by others (chmod go-w closes it)"
        if status.st_mode & OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
        else ""
    )


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, _user())


def _why_not_written(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"{folder} cannot be written ({_words(error)})"


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


_passing: list[tuple[Path, int]] = []  # folders that no other process will ever find, and those that made them


@atexit.register  # here, and not when one is made: it runs after what other files register
def _remove() -> None:
    for folder, process in _passing:
        if process == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)


class Cache:
    """The files of one build's machine code: `name` tells builds apart, and is asked for when it is first needed."""

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name
        self._warned: set[str] = set()

    @cached_property
    def places(self) -> Places:
        """The folders; a warning tells where they are if the one asked for cannot even be read."""
        found = find(self._name())
        if found.reason and not found.is_first_read:
            self._tell(found)
        return found

    def _tell(self, found: Places) -> None:
        where = f"are kept in {found.written}" if found.written else "that are missing are compiled in every process"
        self._warn_once("place", f"Kernels {where}, because {found.reason}: {ADVICE}.")

    def _warn_once(self, subject: str, sentence: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)

    def folder(self) -> Path:
        """Return the folder that new code is kept in, the first that is read where it is kept nowhere."""
        found = self.places
        return found.written or next(iter(found.read), Path(tempfile.gettempdir()) / self._name())

    def lasts(self) -> bool:
        """Say whether what is kept is there for other processes."""
        return self.places.written not in (None, *(folder for folder, _ in _passing))

    def load(self, name: str) -> bytes | None:
        """Return what is kept under this name, None where that is nothing or damaged."""
        for folder in self.places.read:
            data = unsealed(folder / name)
            if data is not None:
                return data
        return None

    def save(self, name: str, data: bytes) -> None:
        """Keep data under this name; where that fails, warn once and go on."""
        found = self.places
        if found.reason:
            self._tell(found)
        if found.written is None:
            return
        try:
            write_atomically(found.written / name, _digest(name, data) + data)
        except OSError as error:
            self._warn_once(
                "write",
                f"Compiled kernels cannot be kept in {found.written} ({_words(error)}), so that the next process "
                "compiles them again: make room there, or set FASTCNN_CACHE_DIR to another folder.",
            )

    def kept(self) -> Kept:
        """Look through all files."""
        paths = [path for folder in self.places.read for path in _compiled(folder)]
        whole = {path for path in paths if unsealed(path) is not None}
        names = {path.name for path in whole}  # one that is damaged where others filled it may be whole in one's own
        size = 0
        for path in paths:
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return Kept(len(names), size, [path for path in paths if path.name not in names])

    def mend(self) -> None:
        """Remove the files that cannot be used, and what was left half written."""
        folder = self.places.written
        if folder is None:
            return
        now = time.time()
        for path in (*_compiled(folder), *folder.glob(f"*{PART}")):
            with contextlib.suppress(OSError):
                bad = now - path.stat().st_mtime > ABANDONED if path.suffix == PART else unsealed(path) is None
                if bad:
                    path.unlink()


def _compiled(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in KINDS)
    except OSError:
        return []


def _digest(name: str, data: bytes) -> bytes:
    """Return the checksum that stands before the data of a file of this name."""
    digest = hashlib.blake2b(name.encode() + b"\0", digest_size=DIGEST_BYTES)
    digest.update(data)
    return digest.digest()


def unsealed(path: Path) -> bytes | None:
    """Return the data of a file; None where it is absent, damaged, a link, or could have been written by others."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            if hasattr(os, "geteuid") and (not _is_ours(status) or status.st_mode & OTHERS_WRITE):
                return None
            content = file.read()
    except OSError:
        return None
    data = content[DIGEST_BYTES:]
    return data if data and content[:DIGEST_BYTES] == _digest(path.name, data) else None


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at path by data in one step, or raise OSError and leave things as they were."""
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=PART, delete=False) as file:
            part = file.name
            file.write(data)
        os.replace(part, path)
    except BaseException:  # Ctrl-C too
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)
        raise
