"""Downloads: a file comes from the first mirror that has it, and is checked before it counts."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

from fastcnn.errors import DataError
from fastcnn.files import write_atomically

TIMEOUT = 30  # seconds without an answer from a mirror


@dataclass(frozen=True)
class RemoteFile:
    """A file, its MD5 checksum, and the URLs (each ending in "/") under which mirrors hold it."""

    name: str
    md5: str
    mirrors: tuple[str, ...]


def download(file: RemoteFile, folder: Path) -> Path:
    """Fetch the file into the folder, which is made if need be, and return its path.

    Raises
    ------
    DataError
        If no mirror delivers the file with the right checksum, or the folder cannot be written.
    """
    import pooch  # here, as it brings in a whole HTTP client

    reason = "no mirror is known"
    for mirror in file.mirrors:
        url = mirror + file.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            loader = pooch.HTTPDownloader(timeout=TIMEOUT)
            return Path(pooch.retrieve(url, f"md5:{file.md5}", file.name, folder, downloader=loader))
        except PermissionError as error:
            raise DataError(
                f"{folder} lacks {file.name} and cannot take a download of it ({error.strerror}); "
                "put the file there, or choose another folder."
            ) from None
        except (OSError, ValueError) as error:
            wrong_bytes = "hash" in str(error)
            reason = f"{url} {'has other bytes than expected' if wrong_bytes else 'cannot be reached'}"
    raise DataError(
        f"{folder} lacks {file.name}, and it could not be downloaded ({reason}); "
        "put the file there, or check the network."
    )


def unpack(archive: Path, names: tuple[str, ...], folder: Path) -> None:
    """Put the named files of a tar archive into the folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if name in names else None
            if content is not None:
                write_atomically(folder / name, content.read())
