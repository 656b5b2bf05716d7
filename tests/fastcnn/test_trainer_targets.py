"""What a trainer learns from: several outputs, numbers, pixels; and what it does to gradients."""

import numpy as np
import pytest
from small_training import CLASSES, blobs, network, trainer

import fastcnn as fc


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


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_probabilities_and_labels_take_turns(device):
    """Distributions over the classes train as labels do, in one trainer that is given both."""
    images, labels = blobs()
    shares = 0.1 + 0.7 * np.eye(CLASSES)[labels]
    run, hard = trainer(network(device)), trainer(network(device))
    run.fit((images, shares), 8, batch_size=16, validation=(images, labels))
    assert run.evaluate((images, labels)).accuracy == run.evaluate((images, shares)).accuracy > 0.9
    loss = fc.CrossEntropy()
    assert run.evaluate((images, shares), 7).loss == pytest.approx(loss.forward(run.predict(images), shares), rel=1e-5)
    hard.fit((images, labels), 2, batch_size=16)
    one = trainer(network(device))
    one.fit((images, np.eye(CLASSES)[labels]), 1, batch_size=16)
    one.fit((images, labels), 1, batch_size=16)
    np.testing.assert_allclose(one.predict(images), hard.predict(images), rtol=1e-4, atol=1e-5)


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
