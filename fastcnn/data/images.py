"""Image files as arrays (H, W, C), and folders of them with one sub-folder a class.

A folder as a data set:   train/CLASS/*.png   test/CLASS/*.png   (or .jpg, .jpeg, .bmp, .pgm, .ppm)

What is transparent is laid on white, as paper shows it: of a colour c and an opacity a, c * a + white * (1 - a). A
drawing whose ink is its alpha channel alone is then black on white.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastcnn.data.dataset import WHITE, Dataset
from fastcnn.data.folders import entries
from fastcnn.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm"})
GREY_MODES = frozenset({"1", "L", "LA", "La"})
UNMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}  # colours that were multiplied by their alpha, and those as they were


def read_image(path: Path, channels: int | None = None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of an image file as (H, W, C), laid on white where they are transparent.

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
            levels = _levels(opened)
            image = ImageOps.exif_transpose(opened)
            image.load()
    except FileNotFoundError:
        raise DataError(f"The image {path} does not exist; check its name.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); give a whole PNG or JPEG file.") from None
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits.")
    try:
        return _pixels(image, levels, channels, size)
    except ValueError as error:
        raise DataError(f"{path} has colours of mode {image.mode} ({error}); convert it to RGB.") from None


def _levels(image: "Image.Image") -> int:
    """Return how many levels a sample of an opened file has; pillow makes bytes of 1, 2, 4 and 16 bits."""
    tiles = getattr(image, "tile", None)  # of files only, and of pixels still to be read
    raw = tiles[0][3] if tiles else None
    if isinstance(raw, tuple):
        raw = next(iter(raw), None)
    return {"1": 2, "L;2": 4, "L;4": 16, "RGB;16B": 1 << 16}.get(str(raw or image.mode), 256)


def _as_byte(sample: int, levels: int) -> int:
    """Return the byte that pillow makes of a sample: its high byte, or its lowest bits spread over 0 .. 255."""
    return sample >> 8 if levels > 256 else sample % levels * WHITE // (levels - 1)


def _pixels(image: "Image.Image", levels: int, channels: int | None, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image

    if channels is None:
        channels = 1 if image.mode in GREY_MODES else 3
    if image.has_transparency_data:
        image = _on_white(image, levels)
    elif image.mode == "LAB":
        image = image.convert("RGB")  # pillow makes no greys of it at once
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def _on_white(image: "Image.Image", levels: int) -> "Image.Image":
    """Return an image as one without alpha, grey or RGB, laid on white and rounded to the nearest of 8 bits."""
    from PIL import Image

    is_grey = image.mode in GREY_MODES
    key = image.info.get("transparency")
    if key is not None and image.mode in ("1", "L", "RGB"):
        # The one colour that is transparent, in samples of the file, where the pixels are bytes by now.
        image = image.convert("RGB" if image.mode == "RGB" else "L")
        several = isinstance(key, tuple)
        image.info["transparency"] = tuple(_as_byte(k, levels) for k in key) if several else _as_byte(key, levels)
    image = image.convert(UNMULTIPLIED.get(image.mode, image.mode)).convert("LA" if is_grey else "RGBA")
    values = np.asarray(image).astype(np.uint16)
    colours, alpha = values[..., :-1], values[..., -1:]
    blended = (colours * alpha + WHITE * (WHITE - alpha) + WHITE // 2) // WHITE  # at most 255 * 255 + 127: 16 bits
    return Image.fromarray(blended.astype(np.uint8).squeeze(2) if is_grey else blended.astype(np.uint8))


def is_image_folder(folder: Path) -> bool:
    """Tell whether a folder has the two parts of an image data set."""
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def read_image_folder(folder: Path) -> tuple[Dataset, Dataset]:
    """Return the training and the test part of a folder of images.

    The classes are the sub-folders of train/ in the order of their names, but for hidden ones and those that systems
    leave there (`folders.py`). All images must have one size; they are grey where every one is, and have three
    channels otherwise.

    Raises
    ------
    DataError
        If an image is damaged or of another size than the first, a part or a class is empty, or a class of
        test/ is unknown.
    """
    classes = tuple(place.name for place in entries(folder / "train") if place.is_dir())
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
    pixels = np.empty((len(images), *images[0].shape[:2], channels), np.float32)  # filled without a copy in bytes
    for row, image in zip(pixels, images, strict=True):
        row[...] = image
    pixels /= WHITE
    return Dataset(pixels, np.array(labels, dtype=np.int64), classes, name)


def _read_part(part: Path, classes: tuple[str, ...]) -> tuple[list[NDArray[np.uint8]], list[int]]:
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for place in entries(part):
        if not place.is_dir():
            continue
        if place.name not in classes:
            raise DataError(f"The class {place.name} of {part} has no folder in train; add one, or remove it.")
        paths = [path for path in entries(place) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        if not paths:
            raise DataError(
                f"The class {place.name} of {part} holds no images; put some into {place} "
                f"({', '.join(sorted(SUFFIXES))}), or remove the folder."
            )
        for path in paths:
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
