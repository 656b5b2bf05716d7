"""The trainer: reproducible runs, honest means, refusals, and losses that are no numbers."""

import tracemalloc

import numpy as np
import pytest
from small_training import CLASSES, Data, blobs, network, parameters, trainer, without_times

import fastcnn as fc


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

    def spy(self, held, images, labels, rows, training):
        seen.append(rows.copy())
        return load(self, held, images, labels, rows, training)

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
    from fastcnn.kernels.cpu.runtime import launch

    if launch.thread_limit() < 2:
        pytest.skip("this process has one core")
    rng = np.random.default_rng(1)
    data = Data(rng.standard_normal((130, 28, 28, 1)).astype("f4"), rng.integers(10, size=130))
    results = []
    before = launch.thread_count()
    for count in (1, 2):
        launch.set_thread_count(count)
        try:
            net = fc.models.lenet5()
            run = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.02, momentum=0.9), seed=1)
            history = run.fit(data, 2, batch_size=64, validation=data)
        finally:
            launch.set_thread_count(before)
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


@pytest.mark.parametrize("answer", [True, False, None])
def test_a_callback_may_end_the_training(answer):
    run = trainer(schedule=fc.schedules.Cosine())
    history = run.fit(blobs(), 5, callback=lambda record: answer if run.epoch == 2 else None)
    assert len(history.epochs) == run.epoch == (2 if answer else 5)
    assert run.optimizer.lr == 0.1


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


def residual():
    x = fc.Input(28, 28, 1)
    h = fc.MaxPool2d(2)(fc.ReLU()(fc.BatchNorm2d(16)(fc.Conv2d(1, 16, 3, padding=1)(x))))
    h = fc.ReLU()(fc.BatchNorm2d(16)(fc.Conv2d(16, 16, 3, padding=1)(h)) + h)
    return fc.Graph(x, fc.Linear(16, 10)(fc.Dropout(0.5)(fc.GlobalAvgPool()(h))))


@pytest.mark.parametrize("given", ["float32", "float64"])
@pytest.mark.parametrize("make", [fc.models.lenet5, residual])
def test_step_allocates_no_array_of_the_networks_size(make, given):
    net = make()
    run = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01, momentum=0.9))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((128, 28, 28, 1)).astype(given)
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


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
@pytest.mark.parametrize("augment", [None, fc.augment.RandomFlip()])
def test_a_callback_may_change_the_networks_dtype(device, dtypes, augment):
    first, second = dtypes
    net = fc.Sequential(fc.Flatten(), fc.Linear(12, 3), input_shape=(2, 2, 3)).to(device).astype(first)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((5, 2, 2, 3)), rng.integers(0, 3, 5)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1), augment=augment)
    history = trainer.fit(data, 2, 2, validation=data, callback=lambda record: net.astype(second) is None)
    assert len(history.epochs) == 2
    assert net[1].params["weight"].dtype == second
