"""The trainer: reproducible runs, honest means, refusals, and losses that are no numbers."""

import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest

import fastcnn as fc

CLASSES = 3


class Data(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


def blobs(count: int = 50) -> Data:
    """Images whose brightest quarter is their class: easy to learn."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=count)
    images = 0.3 * rng.standard_normal((count, 6, 6, 1))
    for image, label in zip(images, labels, strict=True):
        image[3 * (label // 2) :][:3, 3 * (label % 2) :][:, :3] += 1
    return Data(images.astype(np.float32), labels)


def network(device: str = "reference") -> fc.Sequential:
    return fc.Sequential(
        fc.Conv2d(1, 5, 3, padding=1), fc.ReLU(), fc.MaxPool2d(2), fc.Flatten(),
        fc.Linear(45, CLASSES), input_shape=(6, 6, 1),
    ).to(device)  # fmt: skip


def trainer(net: fc.Graph | None = None, lr: float = 0.1, loss=None, **keywords) -> fc.Trainer:
    optimizer = fc.SGD(lr, momentum=0.9)
    return fc.Trainer(network() if net is None else net, loss or fc.CrossEntropy(), optimizer, **keywords)


def parameters(net: fc.Graph) -> np.ndarray:
    return net.own_store().values.copy()


def without_times(history: fc.History) -> list[dict]:
    return [
        {key: value for key, value in epoch.items() if key not in ("images_per_s", "seconds")}
        for epoch in history.epochs
    ]


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_training_learns_and_reports(device):
    run = trainer(network(device))
    seen = []
    history = run.fit(blobs(), 8, batch_size=16, validation=blobs(), callback=seen.append)
    assert seen == history.epochs
    assert len(history.epochs) == 8
    last = history.epochs[-1]
    assert set(last) == {
        "loss", "accuracy", "val_loss", "val_accuracy", "images_per_s", "seconds",
    }  # fmt: skip
    assert last["val_accuracy"] == 1.0
    assert last["loss"] < history.epochs[0]["loss"]
    assert last["seconds"] > 0
    assert last["images_per_s"] > 0


def test_evaluation_is_the_mean_over_all_images_for_any_batch_size():
    run = trainer()
    data = blobs(23)
    logits = run.net.predict(data.images).astype(np.float64)
    shifted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -shifted[np.arange(23), data.labels].mean()
    accuracy = (logits.argmax(axis=1) == data.labels).mean()
    for batch_size in (1, 7, 23, 100):
        result = run.evaluate(data, batch_size)
        assert result.loss == pytest.approx(loss, rel=1e-5)
        assert result.accuracy == accuracy
    np.testing.assert_array_equal(run.predict(data.images), run.net.predict(data.images))


def test_validation_in_fit_is_evaluate_after_the_epoch():
    run = trainer()
    history = run.fit(blobs(), 1, validation=blobs(31))
    result = run.evaluate(blobs(31))
    assert history.epochs[0]["val_loss"] == pytest.approx(result.loss, rel=1e-6)
    assert history.epochs[0]["val_accuracy"] == result.accuracy
    assert run.fit(blobs(), 1).epochs[0]["val_loss"] is None


@pytest.mark.parametrize("count", [32, 37])
def test_every_image_is_used_once_an_epoch(count, monkeypatch):
    run = trainer()
    seen = []
    load = fc.Trainer._load

    def spy(self, images, labels, rows, training):
        seen.append(rows.copy())
        return load(self, images, labels, rows, training)

    monkeypatch.setattr(fc.Trainer, "_load", spy)
    run.fit(blobs(count), 2, batch_size=16)
    half = len(seen) // 2
    first, second = np.concatenate(seen[:half]), np.concatenate(seen[half:])
    np.testing.assert_array_equal(np.sort(first), np.arange(count))
    np.testing.assert_array_equal(np.sort(second), np.arange(count))
    assert (first != second).any()
    assert {len(rows) for rows in seen} == {16} | ({5} if count == 37 else set())


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_one_seed_gives_one_run(device):
    runs = [trainer(network(device), seed=seed) for seed in (5, 5, 6)]
    histories = [run.fit(blobs(), 2, batch_size=16, validation=blobs()) for run in runs]
    assert without_times(histories[0]) == without_times(histories[1])
    np.testing.assert_array_equal(parameters(runs[0].net), parameters(runs[1].net))
    assert (parameters(runs[0].net) != parameters(runs[2].net)).any()


def test_one_and_two_threads_give_the_same_bits():
    from fastcnn.kernels.cpu import threads

    if threads.thread_limit() < 2:
        pytest.skip("this process has one core")
    rng = np.random.default_rng(1)
    data = Data(rng.standard_normal((130, 28, 28, 1)).astype("f4"), rng.integers(10, size=130))
    results = []
    before = threads.thread_count()
    for count in (1, 2):
        threads.set_thread_count(count)
        try:
            net = fc.models.lenet5()
            run = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.02, momentum=0.9), seed=1)
            history = run.fit(data, 2, batch_size=64, validation=data)
        finally:
            threads.set_thread_count(before)
        results.append((without_times(history), parameters(net)))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_trainer_keeps_weights_that_somebody_set():
    net = network()
    net.layers[0].params["weight"] = np.ones((3, 3, 1, 5))
    trainer(net, seed=9)
    assert (net.layers[0].params["weight"] == 1).all()
    fresh, initialized = network(), network()
    trainer(fresh, seed=9)
    initialized.initialize(9)
    np.testing.assert_array_equal(parameters(fresh), parameters(initialized))


def test_device_is_moved_only_on_request():
    assert trainer(network("reference")).net.device == "reference"
    assert trainer(network("cpu"), device="reference").net.device == "reference"
    with pytest.raises(fc.BackendError, match=r"'cuda'"):
        trainer(network(), device="cuda")


def test_learning_rate_may_change_between_epochs():
    def stop(record):
        run.optimizer.lr = 0.0

    run = trainer()
    run.fit(blobs(), 1, callback=stop)
    run.optimizer.state.clear()
    before = parameters(run.net)
    run.fit(blobs(), 1)
    np.testing.assert_array_equal(parameters(run.net), before)


def with_images(images: np.ndarray) -> Data:
    return Data(images, blobs(len(images)).labels if images.ndim else np.zeros(1, int))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (with_images(np.ones((4, 8, 6, 1), "f4")), "needs (N, 6, 6, 1)"),
        (with_images(np.ones((4, 6, 6, 3), "f4")), "needs (N, 6, 6, 1)"),
        (with_images(np.ones((4, 1, 6, 6), "f4")), "from_nchw"),
        (with_images(np.ones((4, 6, 6, 1), "u1")), "/ 255"),
        (with_images(np.ones((0, 6, 6, 1), "f4")), "holds no images"),
        (Data(np.ones((2, 6, 6, 1)), np.array([0, 3])), "label 3 at position 1 is out of range"),
        (Data(np.ones((2, 6, 6, 1)), np.array([-1, 0])), "label -1 at position 0"),
        (Data(np.ones((2, 6, 6, 1)), np.array([0.0, 1.0])), "whole numbers"),
        (Data(np.ones((2, 6, 6, 1)), np.array([0, 1, 1])), "2 images"),
        (Data(np.ones((2, 6, 6, 1)), [[0], [1, 1]]), "lists of different lengths"),
        (np.ones((4, 6, 6, 1)), "give (images, labels)"),
        (7, "give (images, labels)"),
    ],
)
def test_wrong_data_is_refused_before_anything_runs(data, sentence):
    run = trainer()
    before = parameters(run.net)
    for use in (run.fit, run.evaluate):
        with pytest.raises(fc.FastcnnError) as caught:
            use(data)
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(fc.FastcnnError):
        run.fit(blobs(), validation=data)
    np.testing.assert_array_equal(parameters(run.net), before)


def test_wrong_numbers_and_networks_are_refused():
    run = trainer()
    for keywords in ({"epochs": 0}, {"batch_size": 0}, {"batch_size": 2.5}):
        with pytest.raises(fc.ArgumentError, match=next(iter(keywords))):
            run.fit(blobs(), **keywords)
    with pytest.raises(fc.DataError, match=r"shape \(50, 6, 6\), or end the network with a Flatten and a Linear"):
        trainer(fc.Sequential(fc.ReLU(), input_shape=(6, 6, 1)).to("reference")).fit(blobs())
    net, loss, optimizer = run.net, fc.CrossEntropy(), fc.SGD(0.1)
    for parts, sentence in (((net, optimizer, loss), "loss=SGD"), (([], loss, optimizer), r"net=\[\]")):
        with pytest.raises(fc.ArgumentError, match=sentence):
            fc.Trainer(*parts)
    x = fc.Input(3)
    with pytest.raises(fc.ArgumentError, match=r"2 outputs"):
        trainer(fc.Graph(x, [fc.ReLU()(x), fc.Identity()(x)]))


def test_classes_of_a_data_set_must_be_those_of_the_network():
    from fastcnn.data import Dataset

    images, labels = blobs()
    data = Dataset(images, labels, ("a", "b", "c", "d"), "blobs")
    with pytest.raises(fc.DataError, match=r"build it with classes=4"):
        trainer().fit(data)


def test_loss_that_is_no_number_stops_and_keeps_the_weights():
    run = trainer()
    images, labels = blobs()
    run.step(images, labels)
    before = parameters(run.net)
    images[3] = np.nan
    with pytest.raises(fc.TrainingError) as caught:
        run.step(images, labels)
    assert "step 2" in str(caught.value)
    assert "the input" in str(caught.value)
    np.testing.assert_array_equal(parameters(run.net), before)


def test_first_layer_with_a_non_finite_output_is_named():
    run = trainer()
    run.net.layers[-1].params["bias"] = [np.inf, 0, 0]
    before = parameters(run.net)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(fc.TrainingError, match=r"epoch 1, step 1, .* output of linear1"),
    ):
        run.fit(blobs(), 1)
    np.testing.assert_array_equal(parameters(run.net), before)


def test_gradient_that_overflows_is_named_and_not_applied():
    net = network()
    run = trainer(net)
    net.layers[0].params["weight"] = np.zeros((3, 3, 1, 5))
    net.layers[-1].params["weight"] = np.full((45, CLASSES), 3e38) * [1, -1, 1]
    net.layers[0].params["bias"] = np.full(5, 1e-38)
    before = parameters(net)
    images, labels = blobs()
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(fc.TrainingError, match=r"gradient of weight in conv1"),
    ):
        run.step(images * 10, labels)
    np.testing.assert_array_equal(parameters(net), before)


def test_huge_learning_rate_ends_in_one_sentence():
    run = trainer(lr=1e12)
    with np.errstate(all="ignore"), pytest.raises(fc.TrainingError, match=r"lower the learning"):
        run.fit(blobs(), 50, batch_size=8)


def test_step_allocates_no_array_of_the_networks_size():
    net = fc.models.lenet5()
    run = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01, momentum=0.9))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((128, 28, 28, 1)).astype(np.float32)
    labels = rng.integers(10, size=128)
    for _ in range(2):
        run.step(images, labels)
    tracemalloc.start()
    try:
        run.step(images, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024  # the smallest activation that matters, 128 x 400 floats, is larger


def test_progress_bar_shows_the_numbers(capsys):
    run = trainer(progress=True)
    run.fit(blobs(), 1, batch_size=16)
    assert "epoch 1/1" in capsys.readouterr().err
    seen = []
    run.fit(blobs(), 2, batch_size=16, callback=lambda record: seen.append(capsys.readouterr().err))
    assert all(text.endswith("\x1b[2K") for text in seen)  # the line is erased before a callback prints its own
    trainer(progress=False).fit(blobs(), 1)
    trainer().fit(blobs(), 1)
    assert capsys.readouterr().err == ""


def two_heads(device: str = "reference") -> fc.Graph:
    x = fc.Input(6, 6, 1)
    h = fc.Flatten()(fc.ReLU()(fc.Conv2d(1, 5, 3, padding=1)(x)))
    outputs = [fc.Linear(180, CLASSES, name="kind")(h), fc.Linear(180, 2, name="place")(h)]
    return fc.Graph(x, outputs).to(device)


def two_targets(count: int = 50) -> tuple[np.ndarray, dict]:
    images, labels = blobs(count)
    places = np.stack([labels // 2, labels % 2], axis=1).astype(float)
    return images, {"kind": labels, "place": places}


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_several_outputs_learn_together(device):
    loss = fc.MultiTask({"place": (fc.MeanSquaredError(), 0.5), "kind": (fc.CrossEntropy(), 1.0)})
    run = trainer(two_heads(device), loss=loss, lr=0.05)
    images, targets = two_targets()
    history = run.fit((images, targets), 15, batch_size=16, validation=(images, targets))
    assert history.epochs[-1]["val_accuracy"] == 1.0
    kind, place = run.predict(images)
    assert (kind.argmax(axis=1) == targets["kind"]).all()
    assert np.abs(place - targets["place"]).mean() < 0.2
    result = run.evaluate((images, (targets["kind"], targets["place"])), batch_size=7)
    alone = fc.MultiTask({"kind": (fc.CrossEntropy(), 1.0), "place": (fc.MeanSquaredError(), 0.5)})
    assert result.loss == pytest.approx(alone.forward((kind, place), (targets["kind"], targets["place"])), rel=1e-5)


def test_gradients_of_several_outputs_are_finite_differences():
    net = two_heads().astype("float64")
    loss = fc.MultiTask({"kind": (fc.CrossEntropy(), 0.3), "place": (fc.L1(), 2.0)})
    run = trainer(net, loss=loss, lr=0.0)
    images, targets = two_targets(3)
    value = run.step(images, targets)
    for name in ("conv1", "kind", "place"):
        layer = dict(net.named_layers())[name]
        gradient, weight = layer.grads["weight"].copy(), layer.params["weight"]
        weight.flat[1] += 1e-6
        slope = (run.step(images, targets) - value) / 1e-6
        weight.flat[1] -= 1e-6
        assert gradient.flat[1] == pytest.approx(slope, abs=1e-5)
        assert abs(slope) > 1e-4


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ({"kind": np.zeros(50, int)}, "targets for kind were given, and the heads are kind, place"),
        ((np.zeros(50, int),), "targets were given as 1 arrays"),
        (np.zeros(50, int), "targets were given as ndarray"),
        ({"kind": np.zeros(50, int), "place": np.zeros((50, 3))}, r"targets of shape \(50, 3\)"),
        ({"kind": np.full(50, 3), "place": np.zeros((50, 2))}, "label 3 at position 0"),
    ],
)
def test_wrong_targets_of_several_outputs(targets, sentence):
    loss = fc.MultiTask({"kind": (fc.CrossEntropy(), 1.0), "place": (fc.L1(), 1.0)})
    with pytest.raises(fc.DataError, match=sentence):
        trainer(two_heads(), loss=loss).fit((blobs().images, targets))


def test_heads_must_be_the_outputs():
    with pytest.raises(fc.ArgumentError, match="heads kind, where, and the network the outputs kind, place"):
        trainer(two_heads(), loss=fc.MultiTask({"kind": (fc.CrossEntropy(), 1.0), "where": (fc.L1(), 1.0)}))
    with pytest.raises(fc.ArgumentError, match="2 outputs, and one loss: give a MultiTask"):
        trainer(two_heads())


@pytest.mark.parametrize("loss", [fc.MeanSquaredError(), fc.SumSquaredError(), fc.SmoothL1(), fc.L1()], ids=repr)
def test_regression_learns_and_has_no_accuracy(loss, capsys):
    images, labels = blobs()
    data = (images, np.stack([labels == k for k in range(CLASSES)], axis=1).astype(float))
    run = trainer(loss=loss, lr=0.01, progress=True)
    history = run.fit(data, 6, batch_size=16, validation=data)
    first, last = history.epochs[0], history.epochs[-1]
    assert (last["accuracy"], last["val_accuracy"]) == (None, None)
    assert "accuracy" not in capsys.readouterr().err
    assert last["val_loss"] < first["val_loss"]
    for batch_size in (1, 7, 50):
        assert run.evaluate(data, batch_size).loss == pytest.approx(last["val_loss"], rel=1e-5)
    total = loss.forward(run.predict(images), data[1])
    assert last["val_loss"] == pytest.approx(total / (50 if loss.reduction == "sum" else 1), rel=1e-5)


def test_means_count_what_the_loss_counts():
    """With ignored labels and weights, an epoch's loss is that of all its images at once."""
    images, labels = blobs()
    labels = np.where(np.arange(50) % 3 == 0, -100, labels)
    loss = fc.CrossEntropy([1.0, 2.0, 5.0])
    run = trainer(loss=loss)
    outputs = run.predict(images)
    whole = loss.forward(outputs, labels)
    share = (outputs.argmax(axis=1) == labels)[labels >= 0].mean()
    for batch_size in (1, 3, 50):
        result = run.evaluate((images, labels), batch_size)
        assert result.loss == pytest.approx(whole, rel=1e-5)
        assert result.accuracy == pytest.approx(share)


def test_labels_of_pixels():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 6, 6, 1)).astype("f4")
    labels = (images[..., 0] > 0).astype(int)
    net = fc.Sequential(fc.Conv2d(1, 2, 1), input_shape=(6, 6, 1)).to("reference")
    history = trainer(net, lr=1.0).fit((images, labels), 20, batch_size=10)
    assert history.epochs[-1]["accuracy"] > 0.97
    binary = fc.Sequential(fc.Conv2d(1, 1, 1), input_shape=(6, 6, 1)).to("reference")
    run = trainer(binary, lr=1.0, loss=fc.BinaryCrossEntropy())
    assert run.fit((images, labels[..., None]), 20, batch_size=10).epochs[-1]["accuracy"] > 0.97


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_clipping(device):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    images, labels = blobs()
    gradients = {}
    for name, limits in {
        "none": {}, "norm": {"clip_norm": 0.1}, "large": {"clip_norm": 1e3}, "value": {"clip_value": 0.01},
        "both": {"clip_value": 0.01, "clip_norm": 0.05},
    }.items():  # fmt: skip
        net = network(device).astype("float64")
        run = trainer(net, seed=3, **limits)
        run.step(images, labels)
        gradients[name] = net.own_store().gradients.copy()
    for name in gradients:
        twin = torch.nn.Parameter(torch.tensor(gradients["none"]))
        twin.grad = torch.tensor(gradients["none"])
        if name in ("value", "both"):
            torch.nn.utils.clip_grad_value_([twin], 0.01)
        if name in ("norm", "large", "both"):
            torch.nn.utils.clip_grad_norm_([twin], {"norm": 0.1, "large": 1e3, "both": 0.05}[name])
        np.testing.assert_allclose(gradients[name], twin.grad.numpy(), rtol=1e-12)
    assert len({gradient.tobytes() for gradient in gradients.values()}) == 4
    for keywords in ({"clip_norm": -1}, {"clip_value": float("nan")}):
        with pytest.raises(fc.ArgumentError, match="clip_"):
            trainer(**keywords)


def lrs(run: fc.Trainer, monkeypatch) -> list:
    seen = []
    update = fc.SGD.update

    def spy(self, *arguments):
        seen.append(self.lr)
        update(self, *arguments)

    monkeypatch.setattr(fc.SGD, "update", spy)
    return seen


def test_schedules_by_epoch_and_by_step(monkeypatch):
    for schedule, want in (
        (fc.schedules.Cosine(), [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
        (fc.schedules.Exponential(0.5, by="step"), [0.5 ** (i / 4) for i in range(8)]),
        (fc.schedules.Warmup(length=1, first=0.2), [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]),
    ):
        run = trainer(schedule=schedule)
        seen = lrs(run, monkeypatch)
        for _ in range(2):  # every fit begins anew, at the rate the optimizer has then
            seen.clear()
            run.fit(blobs(), 2, batch_size=16)
            assert seen == pytest.approx([0.1 * factor for factor in want])
            assert run.optimizer.lr == 0.1


def test_plateau_divides_the_rate_when_validation_stops_improving(monkeypatch):
    plateau = fc.schedules.ReduceOnPlateau(patience=0, threshold=1e9, threshold_mode="abs")  # nothing is good enough
    run = trainer(schedule=plateau)
    seen = lrs(run, monkeypatch)
    run.fit(blobs(16), 4, batch_size=16, validation=blobs(9))
    assert seen == pytest.approx([0.1, 0.1, 0.01, 0.001])
    with pytest.raises(fc.ArgumentError, match="watches val_loss, and there is no validation data"):
        run.fit(blobs())
    other = trainer(loss=fc.L1(), schedule=fc.schedules.ReduceOnPlateau("max", metric="accuracy"))
    with pytest.raises(fc.ArgumentError, match="loss has no classes"):
        other.fit((blobs().images, np.zeros((50, CLASSES))))
    with pytest.raises(fc.ArgumentError, match="watches 'height'"):
        trainer(schedule=fc.schedules.ReduceOnPlateau(metric="height")).fit(blobs())
    with pytest.raises(fc.ArgumentError, match="schedule='cosine'"):
        trainer(schedule="cosine")


def test_an_interrupted_fit_gives_the_rate_back():
    run = trainer(schedule=fc.schedules.Cosine())

    def stop(record):
        if run.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.fit(blobs(), 4, callback=stop)
    assert run.optimizer.lr == 0.1


def test_a_target_that_is_no_number_is_named():
    run = trainer(loss=fc.MeanSquaredError())
    targets = np.zeros((50, CLASSES))
    targets[7, 1] = np.nan
    with pytest.raises(fc.TrainingError, match="first seen in the targets"):
        run.step(blobs().images, targets)


@pytest.mark.parametrize(
    "optimizer", [fc.Adam(0.01), fc.AdamW(0.01), fc.RMSprop(0.01), fc.Adagrad(0.05)], ids=lambda o: type(o).__name__
)
def test_every_optimizer_learns(optimizer):
    run = fc.Trainer(network("cpu"), fc.CrossEntropy(), optimizer)
    assert run.fit(blobs(), 8, batch_size=16).epochs[-1]["accuracy"] > 0.9
    assert optimizer.steps == 8 * 4


def test_spared_biases_do_not_decay():
    net = network()
    net.initialize(0)
    for layer in net.layers:
        if layer.params:
            layer.params["bias"] = np.ones_like(layer.params["bias"])
    before = {key: value.copy() for key, value in net.own_store().named(net.own_store().values).items()}
    optimizer = fc.AdamW(0.1, weight_decay=0.5, decay_bias=False)
    run = fc.Trainer(net, fc.CrossEntropy([0.0] * CLASSES), optimizer)  # no loss, no gradient: nothing but decay
    run.step(*blobs())
    for key, value in net.own_store().named(net.own_store().values).items():
        np.testing.assert_allclose(value, before[key] * (1.0 if key.endswith("bias") else 0.95), rtol=1e-6)
