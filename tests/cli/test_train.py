"""`fastcnn train`: what it prints and writes, and how it refuses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EPOCH_KEYS = ["loss", "accuracy", "val_loss", "val_accuracy", "images_per_s", "seconds"]
TIMES = ("images_per_s", "seconds")
SHORT = ("--epochs", 2, "--device", "reference")


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    epochs = [{key: epoch[key] for key in epoch if key not in TIMES} for epoch in content["epochs"]]
    return {**content, "epochs": epochs, "seconds": None}


def test_train_reports_and_writes(
    run: Callable[..., Any], images: Path, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    result = run("train", "lenet", "--data", images, *SHORT, "--json", tmp_path / "run.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("lenet: 127,072 parameters, on reference")
    assert lines[1] == "halves: 12 training and 12 test images of 8x8x1, 2 classes"
    assert lines[2].split("  ")[0] == "epoch"
    assert [line.split()[0] for line in lines[3:5]] == ["1/2", "2/2"]
    assert all(len(line) == len(lines[2]) < 80 for line in lines[3:5])
    content = read(tmp_path / "run.json")
    assert list(content) == ["epochs", "test_accuracy", "parameters", "seconds"]
    assert [list(epoch) for epoch in content["epochs"]] == [EPOCH_KEYS] * 2
    assert content["test_accuracy"] == content["epochs"][-1]["val_accuracy"]
    assert content["parameters"] == 127072
    assert list(tmp_path.iterdir()) == [tmp_path / "run.json"]


def test_a_seed_repeats_a_run(
    run: Callable[..., Any], images: Path, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        path = tmp_path / name
        assert not run("train", "lenet5", "--data", images, *SHORT, "--seed", seed, "--json", path).exit_code
    first, second, other = (without_times(read(tmp_path / name)) for name in "abc")
    assert first == second
    assert first != other


def test_threads_change_no_digit(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    """Real runs on the cpu room: as many processes as thread counts."""
    for threads in ("1", "2"):
        path = tmp_path / threads
        command = [sys.executable, "-c", "from fastcnn.cli.main import main; main()"]
        command += ["train", "lenet", "--epochs", "1", "--threads", threads, "--json", str(path)]
        environment = os.environ | {"FASTCNN_NUM_THREADS": "2"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"on cpu, {threads} thread" in done.stdout
    one, two = (without_times(read(tmp_path / name)) for name in ("1", "2"))
    assert one == two
    assert one["test_accuracy"] > 0.8


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [1, 1]), ("cosine", [1, 0.5])])
def test_schedule_sets_the_rate_of_each_epoch(
    run: Callable[..., Any],
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    schedule: str,
    rates: list[float],
) -> None:
    from fastcnn.engine.training_step import TrainingStep

    seen = []
    take = TrainingStep.run

    def spy(self: TrainingStep, optimizer: Any, *limits: Any) -> None:
        seen.append(optimizer.lr)
        take(self, optimizer, *limits)

    monkeypatch.setattr(TrainingStep, "run", spy)
    options = ("--schedule", schedule, "--lr", 0.5, "--batch-size", 12)
    assert run("train", "lenet5", "--data", images, *SHORT, *options).exit_code == 0
    np.testing.assert_allclose(seen, [0.5 * rate for rate in rates])


@pytest.mark.parametrize(
    ("given", "images", "used"), [(None, 60_000, 2.5e-4), (None, 1433, 0.01), (None, 12, 0.01), (0.0, 12, 0.0)]
)
def test_weight_decay_is_less_for_more_images(given: float | None, images: int, used: float) -> None:
    from fastcnn.cli.train import _optimizer

    settings = {"optimizer": "sgd", "lr": 0.01, "momentum": None, "weight_decay": given, "decay_bias": True}
    optimizer = _optimizer(settings, images)
    assert optimizer.weight_decay == pytest.approx(used)
    assert (optimizer.lr, optimizer.momentum) == (0.01, 0.9)


@pytest.mark.parametrize(
    ("optimizer", "images", "used"),
    [
        ("sgd", 1433, {"epochs": 40, "batch_size": 16, "lr": 0.01}),
        ("sgd", 60_000, {"epochs": 4, "batch_size": 64, "lr": 0.05}),
        ("adam", 60_000, {"epochs": 4, "batch_size": 64, "lr": 0.001}),
    ],
)
def test_what_is_not_asked_for_suits_the_number_of_images(optimizer: str, images: int, used: dict[str, Any]) -> None:
    from fastcnn.cli.train import _unasked

    asked = {"optimizer": optimizer, "schedule": "step", **dict.fromkeys(used)}
    assert _unasked(asked, images) == used
    assert _unasked(asked | {"epochs": 3}, images) == {name: used[name] for name in ("batch_size", "lr")}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_optimizers(
    run: Callable[..., Any], images: Path, tmp_path: Path, read: Callable[[Path], Any], name: str
) -> None:
    path = tmp_path / "run.json"
    options = ("--optimizer", name, "--schedule", "warmup", "--batch-size", 4, "--weight-decay", 0.001)
    result = run("train", "lenet5", "--data", images, *SHORT, *options, "--json", path)
    assert result.exit_code == 0, result.output
    content = read(path)
    assert list(content) == ["epochs", "test_accuracy", "parameters", "seconds"]
    assert [list(epoch) for epoch in content["epochs"]] == [EPOCH_KEYS] * 2
    assert all(np.isfinite(epoch["loss"]) for epoch in content["epochs"])


@pytest.mark.parametrize("name", ["constant", "step", "exponential", "cosine", "warmup", "onecycle", "plateau"])
def test_schedules(run: Callable[..., Any], images: Path, name: str) -> None:
    result = run("train", "lenet5", "--data", images, *SHORT, "--schedule", name)
    assert result.exit_code == 0, result.output


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list:
    """Return the trainers that are made from here on."""
    import fastcnn as fc

    trainers: list = []
    usual = fc.Trainer.__init__

    def spy(self: Any, *arguments: Any, **keywords: Any) -> None:
        usual(self, *arguments, **keywords)
        trainers.append(self)

    monkeypatch.setattr(fc.Trainer, "__init__", spy)
    return trainers


@pytest.mark.parametrize(
    ("options", "moves"),
    [([], True), (["--momentum", 0.8], False), (["--optimizer", "adagrad"], False), (["--optimizer", "adam"], True)],
    ids=str,
)
def test_one_cycle_moves_a_momentum_that_nobody_gave(
    run: Callable[..., Any], images: Path, made: list, options: list, moves: bool
) -> None:
    result = run("train", "lenet5", "--data", images, *SHORT, "--schedule", "onecycle", *options)
    assert result.exit_code == 0, result.output
    assert [trainer.schedule.cycle_momentum for trainer in made] == [moves]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_clipping_and_the_decay_of_biases(run: Callable[..., Any], images: Path, made: list, name: str) -> None:
    options = ("--data", images, *SHORT, "--optimizer", name)
    for more in ([], ["--clip-norm", 0.5, "--no-decay-bias"], ["--decay-bias"]):
        assert not run("train", "lenet5", *options, *more).exit_code
    assert [trainer.clip_norm for trainer in made] == [None, 0.5, None]
    assert [trainer.optimizer.decay_bias for trainer in made] == [True, False, True]


def test_augment_moves_images_by_the_seed(
    run: Callable[..., Any], images: Path, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    for name, options in (("a", ["--augment"]), ("b", ["--augment"]), ("c", [])):
        options += ["--data", images, *SHORT, "--json", tmp_path / name]
        assert not run("train", "lenet5", *options).exit_code
    first, second, plain = (without_times(read(tmp_path / name)) for name in "abc")
    assert first == second
    assert first["epochs"][0]["loss"] != plain["epochs"][0]["loss"]


@pytest.mark.parametrize(
    ("data", "shape", "kinds", "pixels"),
    [
        ("digits", (8, 8, 1), "RandomShift", (1, 1)),
        ("mnist", (28, 28, 1), "RandomShift", (3, 3)),
        ("fashion", (28, 28, 1), "RandomShift RandomFlip", (3, 3)),
        ("cifar10", (32, 32, 3), "RandomShift RandomFlip", (4, 4)),
        ("photos", (40, 64, 3), "RandomShift", (5, 8)),
    ],
)
def test_augmentation_suits_the_data(data: str, shape: tuple[int, int, int], kinds: str, pixels: tuple) -> None:
    """Normalization is by channel, and what comes in behind a shifted image is black, not the mean."""
    from fastcnn.cli.train import _augmentations
    from fastcnn.data import Normalization

    pictures = np.random.default_rng(0).random((9, *shape), np.float32) * np.arange(1, shape[2] + 1, dtype=np.float32)
    pictures[0] = 0
    normalization = Normalization.fit(pictures)
    assert len(normalization.mean) == shape[2]
    found = _augmentations(data, shape, normalization)
    assert " ".join(type(one).__name__ for one in found) == kinds
    assert found[0].pixels == pixels
    np.testing.assert_array_equal(found[0].fill, normalization.apply(pictures[:1])[0, 0, 0])


def test_until_stops_at_an_accuracy(
    run: Callable[..., Any], images: Path, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    path, net = tmp_path / "run.json", tmp_path / "net.safetensors"
    options = ("--epochs", 50, "--batch-size", 4, "--device", "reference", "--json", path, "--out", net)
    result = run("train", "lenet5", "--data", images, *options, "--until", 1)
    assert result.exit_code == 0, result.output
    content = read(path)
    accuracies = [epoch["val_accuracy"] for epoch in content["epochs"]]
    assert len(accuracies) < 50
    assert [accuracy >= 1 for accuracy in accuracies] == [False] * (len(accuracies) - 1) + [True]
    assert content["reached"] == pytest.approx(sum(epoch["seconds"] for epoch in content["epochs"]))
    assert content["reached"] < content["seconds"]
    assert f"100.00% reached after {content['reached']:.1f} s of training" in result.stdout


def test_until_that_is_not_reached_fails_after_writing(
    run: Callable[..., Any], images: Path, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    path, net = tmp_path / "run.json", tmp_path / "net.safetensors"
    options = ("--lr", 1e-9, "--json", path, "--out", net, "--quiet")
    result = run("train", "lenet5", "--data", images, *SHORT, *options, "--until", 0.99)
    assert result.exit_code == 1
    assert "in 2 epochs was " in result.stderr
    assert "below the 99.00% of --until: train for more --epochs" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert read(path)["reached"] is None
    assert net.exists()


def test_quiet_prints_nothing(run: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    files = ("--out", tmp_path / "net.safetensors", "--json", tmp_path / "run.json")
    result = run("train", "lenet5", "--data", images, *SHORT, *files, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert len(list(tmp_path.iterdir())) == 2


BAD_USAGE = {
    "unknown model": (["lenet55"], "there is no model 'lenet55': did you mean lenet5 or lenet or alexnet?"),
    "no classifier": (["unet"], "'unet' gives no scores of an image's classes"),
    "unknown data": (["lenet", "--data", "minst"], "did you mean mnist?"),
    "missing data folder": (
        ["lenet", "--data", "mnist", "--data-dir", "absent"],
        "'absent' does not exist",
    ),
    "no epochs": (["lenet", "--epochs", 0], "0 is not in the range x>=1"),
    "no norm": (["lenet", "--clip-norm", 0], "0.0 is not in the range x>0"),
    "percent": (["lenet", "--until", 99], "99.0 is not in the range 0<x<=1"),
    "negative rate": (["lenet", "--lr", -1], "-1.0 is not in the range x>0"),
    "infinite rate": (["lenet", "--lr", "inf", "--device", "reference"], "lr=inf was given"),
    "no number": (["lenet", "--batch-size", "many"], "'many' is not a valid integer"),
    "unknown optimizer": (["lenet", "--optimizer", "magic"], "'magic' is not one of 'sgd', 'adam'"),
    "momentum of adam": (
        ["lenet", "--optimizer", "adam", "--momentum", 0.9, "--device", "reference"],
        "adam takes no momentum: leave it out",
    ),
    "no room for the result": (
        ["lenet", "--out", "absent/net"],
        "the folder absent of net does not exist",
    ),
    "result is a folder": (["lenet", "--json", "."], "is a folder; give the name of a file"),
    "too many threads": (["lenet", "--threads", 10000], "threads (=10000) must lie between 1 and"),
    "no model": ([], "Missing argument 'MODEL'"),
}


@pytest.mark.parametrize("case", BAD_USAGE)
def test_bad_usage(run: Callable[..., Any], case: str) -> None:
    arguments, sentence = BAD_USAGE[case]
    result = run("train", *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert not result.stdout


def test_unwritable_folder(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    result = run("train", "lenet", "--out", "net.safetensors")
    assert result.exit_code == 2
    assert "the folder . cannot be written; choose another" in result.stderr


def test_loss_that_is_not_finite(run: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    files = ("--out", tmp_path / "net", "--json", tmp_path / "json")
    result = run("train", "lenet", "--data", images, "--lr", 1e30, *files)
    assert result.exit_code == 1
    assert "in epoch 2, step 2" in result.stderr
    assert "lower the learning rate" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_last_batch_of_one_for_a_norm_is_refused_before_training(
    run: Callable[..., Any], tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    data = write_images(tmp_path / "data", size=(32, 32))
    files = ("--out", tmp_path / "net", "--json", tmp_path / "json")
    result = run("train", "resnet18", "--data", data, "--batch-size", 11, "--device", "reference", *files)
    assert result.exit_code == 1
    assert "the training data of 12 images ends with a batch of 1 where batch_size=11" in result.stderr
    assert "1/" not in result.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [data]


def test_images_too_small_for_the_model(
    run: Callable[..., Any], tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    result = run("train", "lenet", "--data", write_images(tmp_path, size=(3, 3)), *SHORT)
    assert result.exit_code == 1
    assert "needs images of at least 4x4 pixels" in result.stderr


def test_empty_and_damaged_data(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    result = run("train", "lenet", "--data", tmp_path, *SHORT)
    assert result.exit_code == 1
    assert "train holds no images" in result.stderr
    bad = tmp_path / "mnist"
    bad.mkdir()
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (bad / f"{stem}-ubyte").write_bytes(b"\0\0\x08\x03")
    result = run("train", "lenet", "--data", "mnist", "--data-dir", bad, *SHORT)
    assert result.exit_code == 1
    assert "train-images-idx3-ubyte ends within its header" in result.stderr


def test_labels_out_of_range(run: Callable[..., Any], tmp_path: Path) -> None:
    for stem in ("train", "t10k"):
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 8]) + bytes(64)
        )
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 200]))
    result = run("train", "lenet", "--data", "mnist", "--data-dir", tmp_path, *SHORT)
    assert result.exit_code == 1
    assert "Label 200 at position 0 of" in result.stderr
    assert "10 classes need labels from 0 to 9" in result.stderr


def test_defaults_reach_the_accuracy_the_readme_promises(
    run: Callable[..., Any], tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    result = run("train", "lenet", "--json", tmp_path / "run.json", "--quiet")
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "run.json")["test_accuracy"] >= 0.975
