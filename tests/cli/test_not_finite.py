"""Networks whose numbers are not finite: `eval` and `predict` end in one sentence, and write nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn as fc
from fastcnn.cli.output import write_json
from fastcnn.errors import DataError

Run = Callable[..., Any]
DEVICES = ("cpu", "reference")


def network(dtype: str = "float32") -> fc.Sequential:
    layers = (
        fc.Conv2d(1, 2, 3, padding=1),
        fc.BatchNorm2d(2),
        fc.ReLU(),
        fc.MaxPool2d(2),
        fc.Flatten(),
        fc.Linear(32, 2),
    )
    net = fc.Sequential(*layers, input_shape=(8, 8, 1)).astype(dtype)
    net.draw_missing(0)
    return net


def saved(net: fc.Sequential, folder: Path) -> Path:
    net.save(folder / "net.safetensors", metadata={"classes": ["left", "right"]})
    return folder / "net.safetensors"


def arguments(command: str, path: Path, images: Path) -> list[object]:
    pictures = [images / "test/left/0.png", images / "test/right/0.png"]
    return [command, path, "--data", images] if command == "eval" else [command, path, *pictures]


def check_sentence(result: Any, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("command", ["eval", "predict"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("place", "number"),
    [("conv1.weight", "nan"), ("linear1.bias", "inf"), ("batch_norm1.running_var", "nan"), ("linear1.weight", "-inf")],
)
def test_weights_that_are_not_finite(
    run: Run, images: Path, tmp_path: Path, command: str, device: str, dtype: str, place: str, number: str
) -> None:
    """ReLU and pooling may pass over what one weight in a convolution spoils; the sentence names it all the same."""
    net = network(dtype)
    name, key = place.split(".")
    layer = next(layer for known, layer in net.named_layers() if known == name)
    (layer.params if key in layer.params else layer.state)[key].ravel()[0] = float(number)
    path = saved(net, tmp_path)
    for more in ([], ["--json", tmp_path / "result.json"]):
        result = run(*arguments(command, path, images), "--device", device, *more)
        check_sentence(result, str(path), place, "NaN or infinity")
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("command", ["eval", "predict"])
@pytest.mark.parametrize("device", DEVICES)
def test_scores_that_overflow(run: Run, images: Path, tmp_path: Path, command: str, device: str) -> None:
    """The weights are finite; the scores are not, of one image of two."""
    net = fc.Sequential(fc.Flatten(), fc.Linear(64, 2, bias=False), input_shape=(8, 8, 1))
    weight = np.zeros((64, 2), np.float32)
    weight.reshape(8, 8, 2)[:, 4:] = 3e38  # of the right half
    net[1].params["weight"] = weight.reshape(net[1].params["weight"].shape)
    path = saved(net, tmp_path)
    result = run(*arguments(command, path, images), "--device", device, "--json", tmp_path / "result.json")
    check_sentence(result, str(path), "right/0.png" if command == "predict" else "a loss on", "overflow")
    assert not (tmp_path / "result.json").exists()
    if command == "predict":
        assert run("predict", path, images / "test/left/0.png", "--device", device).exit_code == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(content=st.dictionaries(st.text(), JSON))
def test_json_of_finite_numbers_is_written(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "result.json"
    write_json(path, content, say=lambda line: None)
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -np.float64("inf")])
def test_json_of_other_numbers_is_a_sentence(tmp_path: Path, number: float) -> None:
    content = {"rows": [{"loss": 0.0}, {"losses": (1.0, number)}]}
    with pytest.raises(DataError, match=rf"JSON has no number {number}, .*rows\[1\]\.losses\[1\]\."):
        write_json(tmp_path / "result.json", content)
    assert not list(tmp_path.iterdir())
