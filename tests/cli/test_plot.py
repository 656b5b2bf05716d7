"""`fastcnn plot filters`: networks, sparse coding, and files without filters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastcnn as fc

pytest.importorskip("matplotlib", reason="the pictures are drawn by matplotlib")

Run = Callable[..., Any]


def save(path: Path, *layers: fc.Layer, shape: tuple[int, ...] = (12, 12, 3)) -> Path:
    fc.Sequential(*layers, input_shape=shape).to("reference").save(path)
    return path


def test_the_first_convolution_beside_the_file(run: Run, tmp_path: Path) -> None:
    path = save(tmp_path / "net.safetensors", fc.ReLU(), fc.Conv2d(3, 6, 5), fc.Conv2d(6, 4, 3, groups=2))
    result = run("plot", "filters", path)
    assert result.exit_code == 0, result.output
    picture = tmp_path / "net.png"
    assert result.stdout == f"conv1: 6 filters of 5x5 on 3 channels\nwrote {picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_layer_by_name(run: Run, tmp_path: Path) -> None:
    up = fc.ConvTranspose2d(6, 4, 3, name="up")
    path, out = save(tmp_path / "net", fc.Conv2d(3, 6, 5), up), tmp_path / "up.svg"
    result = run("plot", "filters", path, "--layer", "up", "--out", out)
    assert result.exit_code == 0, result.output
    assert "up: 4 filters of 3x3 on 6 channels" in result.stdout
    assert out.read_bytes().startswith(b"<?xml")
    result = run("plot", "filters", path, "--layer", "down", "--out", out)
    assert result.exit_code == 2
    assert "--layer 'down' names no filters" in result.stderr
    assert "choose one of conv1, up." in result.stderr


@pytest.mark.parametrize(("rank", "shape"), [(1, (9, 2)), (3, (5, 5, 5, 2))])
def test_signals_and_volumes(run: Run, tmp_path: Path, rank: int, shape: tuple[int, ...]) -> None:
    layer = {1: fc.Conv1d, 3: fc.Conv3d}[rank](2, 3, 3)
    result = run("plot", "filters", save(tmp_path / "net", layer, shape=shape))
    assert result.exit_code == 0, result.output
    assert f"3 filters of {'x'.join('3' * rank)} on 2 channels" in result.stdout


def test_sparse_coding(run: Run, tmp_path: Path) -> None:
    first, second = fc.SparseCoding(1, 6, 5), fc.SparseCoding(6, 4, 3)
    first.save(tmp_path / "one")
    result = run("plot", "filters", tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert "layer1: 6 filters of 5x5 on 1 channel\n" in result.stdout
    fc.SparseCodingStack(first, second).save(tmp_path / "two")
    result = run("plot", "filters", tmp_path / "two", "--layer", "layer2")
    assert result.exit_code == 0, result.output
    assert "layer2: 4 filters of 3x3 on 6 channels\n" in result.stdout


def test_files_without_filters(run: Run, tmp_path: Path) -> None:
    result = run("plot", "filters", save(tmp_path / "net", fc.Flatten(), fc.Linear(4, 2), shape=(2, 2, 1)))
    assert result.exit_code == 1
    assert "has no convolution, and so no filters to draw" in result.stderr
    (tmp_path / "text").write_text("no model")
    result = run("plot", "filters", tmp_path / "text")
    assert result.exit_code == 1
    assert "is damaged or no safetensors file" in result.stderr
    result = run("plot", "filters", tmp_path / "absent")
    assert result.exit_code == 2
    result = run("plot", "filters", tmp_path / "net", "--out", tmp_path / "net.txt")
    assert result.exit_code == 2
    assert "use one of jpg, pdf, png, svg" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "text"]


def test_help(run: Run) -> None:
    assert "filters" in run("plot", "--help").stdout
    assert "--layer" in run("plot", "filters", "--help").stdout
    assert run("plot", "maps").exit_code == 2
