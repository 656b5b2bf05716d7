"""A labelled set of images: images (N, H, W, C), labels (N,), the names of the classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastcnn.arguments import check_arguments, checks_arguments
from fastcnn.errors import DataError

WHITE = 255  # the largest value of a byte


@check_arguments
@dataclass(frozen=True, repr=False)
class Dataset:
    """Images (N, H, W, C) of float32 in [0, 1] with the index of each one's class.

    Parameters
    ----------
    images
        (N, H, W, C), at least one.
    labels
        (N,), whole numbers, each the index of a class.
    classes
        The names of the classes.
    name
        What errors call the set.

    Raises
    ------
    DataError
        If the shapes disagree, the set is empty or a label has no class.

    Examples
    --------
    >>> import fastcnn.data
    >>> train, test = fastcnn.data.digits()
    >>> images, labels = test
    >>> images.shape, labels.shape
    ((364, 8, 8, 1), (364,))
    >>> test
    Dataset('digits', images (364, 8, 8, 1) float32, labels (364,) int64, classes 0, 1, 2, ... 9 (10))
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if not all(isinstance(array, np.ndarray) for array in (self.images, self.labels)):
            raise DataError(f"The images or labels of {self.name} are no NumPy arrays; convert them with np.array.")
        if self.labels.dtype.kind not in "iu":
            raise DataError(f"The labels of {self.name} have the dtype {self.labels.dtype}; give whole numbers.")
        if self.images.ndim != 4:
            raise DataError(
                f"The images of {self.name} have the shape {self.images.shape}; give one of four axes, (N, H, W, C)."
            )
        if self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"The data set {self.name} has {len(self.images)} images and labels of shape "
                f"{self.labels.shape}; give one label an image."
            )
        if not len(self.images):
            raise DataError(f"The data set {self.name} holds no images; give it at least one.")
        hint = " fastcnn.data.remap_labels numbers those that occur."
        check_labels(self.labels, len(self.classes), f"the data set {self.name}", hint)

    def __repr__(self) -> str:
        """Return the shapes in a line: thousands of pixels tell nobody anything."""
        images, labels = (f"{array.shape} {array.dtype}" for array in (self.images, self.labels))
        return f"Dataset({self.name!r}, images {images}, labels {labels}, classes {_shortened(self.classes)})"

    def __iter__(self) -> Iterator[NDArray[np.float32] | NDArray[np.int64]]:
        """Yield the images, then the labels: `images, labels = dataset`."""
        return iter((self.images, self.labels))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of one image."""
        _, height, width, channels = self.images.shape
        return height, width, channels


def check_labels(labels: NDArray[np.integer], classes: int, where: str, hint: str = "") -> None:
    """Raise DataError naming the first label outside 0 .. classes - 1; `where` says whose it is."""
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise DataError(
            f"Label {labels[bad[0]]} at position {bad[0]} of {where} is out of range; "
            f"{classes} classes need labels from 0 to {classes - 1}.{hint}"
        )


@checks_arguments
def remap_labels(
    train: NDArray[np.integer], *others: NDArray[np.integer]
) -> tuple[tuple[str, ...], *tuple[NDArray[np.int64], ...]]:
    """Number the labels that occur from 0 on, in their order, and return the classes' names and all labels anew.

    Parameters
    ----------
    train
        Labels (N,), whole numbers: those that occur become the names.
    *others
        Labels (N,) of other parts, which are among them.

    Raises
    ------
    DataError
        If labels are not whole numbers, or a label of the others does not occur in the first.

    Examples
    --------
    >>> classes, train, test = remap_labels(np.array([26, 1, 3]), np.array([3, 3, 26]))
    >>> classes, train, test
    (('1', '3', '26'), array([2, 0, 1]), array([1, 1, 2]))
    """
    numbers: dict[int, int] = {}
    remapped = []
    for part in (train, *others):
        if not isinstance(part, np.ndarray) or part.dtype.kind not in "iu" or part.ndim != 1:
            raise DataError(f"The labels {_shortened(np.ravel(part).tolist())} are no array (N,) of whole numbers.")
        found, places = np.unique(part, return_inverse=True)
        values = found.tolist()  # Python's integers: int64 and uint64 would meet as floats
        if part is train:
            numbers = {value: number for number, value in enumerate(values)}
        for value in values:
            if value not in numbers:
                raise DataError(
                    f"Label {value} does not occur in the training labels ({_shortened(list(numbers))}); "
                    "give training images of its class, or leave its images out."
                )
        remapped.append(np.array([numbers[value] for value in values], dtype=np.int64)[places])
    return tuple(map(str, numbers)), *remapped


def _shortened(values: Sequence[object]) -> str:
    """Return the first values, the last and their number: "1, 2, 3, ... 26 (26)"; all where they are few."""
    texts = [str(value) for value in values]
    return ", ".join(texts) if len(texts) <= 5 else f"{', '.join(texts[:3])}, ... {texts[-1]} ({len(texts)})"


def scaled(pixels: NDArray[np.uint8], largest: int = WHITE) -> NDArray[np.float32]:
    """Return the pixels as float32 in [0, 1], `largest` becoming 1."""
    images = pixels.astype(np.float32, order="C")
    images /= largest
    return images
