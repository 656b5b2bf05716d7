"""The commands that read a saved network: `eval`, `predict`, `summary`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fastcnn as fc

ON_REFERENCE = ("--device", "reference")
Run = Callable[..., Any]
Read = Callable[[Path], Any]


def test_eval(run: Run, model: Path, images: Path, tmp_path: Path, read: Read) -> None:
    result = run("eval", model, "--data", images, *ON_REFERENCE, "--json", tmp_path / "result")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("12 images of halves: accuracy 100.00%, loss 0.")
    content = read(tmp_path / "result")
    assert (content["accuracy"], content["images"]) == (1, 12)
    assert 0 < content["loss"] < 0.5


def test_eval_normalizes_as_training_did(run: Run, tmp_path: Path, read: Read) -> None:
    files = ("--out", tmp_path / "net", "--json", tmp_path / "run")
    run("train", "lenet5", *ON_REFERENCE, "--epochs", 1, *files)
    assert run("eval", tmp_path / "net", *ON_REFERENCE, "--json", tmp_path / "eval").exit_code == 0
    trained, evaluated = read(tmp_path / "run"), read(tmp_path / "eval")
    assert evaluated["accuracy"] == trained["test_accuracy"]
    assert evaluated["loss"] == pytest.approx(trained["epochs"][-1]["val_loss"], rel=1e-5)


def test_eval_needs_data_where_the_model_names_none_or_a_folder_elsewhere(
    run: Run, model: Path, tmp_path: Path
) -> None:
    result = run("eval", model, *ON_REFERENCE)
    assert result.exit_code == 2
    assert "learned from 'halves', which is no folder here; name the data by --data" in result.stderr
    fc.models.lenet5().to("reference").save(tmp_path / "net")
    result = run("eval", tmp_path / "net", *ON_REFERENCE)
    assert result.exit_code == 2
    assert "does not say what it learned from; name the data by --data" in result.stderr


def test_eval_on_other_images(run: Run, model: Path, tmp_path: Path, write_images: Callable[..., Path]) -> None:
    large = write_images(tmp_path / "large", size=(8, 10))
    result = run("eval", model, "--data", large, *ON_REFERENCE)
    assert result.exit_code == 1
    assert "got an array of shape (12, 8, 10, 1), and needs (N, 8, 8, 1)" in result.stderr
    colour = write_images(tmp_path / "colour", mode="RGB")
    result = run("eval", model, "--data", colour, *ON_REFERENCE)
    assert result.exit_code == 1
    assert "got an array of shape (12, 8, 8, 3), and needs (N, 8, 8, 1)" in result.stderr
    result = run("eval", model, "--data", "digits", *ON_REFERENCE)
    assert result.exit_code == 1
    assert "has 10 classes, and the network" in result.stderr


def test_predict(run: Run, model: Path, images: Path, tmp_path: Path, read: Read) -> None:
    files = [images / "test/left/0.png", images / "test/right/1.png"]
    result = run("predict", model, *files, *ON_REFERENCE, "--json", tmp_path / "result")
    assert result.exit_code == 0, result.output
    content = read(tmp_path / "result")["images"]
    assert [image["file"] for image in content] == [str(path) for path in files]
    assert [image["classes"][0]["class"] for image in content] == ["left", "right"]
    assert sum(row["probability"] for row in content[0]["classes"]) == pytest.approx(1)
    assert "left" in result.stdout
    assert "0.png" in result.stdout


def test_predict_inverts_and_converts(run: Run, model: Path, tmp_path: Path, read: Read) -> None:
    image = Image.new("RGB", (8, 8), "white")
    image.paste("black", (0, 0, 4, 8))
    image.save(tmp_path / "dark_left.png")
    for options, answer in ((["--invert"], "left"), ([], "right")):
        arguments = (
            tmp_path / "dark_left.png",
            "--top",
            1,
            "--json",
            tmp_path / "result",
            *options,
        )
        assert run("predict", model, *arguments, *ON_REFERENCE).exit_code == 0
        assert [row["class"] for row in read(tmp_path / "result")["images"][0]["classes"]] == [answer]


def test_predict_resizes_only_when_told(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (32, 16)).save(path)
    result = run("predict", model, path, *ON_REFERENCE)
    assert result.exit_code == 1
    assert "large.png has 16x32 pixels and the model takes 8x8; give --resize" in result.stderr
    assert run("predict", model, path, *ON_REFERENCE, "--resize").exit_code == 0


def test_predict_with_bad_files(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    result = run("predict", model, tmp_path / "text.png", *ON_REFERENCE)
    assert result.exit_code == 1
    assert "text.png cannot be read as an image" in result.stderr
    result = run("predict", model, tmp_path / "absent.png")
    assert result.exit_code == 2
    assert "absent.png' does not exist" in result.stderr
    assert run("predict", model).exit_code == 2


def test_predict_with_a_network_of_other_outputs(run: Run, images: Path, tmp_path: Path) -> None:
    image = fc.Input(8, 8, 1)
    small = fc.Flatten()(image)
    nets = (
        fc.Graph(image, fc.Conv2d(1, 2, 1)(image)),
        fc.Graph(image, (fc.Linear(64, 2)(small), fc.Linear(64, 3)(small))),
    )
    for net, shapes in zip(nets, ("[(8, 8, 2)]", "[(2,), (3,)]"), strict=True):
        net.draw_missing(0)
        net.save(tmp_path / "net")
        result = run("predict", tmp_path / "net", images / "test/left/0.png", *ON_REFERENCE)
        assert result.exit_code == 1
        assert "puts out arrays of shape" in result.stderr
        assert shapes[1:-1] in result.stderr


@pytest.mark.parametrize("command", ["eval", "predict", "summary"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_unreadable_model(run: Run, model: Path, images: Path, tmp_path: Path, command: str, damage: str) -> None:
    content = model.read_bytes()
    bad = {"empty": b"", "text": b"no model at all", "cut": content[: len(content) // 2]}[damage]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(bad)
    more = {"eval": ["--data", images], "predict": [images / "test/left/0.png"], "summary": []}
    result = run(command, path, *more[command])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "bad.safetensors" in result.stderr


def test_summary_of_a_name(run: Run, tmp_path: Path, read: Read) -> None:
    arguments = ("--input-shape", "32x32x1", "--json", tmp_path / "result")
    result = run("summary", "lenet5", *arguments)
    assert result.exit_code == 0, result.output
    assert "61,706 parameters, 416,520 multiply-adds per image" in result.stdout
    assert "Conv2d(6, 16, 5)" in result.stdout
    content = read(tmp_path / "result")
    assert (content["parameters"], content["multiply_adds"]) == (61706, 416520)
    assert content["layers"][0]["output_shape"] == [28, 28, 6]


def test_summary_of_a_file(run: Run, model: Path) -> None:
    result = run("summary", model)
    assert result.exit_code == 0, result.output
    assert "(84, 2)" in result.stdout
    result = run("summary", model, "--classes", 3)
    assert result.exit_code == 2
    assert "leave out --input-shape and --classes" in result.stderr


@pytest.mark.parametrize("shape", ["28x28", "28x28x0", "axbxc", "-1x2x3", "28x28x1x1"])
def test_summary_of_a_shape_that_is_none(run: Run, shape: str) -> None:
    result = run("summary", "lenet5", "--input-shape", shape)
    assert result.exit_code == 2
    assert f"{shape!r} is no image shape; write it as 28x28x1" in result.stderr


def test_summary_of_a_network_without_classes(run: Run) -> None:
    result = run("summary", "autoencoder", "--input-shape", "9x8x1")
    assert (result.exit_code, result.stderr) == (0, "")
    result = run("summary", "autoencoder", "--classes", 3)
    assert result.exit_code == 2
    assert "autoencoder has no classes; leave out --classes." in result.stderr


def test_summary_of_an_unknown_name(run: Run) -> None:
    result = run("summary", "lenet50")
    assert result.exit_code == 2
    assert "did you mean lenet5 or lenet or resnet50?" in result.stderr


def test_summary_of_the_memory(run: Run, tmp_path: Path, read: Read) -> None:
    result = run("summary", "lenet5", "--batch", 32, "--optimizer", "adam", "--json", tmp_path / "memory.json")
    assert result.exit_code == 0, result.output
    assert "training step" in result.output
    found = read(tmp_path / "memory.json")["memory"]
    assert found["batch_size"] == 32
    assert found["training"]["optimizer"] == 2 * found["training"]["gradients"] > 0
    assert found["prediction"]["optimizer"] == found["prediction"]["gradients"] == 0
    for parts in (found["training"], found["prediction"]):
        assert parts.pop("total") == sum(parts.values())
