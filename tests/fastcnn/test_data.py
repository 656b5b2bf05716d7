"""Data sets by name: the digits, local folders, downloads with checksums, normalization."""

import gzip
import hashlib
import http.server
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastcnn.data as data
from fastcnn.data import catalog, cifar
from fastcnn.data.dataset import Dataset
from fastcnn.data.fetch import RemoteFile, download, unpack
from fastcnn.errors import CheckpointError, DataError

REAL = os.environ.get("FASTCNN_DATA")
real_data = pytest.mark.skipif(REAL is None, reason="FASTCNN_DATA names no folder of data sets")


def small(images: int = 4, labels: int = 4, classes: int = 3) -> Dataset:
    names = tuple(str(name) for name in range(classes))
    pixels = np.zeros((images, 2, 2, 1), dtype=np.float32)
    return Dataset(pixels, np.arange(labels) % 3, names, "small")


def test_digits_are_split_by_class_and_always_the_same() -> None:
    train, test = data.digits()
    assert (len(train), len(test)) == (1433, 364)
    shares = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    digest = hashlib.sha256(test.images.tobytes() + test.labels.tobytes()).hexdigest()
    assert digest[:16] == "4b6d43ff46885414"


def test_digits_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the same digits")
    original = sklearn.load_digits()
    ours = np.concatenate([part.images for part in data.digits()]).reshape(-1, 64)
    labels = np.concatenate([part.labels for part in data.digits()])
    order, original_order = (np.lexsort(rows.T) for rows in (ours, original.data))
    np.testing.assert_array_equal(ours[order] * 16, original.data[original_order])
    np.testing.assert_array_equal(labels[order], original.target[original_order])


def test_dataset_unpacks_to_images_and_labels() -> None:
    dataset = small()
    images, labels = dataset
    assert images is dataset.images
    assert labels is dataset.labels


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"images": 0, "labels": 0}, "small holds no images"),
        ({"labels": 3}, r"has 4 images and labels of shape \(3,\)"),
        ({"classes": 2}, "Label 2 at position 2 of the data set small is out of range; 2 classes"),
    ],
)
def test_bad_dataset(arguments: dict[str, int], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        small(**arguments)


def test_dataset_needs_four_axes() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 2\); give one of four axes"):
        Dataset(np.zeros((2, 2), np.float32), np.zeros(2, np.int64), ("a",), "flat")


def test_dataset_needs_arrays_of_whole_labels() -> None:
    images = np.zeros((2, 2, 2, 1), np.float32)
    with pytest.raises(DataError, match=r"no NumPy arrays; convert them with np\.array"):
        Dataset(images, [0, 0], ("a",), "lists")
    with pytest.raises(DataError, match=r"dtype float64; give whole numbers"):
        Dataset(images, np.zeros(2), ("a",), "floats")


def test_unknown_name() -> None:
    with pytest.raises(DataError, match="no data set and no folder 'minst'; did you mean mnist"):
        data.load("minst")
    with pytest.raises(DataError, match="give a folder or one of digits, mnist"):
        data.load("quux")


def test_folders_given_where_none_belongs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="take no folder"):
        data.load("digits", tmp_path)
    with pytest.raises(DataError, match="leave out the second folder"):
        data.load(str(tmp_path), tmp_path)
    with pytest.raises(DataError, match="absent does not exist"):
        data.mnist(tmp_path / "absent")


def test_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "cifar10"
    place.mkdir()
    for part in ("train", "test"):
        (place / f"{part}.bin").write_bytes(bytes(2 * cifar.RECORD))
    monkeypatch.setenv("FASTCNN_DATA", str(tmp_path))
    train, _ = data.load("cifar10")
    assert len(train) == 2


@real_data
@pytest.mark.parametrize(
    ("name", "counts", "shape"),
    [
        ("mnist", (60000, 10000), (28, 28, 1)),
        ("fashion", (60000, 10000), (28, 28, 1)),
        ("cifar10", None, (32, 32, 3)),
    ],
)
def test_real_data(name: str, counts: tuple[int, int] | None, shape: tuple[int, int, int]) -> None:
    train, test = data.load(name)
    assert counts is None or (len(train), len(test)) == counts
    assert train.image_shape == test.image_shape == shape
    assert train.images.max() == 1
    assert set(np.unique(train.labels)) == set(range(10))


@real_data
@pytest.mark.parametrize(("name", "checksums"), [("mnist", catalog.MNIST_MD5), ("fashion", catalog.FASHION_MD5)])
def test_checksums_are_those_of_the_real_files(name: str, checksums: tuple[str, ...]) -> None:
    assert REAL is not None
    for stem, checksum in zip(catalog.IDX_STEMS, checksums, strict=True):
        path = Path(REAL) / name / (stem + ".gz")
        assert hashlib.md5(path.read_bytes()).hexdigest() == checksum


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield a folder and the URL under which a server of this machine shows it."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    def handler(*arguments: object) -> Quiet:
        return Quiet(*arguments, directory=str(folder))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def test_download_takes_the_first_mirror_that_has_the_file(mirror: tuple[Path, str], empty: Path) -> None:
    folder, url = mirror
    (folder / "file").write_bytes(b"content")
    remote = RemoteFile("file", md5(b"content"), (url + "nothing/", url))
    assert download(remote, empty).read_bytes() == b"content"
    assert [path.name for path in empty.iterdir()] == ["file"]


def test_download_of_other_bytes_leaves_nothing(mirror: tuple[Path, str], empty: Path) -> None:
    folder, url = mirror
    (folder / "file").write_bytes(b"other")
    with pytest.raises(DataError, match=rf"empty lacks file, .*{url}file has other bytes than expected"):
        download(RemoteFile("file", md5(b"content"), (url,)), empty)
    assert not list(empty.iterdir())


def test_download_of_a_missing_file(mirror: tuple[Path, str], empty: Path) -> None:
    with pytest.raises(DataError, match=r"empty lacks file, .*file cannot be reached"):
        download(RemoteFile("file", md5(b"content"), (mirror[1],)), empty)
    assert not list(empty.iterdir())


def test_download_with_no_server(empty: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be reached.*check the network"):
        download(RemoteFile("file", md5(b"content"), ("http://127.0.0.1:1/",)), empty)


def test_missing_idx_files_are_downloaded_into_the_folder(
    mirror: tuple[Path, str], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    images = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes([0, 51, 102, 255])
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 1, 7])
    contents = [gzip.compress(data) for data in (images, labels, images, labels)]
    for stem, content in zip(catalog.IDX_STEMS, contents, strict=True):
        (folder / (stem + ".gz")).write_bytes(content)
    monkeypatch.setattr(catalog, "MNIST_MIRRORS", (url,))
    monkeypatch.setattr(catalog, "MNIST_MD5", tuple(md5(content) for content in contents))
    train, test = data.load("mnist", empty)
    np.testing.assert_allclose(train.images.ravel(), [0, 0.2, 0.4, 1], rtol=1e-6)
    assert test.labels[0] == 7
    assert sorted(path.name for path in empty.iterdir()) == sorted(stem + ".gz" for stem in catalog.IDX_STEMS)


def test_missing_cifar_files_are_downloaded_and_unpacked(
    mirror: tuple[Path, str], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    batches = folder / cifar.ARCHIVE_FOLDER
    batches.mkdir()
    for name in (*cifar.OFFICIAL_TRAIN, *cifar.OFFICIAL_TEST, "readme.html"):
        (batches / name).write_bytes(bytes(3 * cifar.RECORD))
    archive = folder / catalog.CIFAR10_ARCHIVE.name
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, cifar.ARCHIVE_FOLDER)
    remote = RemoteFile(archive.name, md5(archive.read_bytes()), (url,))
    monkeypatch.setattr(catalog, "CIFAR10_ARCHIVE", remote)
    train, test = data.load("cifar10", empty)
    assert (len(train), len(test)) == (15, 3)
    assert not (empty / "readme.html").exists()


def test_archive_members_cannot_leave_the_folder(tmp_path: Path, empty: Path) -> None:
    (tmp_path / "evil").write_bytes(b"x")
    with tarfile.open(tmp_path / "archive.tar", "w") as tar:
        tar.add(tmp_path / "evil", "../../test_batch.bin")
    unpack(tmp_path / "archive.tar", cifar.OFFICIAL_TEST, empty)
    assert [path.name for path in empty.iterdir()] == ["test_batch.bin"]
    assert not (tmp_path.parent / "test_batch.bin").exists()


@pytest.mark.parametrize("count", [1, 1023, 1025])
def test_normalization_is_by_channel(count: int) -> None:
    images = np.random.default_rng(0).random((count, 3, 2, 3), dtype=np.float32)
    images[..., 2] = 0.5
    normalization = data.Normalization.fit(images)
    np.testing.assert_allclose(normalization.mean, images.mean((0, 1, 2), np.float64), rtol=1e-12)
    np.testing.assert_allclose(normalization.std[:2], images[..., :2].std((0, 1, 2), np.float64), rtol=1e-12)
    assert normalization.std[2] == 1
    normal = normalization.apply(images)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-5)


def test_normalization_survives_a_checkpoint() -> None:
    normalization = data.Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 0.5))
    assert data.Normalization.from_metadata(normalization.metadata(), 3) == normalization
    assert data.Normalization.from_metadata({}, 2) == data.Normalization((0.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": [0.0], "std": [0.0]},
        {"mean": [float("nan")], "std": [1.0]},
        {"mean": [0.0, 0.0], "std": [1.0, 1.0]},
        {"mean": "text", "std": [1.0]},
        {"mean": None, "std": 1},
    ],
)
def test_damaged_normalization(metadata: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="does not fit a network of 1 channels"):
        data.Normalization.from_metadata(metadata, 1)
