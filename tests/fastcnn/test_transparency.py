"""Images with transparent parts: laid on white, whatever their mode and however the file says it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fastcnn.data import images
from fastcnn.data.catalog import from_folder
from fastcnn.errors import DataError

PIXELS = arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(4)))


def on_white(values: np.ndarray) -> np.ndarray:
    """The blend's definition, of (..., C + 1)."""
    alpha = values[..., -1:] / 255
    return np.round(values[..., :-1] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey_alpha(values: np.ndarray) -> Image.Image:
    return Image.merge("LA", [Image.fromarray(np.ascontiguousarray(values[..., axis])) for axis in (0, 1)])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".tga"])
def test_ink_on_transparent_paper(tmp_path: Path, suffix: str) -> None:
    drawing = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 128]]], np.uint8)
    path = saved(tmp_path / f"drawing{suffix}", Image.fromarray(drawing), **{"lossless": True} if "w" in suffix else {})
    np.testing.assert_array_equal(images.read_image(path)[0], [[255] * 3, [0] * 3, [255, 127, 127]])
    np.testing.assert_array_equal(images.read_image(path, channels=1)[0, :2, 0], [255, 0])


def test_grey_ink_stays_grey(tmp_path: Path) -> None:
    path = saved(tmp_path / "grey.png", grey_alpha(np.array([[[0, 0], [0, 255], [0, 128]]], np.uint8)))
    np.testing.assert_array_equal(images.read_image(path)[0], [[255], [0], [127]])
    np.testing.assert_array_equal(images.read_image(path, channels=3)[0], [[255] * 3, [0] * 3, [127] * 3])


@given(PIXELS)
def test_blend_of_colours_is_the_definition(values: np.ndarray) -> None:
    found = images.read_image(as_file(Image.fromarray(values)))
    np.testing.assert_array_equal(found, on_white(values))


@given(PIXELS)
def test_blend_of_greys_is_the_definition(values: np.ndarray) -> None:
    found = images.read_image(as_file(grey_alpha(values)))
    np.testing.assert_array_equal(found, on_white(values[..., :2]))


def as_file(image: Image.Image, **options: object) -> Path:
    """Return an image as a PNG file in memory, which pillow opens as it opens a path."""
    file = io.BytesIO()
    image.save(file, "png", **options)
    file.seek(0)
    return file  # type: ignore[return-value]


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_opaque_images_are_as_without_alpha(tmp_path: Path, channels: int | None) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    plain = saved(tmp_path / "plain.png", Image.fromarray(colours))
    covered = saved(tmp_path / "covered.png", Image.fromarray(colours).convert("RGBA"))
    np.testing.assert_array_equal(images.read_image(plain, channels), images.read_image(covered, channels))


def palette() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 255, 0, 0, 10, 20, 30])
    for place in range(3):
        image.putpixel((place, 0), place)
    return image


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_with_a_transparent_entry(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"image{suffix}", palette(), transparency=0)
    np.testing.assert_array_equal(images.read_image(path)[0], [[255] * 3, [255, 0, 0], [10, 20, 30]])


def test_palette_with_opacities(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.png", palette(), transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(images.read_image(path)[0], [[255] * 3, [255, 127, 127], [10, 20, 30]])


def test_a_transparent_colour(tmp_path: Path) -> None:
    colours = np.array([[[0, 0, 0], [0, 0, 255], [1, 2, 3]]], np.uint8)
    path = saved(tmp_path / "image.png", Image.fromarray(colours), transparency=(0, 0, 0))
    np.testing.assert_array_equal(images.read_image(path)[0], [[255] * 3, [0, 0, 255], [1, 2, 3]])


def write_png(path: Path, bits: int, kind: int, key: bytes, row: bytes) -> Path:
    """Write a row of two pixels by hand: pillow writes no greys of 2 and 4 bits, and no colours of 16."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 2, 1, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("key", [0, 1])
def test_a_transparent_grey_of_few_bits(tmp_path: Path, bits: int, key: int) -> None:
    """Of the samples 0 and 1, one is transparent."""
    row = bytes([0, 1]) if bits == 8 else bytes([1 << (8 - 2 * bits)])
    path = write_png(tmp_path / "grey.png", bits, 0, struct.pack(">H", key), row)
    greys = [0, 255 // (2**bits - 1)]
    greys[key] = 255
    np.testing.assert_array_equal(images.read_image(path).ravel(), greys)


def test_a_transparent_colour_of_sixteen_bits(tmp_path: Path) -> None:
    key = struct.pack(">3H", 0x0123, 0x5678, 0x9ABC)
    path = write_png(tmp_path / "deep.png", 16, 2, key, key + struct.pack(">3H", 0x0100, 0xFFFF, 0))
    np.testing.assert_array_equal(images.read_image(path)[0], [[255] * 3, [1, 255, 0]])


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_every_mode_of_eight_bits(monkeypatch: pytest.MonkeyPatch, mode: str, channels: int | None) -> None:
    """Few files hold some of these modes: the opened image itself is replaced."""
    monkeypatch.setattr(Image, "open", lambda path: Image.new(mode, (3, 2)))
    found = images.read_image(Path("any.png"), channels)
    grey = mode in ("1", "L", "LA", "La")
    assert (found.dtype, found.shape) == (np.uint8, (2, 3, channels or (1 if grey else 3)))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        assert (found == 255).all()


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_modes_of_more_bits_are_refused(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(Image, "open", lambda path: Image.new(mode, (3, 2)))
    with pytest.raises(DataError, match=r"any\.png has more than 8 bits a channel"):
        images.read_image(Path("any.png"))


def test_colours_that_cannot_be_converted_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object, **more: object) -> Image.Image:
        raise ValueError("conversion not supported")

    path = saved(tmp_path / "image.png", Image.new("RGB", (2, 2)))
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(DataError, match=r"image\.png has colours of mode RGB .*; convert it to RGB"):
        images.read_image(path)


def test_a_folder_of_drawings(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name, place in (("left", 0), ("right", 1)):
            drawing = np.zeros((2, 2, 4), np.uint8)
            drawing[:, place, 3] = 255
            (tmp_path / part / name).mkdir(parents=True)
            saved(tmp_path / part / name / "0.png", Image.fromarray(drawing))
    train, _ = from_folder(tmp_path)
    np.testing.assert_array_equal(train.images[:, 0, :, 0], [[0, 1], [1, 0]])


def test_resizing_sees_the_paper(tmp_path: Path) -> None:
    """Colours hidden by alpha do not come back where pixels are mixed."""
    drawing = np.zeros((4, 4, 4), np.uint8)
    drawing[..., 0] = 200
    path = saved(tmp_path / "image.png", Image.fromarray(drawing))
    assert (images.read_image(path, size=(3, 3)) == 255).all()
