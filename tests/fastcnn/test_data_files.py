"""The readers of IDX, CIFAR-10 and image files: what they return, what they refuse and how."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcnn.data import cifar, idx, images
from fastcnn.data.catalog import from_folder
from fastcnn.errors import DataError


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_folder(folder: Path, count: int = 6, compress: bool = False, dot: bool = False) -> None:
    generator = np.random.default_rng(0)
    for part in ("train", "t10k"):
        files = {
            f"{part}-images-idx3-ubyte": generator.integers(0, 256, (count, 5, 7)),
            f"{part}-labels-idx1-ubyte": np.arange(count) % 3,
        }
        for name, array in files.items():
            data = idx_bytes(array)
            path = folder / (name.replace("-idx", ".idx") if dot else name)
            if compress:
                path, data = path.with_name(path.name + ".gz"), gzip.compress(data)
            path.write_bytes(data)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.arange(2 * 3 * 4).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx_images(tmp_path: Path, pixels: np.ndarray, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(idx_bytes(pixels)))
    read = idx.read_images(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels[..., np.newaxis])


IDX_DAMAGE = {
    "empty file": (lambda data: b"", "no IDX file of images"),
    "another format": (
        lambda data: b"\x89PNG" + data[4:],
        "no IDX file of images: it starts with 89504e47",
    ),
    "labels for images": (lambda data: idx_bytes(np.arange(4)), "not with 00000803"),
    "cut in the header": (lambda data: data[:10], "ends within its header"),
    "cut in the pixels": (lambda data: data[:-1], "promises 24 bytes of images and holds only 23"),
    "trailing byte": (lambda data: data + b"\0", "promises 24 bytes of images and holds more"),
    "huge header": (lambda data: data[:4] + b"\xff" * 12 + data[16:], "holds only 24"),
    "no images": (lambda data: idx_bytes(np.empty((0, 3, 4))), "holds no pixels"),
    "cut gzip": (lambda data: gzip.compress(data)[:-9], "in the middle of its compressed data"),
    "damaged gzip": (lambda data: gzip.compress(data)[:-8] + bytes(8), "is damaged"),
    "trailing byte in gzip": (lambda data: gzip.compress(data + b"\0"), "holds more"),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_bad_idx_file_is_named(tmp_path: Path, pixels: np.ndarray, damage: str) -> None:
    spoil, sentence = IDX_DAMAGE[damage]
    path = tmp_path / "images"
    path.write_bytes(spoil(idx_bytes(pixels)))
    with pytest.raises(DataError, match=sentence) as caught:
        idx.read_images(path)
    assert str(path) in str(caught.value)


def test_missing_idx_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        idx.read_images(tmp_path / "absent")


def test_idx_label_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.array([0, 9, 10, 11])))
    with pytest.raises(DataError, match=r"Label 10 at position 2 of .*labels is out of range; 10 classes"):
        idx.read_labels(path, 10)


def test_idx_counts_must_agree(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "images").write_bytes(idx_bytes(pixels))
    (tmp_path / "labels").write_bytes(idx_bytes(np.zeros(3)))
    with pytest.raises(DataError, match=r"holds 2 images and .* 3 labels"):
        idx.read_pair(tmp_path / "images", tmp_path / "labels", 10)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dot", [False, True])
def test_folder_of_idx_files(tmp_path: Path, compress: bool, dot: bool) -> None:
    write_idx_folder(tmp_path, compress=compress, dot=dot)
    train, test = from_folder(tmp_path)
    assert train.image_shape == test.image_shape == (5, 7, 1)
    assert train.classes == ("0", "1", "2")
    assert train.name == tmp_path.name
    assert train.images.max() <= 1
    assert not np.array_equal(train.images, test.images)


def test_folder_lacking_one_idx_file(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte"):
        from_folder(tmp_path)


def test_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data set"):
        from_folder(tmp_path)


def cifar_records(count: int, first_label: int = 0) -> np.ndarray:
    records = np.zeros((count, cifar.RECORD), dtype=np.uint8)
    records[:, 0] = (first_label + np.arange(count)) % 10
    records[:, 1:] = np.random.default_rng(count).integers(0, 256, (count, cifar.PIXELS))
    return records


def test_cifar_records_are_planes(tmp_path: Path) -> None:
    first, second = cifar_records(3), cifar_records(2, first_label=7)
    for name, records in (("a.bin", first), ("b.bin", second)):
        (tmp_path / name).write_bytes(records.tobytes())
    read, labels = cifar.read([tmp_path / "a.bin", tmp_path / "b.bin"])
    np.testing.assert_array_equal(labels, [0, 1, 2, 7, 8])
    assert read.shape == (5, 32, 32, 3)
    assert read[4, 5, 6, 2] == second[1, 1 + 2 * 1024 + 5 * 32 + 6]


@pytest.mark.parametrize("size", [0, 1, cifar.RECORD - 1, cifar.RECORD + 1])
def test_cut_cifar_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DataError, match=r"train\.bin has .* bytes, not a positive multiple of 3,073"):
        cifar.read([path])


def test_cifar_label_out_of_range(tmp_path: Path) -> None:
    records = cifar_records(3)
    records[1, 0] = 10
    (tmp_path / "a.bin").write_bytes(records.tobytes())
    with pytest.raises(DataError, match=r"Label 10 at position 1 of .*a\.bin"):
        cifar.read([tmp_path / "a.bin"])


def test_folder_of_cifar_files(tmp_path: Path) -> None:
    (tmp_path / "my_train_part.bin").write_bytes(cifar_records(4).tobytes())
    assert cifar.find(tmp_path) is None
    (tmp_path / "my_test_part.bin").write_bytes(cifar_records(2).tobytes())
    train, test = from_folder(tmp_path)
    assert (len(train), len(test)) == (4, 2)
    assert train.classes[3] == "cat"


def test_part_of_the_official_cifar_files_is_not_enough(tmp_path: Path) -> None:
    for name in (*cifar.OFFICIAL_TRAIN, *cifar.OFFICIAL_TEST):
        assert cifar.find(tmp_path) is None
        (tmp_path / name).write_bytes(cifar_records(1).tobytes())
    found = cifar.find(tmp_path)
    assert found is not None
    assert [path.name for path in found[0]] == list(cifar.OFFICIAL_TRAIN)


def write_image(path: Path, mode: str = "L", size: tuple[int, int] = (6, 4), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    Image.new(mode, size, (value,) * channels).save(path)


def test_image_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "train/cat/1.png", value=255)
    write_image(tmp_path / "train/ant/1.png", value=51)
    write_image(tmp_path / "train/ant/2.png")
    write_image(tmp_path / "test/cat/1.png")
    train, test = from_folder(tmp_path)
    assert train.classes == ("ant", "cat")
    assert train.images.shape == (3, 4, 6, 1)
    np.testing.assert_array_equal(train.labels, [0, 0, 1])
    np.testing.assert_allclose(train.images[:, 0, 0, 0], [0.2, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(test.labels, [1])


def test_image_folder_with_one_colour_image_is_colour(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a/1.png")
    write_image(tmp_path / "train/a/2.png", mode="RGB")
    write_image(tmp_path / "test/a/1.png")
    train, test = from_folder(tmp_path)
    assert train.image_shape == test.image_shape == (4, 6, 3)


def test_image_folder_with_two_sizes(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a/1.png")
    write_image(tmp_path / "train/a/2.png", size=(6, 5))
    write_image(tmp_path / "test/a/1.png")
    with pytest.raises(DataError, match=r"2\.png has the size 5x6, the images before it 4x6"):
        from_folder(tmp_path)
    write_image(tmp_path / "train/a/2.png")
    write_image(tmp_path / "test/a/1.png", size=(2, 2))
    with pytest.raises(DataError, match=r"train have the size 4x6 and those in .*test 2x2"):
        from_folder(tmp_path)


def test_image_folder_with_an_empty_part_or_an_unknown_class(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a/1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="test holds no images"):
        from_folder(tmp_path)
    write_image(tmp_path / "test/b/1.png")
    with pytest.raises(DataError, match=r"The class b of .*test has no folder in train"):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)],
)
def test_image_channels_follow_the_file(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new(mode, (3, 2)).save(path)
    assert images.read_image(path).shape == (2, 3, channels)
    assert images.read_image(path, channels=1).shape == (2, 3, 1)
    assert images.read_image(path, channels=3, size=(5, 4)).shape == (5, 4, 3)


def test_image_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel"):
        images.read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("keep", [0, 5, 20, 60])
def test_cut_image(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"image\.png cannot be read as an image"):
        images.read_image(path)


def test_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        images.read_image(tmp_path / "absent.png")
