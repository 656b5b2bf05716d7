"""Labels that do not count from 0, or skip numbers: refused, or numbered anew."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn.data as data
from fastcnn.errors import DataError

LABELS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


def write_idx(folder: Path, train: list[int], test: list[int]) -> Path:
    """Write parts with these labels; an image's pixels are its label."""
    for part, labels in (("train", train), ("t10k", test)):
        pixels = np.repeat(np.array(labels, np.uint8), 4)
        header = struct.pack(">4B3I", 0, 0, 8, 3, len(labels), 2, 2)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels))
    return folder


LETTERS = [*range(1, 27), 5, 5]


@pytest.mark.parametrize(
    ("train", "test", "top", "missing"),
    [(LETTERS, [1, 2], 26, 0), ([0, 2, 3], [0], 3, 1), ([255], [255], 255, 0), ([0, 1, 2, 5, 4], [0], 5, 3)],
)
def test_labels_with_gaps(tmp_path: Path, train: list[int], test: list[int], top: int, missing: int) -> None:
    write_idx(tmp_path, train, test)
    sentence = (
        rf"train-labels.* go up to {top} and {missing} is not among them.*remap_labels=True \(--remap-labels\)\.$"
    )
    with pytest.raises(DataError, match=sentence):
        data.load(str(tmp_path))
    parts = data.load(str(tmp_path), remap_labels=True)
    for part, labels in zip(parts, (train, test), strict=True):
        assert part.classes == tuple(str(label) for label in sorted(set(train)))
        assert [part.classes[number] for number in part.labels] == [str(label) for label in labels]
        np.testing.assert_allclose(part.images[:, 0, 0, 0] * 255, labels, rtol=1e-6)


def test_labels_that_count_from_zero_stay(tmp_path: Path) -> None:
    write_idx(tmp_path, [2, 0, 1, 1], [0, 2])
    plain, anew = (data.load(str(tmp_path), remap_labels=remap) for remap in (False, True))
    for left, right in zip(plain, anew, strict=True):
        assert left.classes == right.classes == ("0", "1", "2")
        np.testing.assert_array_equal(left.labels, right.labels)


def test_labels_of_the_test_part_alone(tmp_path: Path) -> None:
    write_idx(tmp_path, [0, 1], [0, 2])
    with pytest.raises(DataError, match=r"Label 2 at position 1 of .*t10k-labels.* 2 classes .*train-labels"):
        data.load(str(tmp_path))
    with pytest.raises(DataError, match=r"Label 2 does not occur in the training labels \(0, 1\)"):
        data.load(str(tmp_path), remap_labels=True)


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_data_that_number_their_classes(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"classes of {name} are numbered from 0 .* leave out remap_labels"):
        data.load(name, remap_labels=True)
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="leave out remap_labels"):
        data.load(str(tmp_path), remap_labels=True)


@given(LABELS, st.data())
def test_remapping_keeps_names(labels: list[int], draw: st.DataObject) -> None:
    others = draw.draw(st.lists(st.sampled_from(labels)))
    classes, train, test = data.remap_labels(np.array(labels, np.int64), np.array(others, np.int64))
    assert train.dtype == test.dtype == np.int64
    assert [int(classes[number]) for number in train] == labels
    assert [int(classes[number]) for number in test] == others
    assert set(train.tolist()) == set(range(len(classes)))
    assert [int(name) for name in classes] == sorted(set(labels))


def test_remapping_is_exact_beyond_the_integers_of_floats() -> None:
    large = 2**64 - 1
    classes, train, test = data.remap_labels(np.array([large, large - 1], np.uint64), np.array([large], np.uint64))
    assert classes == (str(large - 1), str(large))
    assert (train.tolist(), test.tolist()) == ([1, 0], [1])
    with pytest.raises(DataError, match=f"Label -1 does not occur in the training labels .{large - 1}, {large}"):
        data.remap_labels(np.array([large, large - 1], np.uint64), np.array([-1]))


@pytest.mark.parametrize(
    "labels", [np.array([1.0, 2.0]), np.array(["a"]), np.array([True]), np.array([[1, 2]]), [1, 2], np.array(3)]
)
def test_remapping_needs_whole_numbers(labels: object) -> None:
    with pytest.raises(DataError, match=r"no array \(N,\) of whole numbers"):
        data.remap_labels(labels)


@pytest.mark.parametrize("labels", [[1, 26], [-1, 0], [0, 2**40]])
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint64])
def test_a_data_set_of_other_labels_names_the_remedy(labels: list[int], dtype: type) -> None:
    if not all(np.iinfo(dtype).min <= label <= np.iinfo(dtype).max for label in labels):
        labels = [3, 7]
    with pytest.raises(DataError, match=r"is out of range; 2 classes .* fastcnn\.data\.remap_labels numbers those"):
        data.Dataset(np.zeros((2, 2, 2, 1), np.float32), np.array(labels, dtype), ("a", "b"), "mine")


def test_a_data_set_shows_its_shapes() -> None:
    train, _ = data.digits()
    shown = "Dataset('digits', images (1433, 8, 8, 1) float32, labels (1433,) int64, classes 0, 1, 2, ... 9 (10))"
    assert repr(train) == str(train) == shown
    images = np.zeros((3000, 2, 2, 3), np.uint8)
    names = tuple(f"class {number}" for number in range(1000))
    many = data.Dataset(images, np.zeros(3000, np.uint16), names, "many\nlines")
    assert "\n" not in repr(many)
    assert len(repr(many)) < 160
    assert "(3000, 2, 2, 3) uint8" in repr(many)
    assert "classes a, b)" in repr(data.Dataset(images, many.labels, ("a", "b"), "two"))
