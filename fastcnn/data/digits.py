"""The digits of UCI that travel with the package: 1,797 images of 8x8 pixels, ten classes.

Pixels count dark dots in cells of 4x4, 0 to 16. The test part is every fifth image of each digit,
from the first, in the order of the original file: both parts have the same share of each digit. The
file does not say who wrote what, and a writer can be in both parts. digits.LICENSE.txt beside this
file names the authors, the source and the licence (CC BY 4.0).
"""

from importlib.resources import files

import numpy as np

from fastcnn.arguments import checks_arguments
from fastcnn.data.dataset import Dataset, scaled

TEST_EVERY = 5
LARGEST_PIXEL = 16  # a cell has 4x4 dots
CLASSES = tuple(str(digit) for digit in range(10))


@checks_arguments
def digits() -> tuple[Dataset, Dataset]:
    """Return the training and the test part, 1,433 and 364 images of shape (8, 8, 1).

    Examples
    --------
    >>> train, test = digits()
    >>> len(train), len(test), train.image_shape
    (1433, 364, (8, 8, 1))
    """
    with files("fastcnn.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images = scaled(arrays["images"], LARGEST_PIXEL)[..., np.newaxis]
        labels = arrays["labels"].astype(np.int64)
    held_out = np.zeros(len(labels), dtype=bool)
    for digit in range(len(CLASSES)):
        held_out[np.flatnonzero(labels == digit)[::TEST_EVERY]] = True
    train = Dataset(images[~held_out], labels[~held_out], CLASSES, "digits")
    return train, Dataset(images[held_out], labels[held_out], CLASSES, "digits")
