"""`--remap-labels`: IDX files whose labels do not count from 0, for the commands that read data."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
ON_REFERENCE = ("--device", "reference")


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """8x8 images of two classes, 1 and 26, whose left or right half is lit."""
    folder = tmp_path / "letters"
    folder.mkdir()
    labels = [1, 26] * 8
    pixels = np.zeros((16, 8, 8), np.uint8)
    pixels[0::2, :, :4] = pixels[1::2, :, 4:] = 255
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape) + bytes(pixels)
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 16) + bytes(labels))
    return folder


def test_labels_are_remapped_when_asked(run: Run, letters: Path, tmp_path: Path, read: Callable[[Path], Any]) -> None:
    net = tmp_path / "net.safetensors"
    training = ("train", "lenet5", "--data", letters, *ON_REFERENCE, "--epochs", 8, "--batch-size", 4, "--out", net)
    result = run(*training)
    assert result.exit_code == 1
    assert "go up to 26 and 0 is not among them" in result.stderr
    assert "--remap-labels" in result.stderr
    assert not net.exists()
    result = run(*training, "--remap-labels")
    assert result.exit_code == 0, result.output
    assert "2 classes" in result.stdout
    assert run("eval", net, "--data", letters, *ON_REFERENCE).exit_code == 1
    result = run("eval", net, "--data", letters, *ON_REFERENCE, "--remap-labels")
    assert result.stdout.startswith("16 images of letters: accuracy 100.00%")
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, 4:] = 255
    Image.fromarray(pixels).save(tmp_path / "right.png")
    run("predict", net, tmp_path / "right.png", *ON_REFERENCE, "--json", tmp_path / "result.json")
    assert read(tmp_path / "result.json")["images"][0]["classes"][0]["class"] == "26"


def test_data_without_such_labels_refuse_the_option(run: Run, images: Path) -> None:
    for source in ("digits", images):
        result = run("train", "lenet5", "--data", source, *ON_REFERENCE, "--remap-labels")
        assert result.exit_code == 1
        assert "leave out remap_labels (--remap-labels)" in result.stderr
