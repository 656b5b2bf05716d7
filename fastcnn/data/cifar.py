"""The binary files of CIFAR-10: records of a label byte and 3,072 pixel bytes, channel by channel.

A file holds any number of records. A folder holds the official data_batch_1.bin .. data_batch_5.bin
and test_batch.bin, or any other files with "train" and "test" in their names. Source: A.
Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcnn.data.dataset import check_labels
from fastcnn.data.folders import entries
from fastcnn.errors import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
RECORD = 1 + PIXELS
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OFFICIAL_TRAIN = tuple(f"data_batch_{batch}.bin" for batch in range(1, 6))
OFFICIAL_TEST = ("test_batch.bin",)
ARCHIVE_FOLDER = "cifar-10-batches-bin"  # what the official archive unpacks to


def find(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """Return the training and the test files of a folder, or None where it lacks some."""
    for place in (folder, folder / ARCHIVE_FOLDER):
        train = [place / name for name in OFFICIAL_TRAIN]
        test = [place / name for name in OFFICIAL_TEST]
        if all(path.is_file() for path in train + test):
            return train, test
    if any((folder / name).exists() for name in OFFICIAL_TRAIN):
        return None
    shown = entries(folder)
    train, test = ([path for path in shown if path.match(f"*{part}*.bin")] for part in ("train", "test"))
    return (train, test) if train and test else None


def read(paths: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images (N, 32, 32, 3) and labels (N,) of some files, one after the other.

    Raises
    ------
    DataError
        If a file cannot be read, is empty, ends within a record or has a label above 9.
    """
    parts = [_records(path) for path in paths]
    images = np.empty((sum(map(len, parts)), SIDE, SIDE, 3), dtype=np.uint8)
    planes = [part[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1) for part in parts]
    return np.concatenate(planes, out=images), np.concatenate([part[:, 0] for part in parts]).astype(np.int64)


def _records(path: Path) -> NDArray[np.uint8]:
    try:
        values = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not values.size or values.size % RECORD:
        raise DataError(
            f"{path} has {values.size:,} bytes, not a positive multiple of {RECORD:,} "
            "(one CIFAR-10 record); fetch the file again."
        )
    records = values.reshape(-1, RECORD)
    check_labels(records[:, 0], len(CLASSES), str(path))
    return records
