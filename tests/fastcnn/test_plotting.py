"""Pictures of filters: scale, colour, layout, formats, and what is refused."""

import builtins

import numpy as np
import pytest
from PIL import Image

from fastcnn import plotting
from fastcnn.errors import ArgumentError, BackendError, DataError


def test_the_scale_is_symmetric_around_0_filter_by_filter():
    w = np.zeros((2, 3, 1, 3))
    w[0, 1, 0] = 4.0, -0.5, 0.0
    w[1, 2, 0] = -2.0, 0.25, 0.0
    pictures = plotting.tiles(w)
    assert pictures.shape == (3, 1, 2, 3)
    np.testing.assert_array_equal(pictures[:, 0, 0, 1], [1, 0, 0.5])
    np.testing.assert_array_equal(pictures[:, 0, 1, 2], [0.25, 0.75, 0.5])


def test_three_channels_are_colours_and_others_grey():
    w = np.random.default_rng(0).normal(size=(4, 5, 3, 6))
    colour = plotting.tiles(w)
    assert colour.shape == (6, 1, 4, 5, 3)
    v = np.abs(w[..., 2]).max()
    np.testing.assert_allclose(colour[2, 0], w[..., 2] / (2 * v) + 0.5)
    grey = plotting.tiles(w[:, :, :2])
    assert grey.shape == (6, 2, 4, 5)
    v = np.abs(w[:, :, :2, 4]).max()
    np.testing.assert_allclose(grey[4, 1], w[:, :, 1, 4] / (2 * v) + 0.5)


def test_signals_are_rows_and_volumes_slices_side_by_side():
    assert plotting.tiles(np.zeros((7, 3, 4))).shape == (4, 3, 1, 7)
    w = np.random.default_rng(0).normal(size=(2, 3, 4, 1, 5))
    pictures = plotting.tiles(w)
    assert pictures.shape == (5, 1, 3, 8)
    v = np.abs(w[..., 1]).max()
    np.testing.assert_allclose(pictures[1, 0, :, 4:], w[1, :, :, 0, 1] / (2 * v) + 0.5)


@pytest.mark.parametrize("shape", [(5, 5, 1, 7), (3, 2, 3, 1), (3, 3, 2, 4), (9, 2, 3), (2, 3, 3, 1, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_a_file_of_each_kind(tmp_path, monkeypatch, shape, ending):
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    monkeypatch.delenv("DISPLAY", raising=False)
    path = tmp_path / f"filters.{ending}"
    plotting.plot_filters(np.random.default_rng(0).normal(size=shape).astype("float32"), path, "conv1")
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}[ending])


def test_the_picture_shows_the_filters(tmp_path):
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    w = np.stack([np.full((2, 2, 1), value) for value in (1.0, -1.0)], axis=-1)
    plotting.plot_filters(w, tmp_path / "filters.png")
    pixels = np.asarray(Image.open(tmp_path / "filters.png").convert("L"))
    middle = pixels[int(pixels.shape[0] * 0.65)]
    assert middle[len(middle) // 4] == 255
    assert middle[3 * len(middle) // 4] == 0


def test_what_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    path = tmp_path / "filters.png"
    for name in ("filters", "filters.txt"):
        with pytest.raises(ArgumentError, match=r"use one of .*png"):
            plotting.plot_filters(np.zeros((1, 1, 1, 1)), tmp_path / name)
    with pytest.raises(DataError, match="NaN or infinity"):
        plotting.plot_filters(np.full((1, 1, 1, 1), np.nan), path)
    with pytest.raises(DataError, match="make 262,144 tiles"):
        plotting.plot_filters(np.zeros((1, 1, 512, 512)), path)
    with pytest.raises(DataError, match="cannot be written"):
        plotting.plot_filters(np.zeros((1, 1, 1, 1)), tmp_path / "no" / "filters.png")
    usual = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return usual(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match=r'pip install "fastcnn\[plot\]"'):
        plotting.check_plot(path)
    assert not path.exists()
