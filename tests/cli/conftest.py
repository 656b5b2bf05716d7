"""What the tests of the commands share: a runner, small data on disk, a trained model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fastcnn.cli.main import main

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the command line in this process; a failure must not show a traceback."""

    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture(scope="session")
def write_images() -> Callable[..., Path]:
    """Write an image data set: in class "left" the left half is lit, in class "right" the right."""

    def write(folder: Path, size: tuple[int, int] = (8, 8), mode: str = "L", count: int = 6) -> Path:
        for part in ("train", "test"):
            for index, name in enumerate(("left", "right")):
                place = folder / part / name
                place.mkdir(parents=True)
                pixels = np.zeros(size, dtype=np.uint8)
                half = size[1] // 2
                pixels[:, index * half : (index + 1) * half] = 255
                for number in range(count):
                    Image.fromarray(pixels // (number + 1)).convert(mode).save(place / f"{number}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    """A folder of 8x8 grey images in two classes."""
    return write_images(tmp_path_factory.mktemp("data") / "halves")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, run: Run, images: Path) -> Path:
    """A network that tells the two classes of `images` apart."""
    path = tmp_path_factory.mktemp("model") / "halves.safetensors"
    result = run(
        "train",
        "lenet5",
        "--data",
        images,
        "--epochs",
        8,
        "--device",
        "reference",
        "--batch-size",
        4,
        "--out",
        path,
    )
    assert result.exit_code == 0, result.output
    assert "test accuracy 100.00%" in result.output
    return path


@pytest.fixture
def quick_roofs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Measure the roofs with as little work as there can be, keep them apart; leave the thread count as it was."""
    from fastcnn.bench.roofline import peak, record
    from fastcnn.kernels.cpu.runtime.launch import set_thread_count, thread_count

    before = thread_count()
    monkeypatch.setattr(record, "ceilings_file", lambda: tmp_path / record.FILE)
    for name, value in {"CALLS": 1, "REPEATS": 1, "TRIAD_BYTES": 1 << 20}.items():
        monkeypatch.setattr(peak, name, value)
    yield
    set_thread_count(before)


@pytest.fixture
def read() -> Callable[[Path], Any]:
    """Read a JSON file."""
    return lambda path: json.loads(path.read_text())
