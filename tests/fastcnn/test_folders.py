"""Folders of images: what systems and programs leave there is neither a class nor an image."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastcnn.data import cifar
from fastcnn.data.catalog import from_folder, load
from fastcnn.data.folders import SIDE_NAMES, entries, is_side_name
from fastcnn.errors import DataError

SIDE_FOLDERS = (
    ".ipynb_checkpoints",
    ".git",
    "@eaDir",
    "__MACOSX",
    "lost+found",
    "$RECYCLE.BIN",
    "#recycle",
    "FOUND.017",
    "CVS",
)


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 2), value).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        picture(tmp_path / part / "cat" / "0.png", 51)
        picture(tmp_path / part / "dog" / "0.png", 255)
    return tmp_path


@pytest.mark.parametrize("name", SIDE_FOLDERS)
@pytest.mark.parametrize("full", [False, True])
def test_side_folders_are_no_classes(animals: Path, name: str, full: bool) -> None:
    for part in ("train", "test"):
        for place in (animals, animals / part, animals / part / "cat"):
            (place / name).mkdir(exist_ok=True)
            if full:
                picture(place / name / "0.png", 7)
    train, test = load(str(animals))
    for data in (train, test):
        assert data.classes == ("cat", "dog")
        np.testing.assert_array_equal(data.labels, [0, 1])
        np.testing.assert_allclose(data.images[:, 0, 0, 0], [0.2, 1], rtol=1e-6)


def test_side_files_are_no_images(animals: Path) -> None:
    place = animals / "train" / "cat"
    for name in ("._0.png", ".hidden.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (place / name).write_bytes(b"\0\5\x16\7no image")
    (place / "folder.png").mkdir()
    (animals / "train" / ".DS_Store").write_bytes(b"no folder")
    train, _ = from_folder(animals)
    assert len(train) == 2


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", ["", "note.txt", "._0.png", "0.tif"])
def test_an_empty_class_is_named(animals: Path, part: str, name: str) -> None:
    place = animals / part / "bird"
    place.mkdir()
    if part == "test":
        picture(animals / "train" / "bird" / "0.png")
    if name:
        (place / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"The class bird of .*{part} holds no images; put some into .*bird \(\.bmp"):
        from_folder(animals)


def test_a_link_to_nothing_is_named(animals: Path) -> None:
    (animals / "train" / "cat" / "1.png").symlink_to(animals / "absent.png")
    with pytest.raises(DataError, match=r"1\.png does not exist"):
        from_folder(animals)


def test_side_files_beside_cifar_and_idx_files(tmp_path: Path) -> None:
    records = np.zeros((2, cifar.RECORD), np.uint8).tobytes()
    for part in ("train", "test"):
        (tmp_path / f"my_{part}.bin").write_bytes(records)
        (tmp_path / f"._my_{part}.bin").write_bytes(b"\0\5\x16\7")
    assert [len(part) for part in from_folder(tmp_path)] == [2, 2]
    folder = tmp_path / "idx"
    folder.mkdir()
    for stem, axes in (("train", 3), ("train", 1), ("t10k", 3), ("t10k", 1)):
        name = f"{stem}-{'images' if axes == 3 else 'labels'}-idx{axes}-ubyte"
        (folder / name).write_bytes(bytes([0, 0, 8, axes]) + struct.pack(f">{axes}I", *(1,) * axes) + b"\0")
        (folder / f"._{name}").write_bytes(b"\0\5\x16\7")
    assert [len(part) for part in from_folder(folder)] == [1, 1]


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent cannot be read: No such file"):
        entries(tmp_path / "absent")


@given(st.text(min_size=1))
def test_names_with_a_dot_before_them_are_hidden(name: str) -> None:
    assert is_side_name("." + name)


@given(st.sampled_from(sorted(SIDE_NAMES)), st.randoms())
def test_names_of_side_files_in_any_letters(name: str, random: object) -> None:
    mixed = "".join(letter.upper() if random.random() < 0.5 else letter for letter in name)  # type: ignore[attr-defined]
    assert is_side_name(mixed)
    assert not is_side_name("a " + name)


@pytest.mark.parametrize(
    "name", ["@", "$", "#", "~", "_", "0", "a.b", "cat ", "eaDir", "git", "found.1", "found.0000", "lost.direction"]
)
def test_names_of_classes(name: str) -> None:
    assert not is_side_name(name)
