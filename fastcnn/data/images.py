"""Image files as arrays (H, W, C), and folders of them with one sub-folder a class.

A folder as a data set:   train/CLASS/*.png   test/CLASS/*.png   (or .jpg, .jpeg, .bmp, .pgm, .ppm)
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastcnn.data.dataset import Dataset, scaled
from fastcnn.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm"})
GREY_MODES = frozenset({"1", "L", "LA"})


def read_image(path: Path, channels: int | None = None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of an image file as (H, W, C), its alpha channel left out.

    `channels` is 1 (grey) or 3 (red, green, blue), by default what the file holds; `size` (H, W)
    asks for resampling (bilinear) to that size.

    Raises
    ------
    DataError
        If the file cannot be read as an image of 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except FileNotFoundError:
        raise DataError(f"The image {path} does not exist; check its name.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); give a whole PNG or JPEG file.") from None
    return _pixels(image, path, channels, size)


def _pixels(image: "Image.Image", path: Path, channels: int | None, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits.")
    if channels is None:
        channels = 1 if image.mode in GREY_MODES else 3
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def is_image_folder(folder: Path) -> bool:
    """Tell whether a folder has the two parts of an image data set."""
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def read_image_folder(folder: Path) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a folder of images.

    The classes are the sub-folders of train/ in the order of their names. All images must have one
    size; they are grey where every one is, and have three channels otherwise.

    Raises
    ------
    DataError
        If an image is damaged or of another size than the first, a part is empty, or a class of
        test/ is unknown.
    """
    classes = tuple(sorted(place.name for place in (folder / "train").iterdir() if place.is_dir()))
    train, test = _read_part(folder / "train", classes), _read_part(folder / "test", classes)
    shapes = [train[0][0].shape, test[0][0].shape]
    if shapes[0][:2] != shapes[1][:2]:
        raise DataError(
            f"The images in {folder}/train have the size {_size(shapes[0])} and those in "
            f"{folder}/test {_size(shapes[1])}; give images of one size."
        )
    channels = max(image.shape[2] for image in train[0] + test[0])
    return (
        _dataset(*train, channels, classes, folder.name),
        _dataset(*test, channels, classes, folder.name),
    )


def _dataset(
    images: list[NDArray[np.uint8]],
    labels: list[int],
    channels: int,
    classes: tuple[str, ...],
    name: str,
) -> Dataset:
    full = [np.broadcast_to(image, (*image.shape[:2], channels)) for image in images]
    return Dataset(scaled(np.stack(full)), np.array(labels, dtype=np.int64), classes, name)


def _read_part(part: Path, classes: tuple[str, ...]) -> tuple[list[NDArray[np.uint8]], list[int]]:
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for place in sorted(place for place in part.iterdir() if place.is_dir()):
        if place.name not in classes:
            raise DataError(f"The class {place.name} of {part} has no folder in train; add one, or remove it.")
        for path in sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES):
            image = read_image(path)
            if images and image.shape[:2] != images[0].shape[:2]:
                raise DataError(
                    f"{path} has the size {_size(image.shape)}, the images before it "
                    f"{_size(images[0].shape)}; give images of one size."
                )
            images.append(image)
            labels.append(classes.index(place.name))
    if not images:
        raise DataError(f"{part} holds no images; put them into one sub-folder a class, as {part}/CLASS/*.png.")
    return images, labels


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
