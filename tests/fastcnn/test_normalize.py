"""Normalization: statistics as of float64, of any layout, and in memory that does not grow with the images."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastcnn.data import Normalization, cifar, images, normalize
from fastcnn.data.catalog import from_folder
from fastcnn.errors import CheckpointError, DataError

MEBIBYTE = 1 << 20


def peak(function: Callable[[], object]) -> int:
    """Return the most bytes that a call has at a time, of arrays and Python's objects."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check(found: Normalization, pictures: np.ndarray) -> None:
    pixels = pictures.astype(np.float64).reshape(-1, pictures.shape[-1])
    mean, std = pixels.mean(axis=0), pixels.std(axis=0)
    size = np.abs(pixels).max(initial=1e-300)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-14 * size)
    np.testing.assert_allclose(found.std, np.where(np.ptp(pixels, axis=0) == 0, 1, std), rtol=1e-9, atol=1e-14 * size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.float16, np.int16])
@pytest.mark.parametrize("block", [1, 7, 100, normalize.BLOCK])
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple),
    seed=st.integers(0, 99),
    layout=st.sampled_from(["plain", "channels first", "every other", "reversed", "all one"]),
)
def test_statistics_are_those_of_float64(
    dtype: type, block: int, shape: tuple[int, ...], seed: int, layout: str
) -> None:
    """For dense rows, signals, images and volumes, and blocks that end anywhere."""
    generator = np.random.default_rng(seed)
    pictures = (generator.normal(100, 30, shape)).clip(0, 255).astype(dtype)
    if layout == "channels first":
        pictures = np.moveaxis(np.ascontiguousarray(np.moveaxis(pictures, -1, 1)), 1, -1)
    elif layout == "every other":
        pictures = np.repeat(pictures, 2, axis=0)[::2]
    elif layout == "reversed":
        pictures = pictures[::-1, ..., ::-1]
    elif layout == "all one":
        pictures = np.broadcast_to(pictures[:1], shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalize, "BLOCK", block)
        check(Normalization.fit(pictures), pictures)


@pytest.mark.parametrize("offset", [0, 1e4, -1e6])
def test_nothing_cancels_where_the_mean_is_large(offset: float) -> None:
    pictures = np.random.default_rng(0).normal(offset, 0.5, (300, 16, 16, 3)).astype(np.float32)
    check(Normalization.fit(pictures), pictures)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 255, 1e-30])
def test_a_constant_channel_of_any_value(value: float) -> None:
    pictures = np.full((777, 13, 7, 2), value, np.float32)
    found = Normalization.fit(pictures)
    assert found.std == (1, 1)
    assert found.mean == (float(np.float32(value)),) * 2


@pytest.mark.parametrize(
    "shape", [(600, 32, 32, 3), (3, 512, 400, 3), (1, 1, 614400, 3), (1843200, 1), (30, 16, 64, 60)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("turned", [False, True])
def test_memory_does_not_grow_with_the_images(shape: tuple[int, ...], dtype: type, turned: bool) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8).astype(dtype)
    if turned:
        pictures = pictures.swapaxes(0, -2)
    assert pictures.size * 8 > 14 * MEBIBYTE
    assert peak(lambda: Normalization.fit(pictures)) < 2 * MEBIBYTE


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_applying_takes_the_result_alone(dtype: type) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8).astype(dtype)
    found = Normalization.fit(pictures)
    assert peak(lambda: found.apply(pictures)) < pictures.size * 4 + MEBIBYTE
    result = found.apply(pictures)
    assert result.dtype == np.float32
    right = (pictures.astype(np.float64) - found.mean) / found.std
    np.testing.assert_allclose(result, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("place", [0, -1])
def test_images_that_are_not_finite(bad: float, place: int) -> None:
    pictures = np.zeros((3, 2, 2, 1), np.float64)
    pictures.ravel()[place] = bad
    with pytest.raises(DataError, match="hold NaN, infinity or numbers too large"):
        Normalization.fit(pictures)


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (2, 0, 2, 1), (2, 2, 2, 0), (3,), ()])
def test_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="no pixels to normalize by"):
        Normalization.fit(np.zeros(shape, np.float32))


def test_a_folder_of_images_is_read_into_its_floats(tmp_path: Path) -> None:
    """Pixels are bytes in a list once, and floats; there is no third copy."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 128, 128, 3), dtype=np.uint8)
    for part, count in (("train", 12), ("test", 1)):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(count):
            Image.fromarray(pixels[number]).save(tmp_path / part / "a" / f"{number:02}.png")
    images.read_image_folder(tmp_path)  # imports, once
    assert peak(lambda: from_folder(tmp_path)) < 5.75 * pixels.nbytes
    np.testing.assert_array_equal(from_folder(tmp_path)[0].images, pixels / np.float32(255))


def test_cifar_records_are_copied_once(tmp_path: Path) -> None:
    paths = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for path in paths:
        path.write_bytes(bytes(500 * cifar.RECORD))
    found: Any = None

    def read() -> None:
        nonlocal found
        found = cifar.read(paths)

    assert peak(read) < 2.25 * 1000 * cifar.RECORD
    assert found[0].flags.c_contiguous


@pytest.mark.parametrize("images", [[[1.0]], None, np.full((2, 2, 1), "a"), np.ones((2, 2, 1), complex)])
def test_what_is_no_array_of_numbers_is_refused(images: Any) -> None:
    with pytest.raises(DataError, match=r"^Images are a NumPy array of numbers \(N, H, W, C\), not "):
        Normalization.fit(images)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1e-300), (0.0, 1e300), (1e300, 1.0)])
def test_numbers_that_float32_does_not_hold_are_no_normalization(mean: float, std: float) -> None:
    with pytest.raises(CheckpointError, match="does not fit a network"):
        Normalization.from_metadata({"mean": [mean], "std": [std]}, 1)
