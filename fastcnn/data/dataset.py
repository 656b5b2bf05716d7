"""A labelled set of images: images (N, H, W, C), labels (N,), the names of the classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastcnn.arguments import check_arguments
from fastcnn.errors import DataError


@check_arguments
@dataclass(frozen=True)
class Dataset:
    """Images (N, H, W, C) of float32 in [0, 1] with the index of each one's class.

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
        check_labels(self.labels, len(self.classes), f"the data set {self.name}")

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


def check_labels(labels: NDArray[np.integer], classes: int, where: str) -> None:
    """Raise DataError naming the first label outside 0 .. classes - 1; `where` says whose it is."""
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise DataError(
            f"Label {labels[bad[0]]} at position {bad[0]} of {where} is out of range; "
            f"{classes} classes need labels from 0 to {classes - 1}."
        )


def scaled(pixels: NDArray[np.uint8], largest: int = 255) -> NDArray[np.float32]:
    """Return the pixels as float32 in [0, 1], `largest` becoming 1."""
    images = pixels.astype(np.float32, order="C")
    images /= largest
    return images
