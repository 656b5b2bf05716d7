"""IDX files, the format of MNIST and Fashion-MNIST: a header of big-endian integers, then bytes.

    two zero bytes, the type (8: unsigned byte), the number of axes, the length of each axis, the
    values

A file may be compressed with gzip; its first bytes tell, not its name.
Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from fastcnn.data.dataset import check_labels
from fastcnn.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 8
CHUNK = 1 << 20  # bytes at a time: a wrong header cannot ask for more memory than the file has


def read_images(path: Path) -> NDArray[np.uint8]:
    """Return the images of an IDX file as (N, H, W, 1).

    Raises
    ------
    DataError
        If the file cannot be read, is no IDX file of images, is cut short or goes on after its last
        image.
    """
    images = _read(path, 3)
    if not images.size:
        raise DataError(f"{path} holds no pixels (its header says {images.shape}); give at least one image.")
    return images[..., np.newaxis]


def read_labels(path: Path, classes: int) -> NDArray[np.int64]:
    """Return the labels of an IDX file as (N,).

    Raises
    ------
    DataError
        As `read_images`, and if a label is not below `classes`.
    """
    labels = _read(path, 1).astype(np.int64)
    check_labels(labels, classes, str(path))
    return labels


def read_pair(images_path: Path, labels_path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images and labels of two files; DataError if their counts differ."""
    images, labels = read_images(images_path), read_labels(labels_path, classes)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels; "
            "give two files that belong together."
        )
    return images, labels


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as plain:
            compressed = plain.read(2) == GZIP_MAGIC
            plain.seek(0)
            if not compressed:
                return _parse(plain, path, axes)
            with gzip.GzipFile(fileobj=plain) as unpacked:
                return _parse(cast(IO[bytes], unpacked), path, axes)
    except EOFError:
        raise DataError(f"{path} ends in the middle of its compressed data; fetch the file again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); fetch the file again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def _parse(file: IO[bytes], path: Path, axes: int) -> NDArray[np.uint8]:
    kind = "images" if axes == 3 else "labels"
    header = file.read(4 + 4 * axes)
    if header[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
        raise DataError(
            f"{path} is no IDX file of {kind}: it starts with {header[:4].hex() or 'nothing'}, "
            f"not with 0000080{axes}; give the right file."
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(f"{path} ends within its header; fetch the file again.")
    shape = tuple(int(length) for length in np.frombuffer(header[4:], dtype=">u4"))
    expected = math.prod(shape)
    values = _read_at_most(file, expected + 1)
    if len(values) != expected:
        found = f"only {len(values):,}" if len(values) < expected else "more"
        raise DataError(f"{path} promises {expected:,} bytes of {kind} and holds {found}; fetch the file again.")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read_at_most(file: IO[bytes], size: int) -> bytearray:
    values = bytearray()
    while len(values) < size:
        chunk = file.read(min(CHUNK, size - len(values)))
        if not chunk:
            break
        values += chunk
    return values
