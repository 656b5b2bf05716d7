"""The data sets with names, and how a name, a folder or the net leads to their files.

MNIST and Fashion-MNIST are four IDX files each, CIFAR-10 is six binary files. They are looked for
in the folder given, else in the sub-folder NAME of the folder in FASTCNN_DATA, else in the user's
cache folder; what a folder lacks is downloaded into it and checked.
"""

import difflib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcnn.arguments import checks_arguments
from fastcnn.data import cifar, idx, images
from fastcnn.data.dataset import Dataset, check_labels, remap_labels, scaled
from fastcnn.data.digits import digits
from fastcnn.data.fetch import RemoteFile, download, unpack
from fastcnn.errors import DataError

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FASHION_MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
CIFAR10_ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    ("https://www.cs.toronto.edu/~kriz/",),
)

IDX_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MNIST_MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
FASHION_MD5 = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
DIGIT_CLASSES = tuple(str(digit) for digit in range(10))
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MOST_CLASSES = 256  # of labels that are bytes


@checks_arguments
def mnist(folder: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Return MNIST's 60,000 training and 10,000 test images of shape (28, 28, 1).

    Parameters
    ----------
    folder
        Where the files lie, or are downloaded to; None takes `$FASTCNN_DATA/mnist` where it exists, else the
        cache folder.

    Raises
    ------
    DataError
        If the folder does not exist, or a file is missing (and cannot be downloaded), damaged or
        another one.
    """
    place = _place("mnist", folder)
    return _idx_parts(_idx_files(place, MNIST_MD5, MNIST_MIRRORS), "mnist", DIGIT_CLASSES)


@checks_arguments
def fashion(folder: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Return Fashion-MNIST's 60,000 training and 10,000 test images of shape (28, 28, 1).

    Parameters
    ----------
    folder
        Where the files lie, or are downloaded to; None takes `$FASTCNN_DATA/fashion` where it exists, else the
        cache folder.

    Errors as `mnist`.
    """
    place = _place("fashion", folder)
    return _idx_parts(_idx_files(place, FASHION_MD5, FASHION_MIRRORS), "fashion", FASHION_CLASSES)


@checks_arguments
def cifar10(folder: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Return CIFAR-10's training and test images of shape (32, 32, 3), as many as the files hold.

    Parameters
    ----------
    folder
        Where the files lie, or are downloaded to; None takes `$FASTCNN_DATA/cifar10` where it exists, else the
        cache folder.

    Errors as `mnist`.
    """
    place = _place("cifar10", folder)
    files = cifar.find(place)
    if files is None:
        archive = download(CIFAR10_ARCHIVE, place)
        unpack(archive, cifar.OFFICIAL_TRAIN + cifar.OFFICIAL_TEST, place)
        files = cifar.find(place)
    if files is None:
        raise DataError(f"{place} lacks files of CIFAR-10 that its archive should hold; empty it and try again.")
    return _cifar_parts(files, "cifar10")


NAMED = {"mnist": mnist, "fashion": fashion, "cifar10": cifar10}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return ("digits", *NAMED)


@checks_arguments
def load(name: str, folder: str | Path | None = None, *, remap_labels: bool = False) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a data set, by its name or from one's own folder.

    Parameters
    ----------
    name
        One of `names()`, or a folder that holds IDX files under MNIST's names, CIFAR-10 binaries, or images in
        train/CLASS and test/CLASS.
    folder
        Where the files of a named set lie, or are downloaded to; None as in `mnist`.
    remap_labels
        Number the classes of IDX files whose labels do not count from 0, or skip numbers, as EMNIST's letters do (1 to
        26): from 0 on, in the order of the labels, which become their names.

    Raises
    ------
    DataError
        If there is no such name or folder, or as the loader of that data set.

    Examples
    --------
    >>> train, test = load("digits")
    >>> test.classes[:3]
    ('0', '1', '2')
    """
    if remap_labels and (name == "digits" or name in NAMED):
        raise _numbered(name)
    if name == "digits":
        if folder is not None:
            raise DataError("The digits travel with the package and take no folder; leave it out.")
        return digits()
    if name in NAMED:
        return NAMED[name](folder)
    if not name or not Path(name).is_dir():
        raise DataError(unknown_name(name))
    if folder is not None:
        raise DataError(f"The data {name} is a folder by itself; leave out the second folder, {folder}.")
    return from_folder(Path(name), remap_labels)


def unknown_name(name: str) -> str:
    """Return the sentence for a name that is neither a data set's nor a folder's."""
    nearest = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"give a folder or one of {', '.join(names())}."
    return f"There is no data set and no folder {name!r}; {hint}"


def from_folder(folder: Path, remap_labels: bool = False) -> tuple[Dataset, Dataset]:
    """Return the training and the test part that a folder holds; DataError if it holds none."""
    found = [_find_idx(folder, stem) for stem in IDX_STEMS]
    present = [path for path in found if path is not None]
    if not images.is_image_folder(folder) and len(present) == len(IDX_STEMS):
        return _idx_parts(present, folder.name, remap=remap_labels)
    if remap_labels:
        raise _numbered(str(folder))
    if images.is_image_folder(folder):
        return images.read_image_folder(folder)
    if present:
        missing = next(stem for stem, path in zip(IDX_STEMS, found, strict=True) if path is None)
        raise DataError(f"{folder} lacks {missing} (plain or .gz) beside {present[0].name}; put it there.")
    files = cifar.find(folder)
    if files is not None:
        return _cifar_parts(files, folder.name)
    raise DataError(
        f"{folder} holds no data set; give a folder with train/CLASS and test/CLASS of images, "
        "IDX files under MNIST's names, or CIFAR-10 binaries."
    )


def _numbered(name: str) -> DataError:
    return DataError(
        f"The classes of {name} are numbered from 0 as they are, and only labels of IDX files can be remapped; leave "
        "out remap_labels (--remap-labels)."
    )


def _place(name: str, folder: str | Path | None) -> Path:
    if folder is not None:
        if not Path(folder).is_dir():
            raise DataError(f"The folder {folder} does not exist; make it, or give the one that holds {name}.")
        return Path(folder)
    root = os.environ.get("FASTCNN_DATA")
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    import pooch

    cache = Path(os.environ.get("FASTCNN_CACHE_DIR") or pooch.os_cache("fastcnn"))
    with suppress(OSError):  # told where something is to be written
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.mkdir(mode=0o700, exist_ok=True)  # machine code is kept there, too: only in folders closed to others
    return cache / "data" / name


def _find_idx(folder: Path, stem: str) -> Path | None:
    """Return the file, plain or compressed; mirrors write "-idx" or ".idx" in its name."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for path in (folder / name, folder / (name + ".gz")):
            if path.is_file():
                return path
    return None


def _idx_files(folder: Path, checksums: tuple[str, ...], mirrors: tuple[str, ...]) -> list[Path]:
    return [
        _find_idx(folder, stem) or download(RemoteFile(stem + ".gz", md5, mirrors), folder)
        for stem, md5 in zip(IDX_STEMS, checksums, strict=True)
    ]


def _idx_parts(
    files: list[Path], name: str, classes: tuple[str, ...] = (), remap: bool = False
) -> tuple[Dataset, Dataset]:
    """Return both parts of four files; classes that are not given are named after their labels."""
    most = len(classes) or MOST_CLASSES
    train, test = (idx.read_pair(*pair, most) for pair in ((files[0], files[1]), (files[2], files[3])))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"{files[0]} holds images of shape {train[0].shape[1:]} and {files[2]} "
            f"of shape {test[0].shape[1:]}; give files of one size."
        )
    labels = [train[1], test[1]]
    if remap:
        classes, *labels = remap_labels(*labels)
    elif not classes:
        classes = _named_after(train[1], files[1])
        check_labels(test[1], len(classes), str(files[3]), f" {files[1]} has no others.")
    train_part, test_part = (
        Dataset(scaled(part[0]), numbers, classes, name) for part, numbers in zip((train, test), labels, strict=True)
    )
    return train_part, test_part


def _named_after(labels: NDArray[np.int64], path: Path) -> tuple[str, ...]:
    """Return the labels 0 .. K - 1 as names; DataError if one does not occur: no image would teach its class."""
    seen = np.bincount(labels)
    missing = np.flatnonzero(seen == 0)
    if len(missing):
        raise DataError(
            f"The labels of {path} go up to {len(seen) - 1} and {missing[0]} is not among them; number the classes "
            "from 0 without a gap, or have it done by remap_labels=True (--remap-labels)."
        )
    return tuple(map(str, range(len(seen))))


def _cifar_parts(files: tuple[list[Path], list[Path]], name: str) -> tuple[Dataset, Dataset]:
    train, test = (Dataset(scaled(pixels), labels, cifar.CLASSES, name) for pixels, labels in map(cifar.read, files))
    return train, test
