"""Arguments that are assigned after a layer has run: they count from the next call, or are refused."""

from typing import Any

import numpy as np
import pytest

import fastcnn as fc

X = np.random.default_rng(0).standard_normal((6, 5, 5, 4)).astype(np.float32)
LABELS = np.arange(6) % 3

ADJUSTED = [
    (lambda **k: fc.BatchNorm2d(4, **k), "eps", 2.0),
    (lambda **k: fc.InstanceNorm2d(4, **k), "eps", 2.0),
    (lambda **k: fc.GroupNorm(2, 4, **k), "eps", 2.0),
    (lambda **k: fc.LayerNorm(4, **k), "eps", 2.0),
    (lambda **k: fc.LeakyReLU(**k), "negative_slope", 0.5),
    (lambda **k: fc.ELU(**k), "alpha", 3.0),
    (lambda **k: fc.Softplus(**k), "k", 3.0),
    (lambda **k: fc.Softplus(**k), "threshold", 0.1),
    (lambda **k: fc.SoftAbs(**k), "k", 3.0),
    (lambda **k: fc.Conv2d(4, 4, 3, padding=1, **k), "algorithm", "direct"),
]


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(("make", "name", "value"), ADJUSTED, ids=lambda v: v if isinstance(v, str) else "")
def test_numbers_count_from_the_next_call(make, name, value, device):
    """In every way to run the layer, what was made with the argument and what got it later agree."""
    late, early = make(device=device), make(device=device, **{name: value})
    nets = [
        fc.Sequential(one, fc.GlobalAvgPool(device=device), fc.Linear(4, 3, device=device), input_shape=(5, 5, 4))
        for one in (late, early)
    ]
    for net in nets:
        net.initialize(0)
    trainers = [fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1)) for net in nets]
    for trainer in trainers:  # both have run with the old argument
        if trainer is trainers[1]:
            setattr(early, name, getattr(late, name))
        trainer.step(X, LABELS)
        trainer.net.predict(X)
        trainer.net.forward(X)
    old = nets[0].predict(X), late.eval().forward(X)
    for layer in (late, early):
        setattr(layer, name, value)
        layer.train()
    found = []
    for net, trainer in zip(nets, trainers, strict=True):
        found.append(
            [net[0].forward(X), net.predict(X), net.forward(X), net.backward(np.ones((6, 3))), trainer.step(X, LABELS)]
        )
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    if name != "algorithm":
        assert (nets[0].predict(X) != old[0]).any()
        assert (late.eval().forward(X) != old[1]).any()


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_momentum_counts_from_the_next_batch(device):
    norm = fc.BatchNorm2d(4, device=device)
    net = fc.Sequential(fc.Conv2d(4, 4, 1, device=device), norm, fc.GlobalAvgPool(device=device), input_shape=(5, 5, 4))
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.0))
    for momentum in (0.1, 1.0, 0.0, None):
        norm.momentum = momentum
        before, count = norm.state["running_mean"].copy(), norm.state["num_batches_tracked"][0]
        trainer.step(X, LABELS)
        weight = 1 / (count + 1) if momentum is None else momentum
        mean = net.activations(X, "conv1").mean((0, 1, 2))
        np.testing.assert_allclose(norm.state["running_mean"], before + weight * (mean - before), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_probability_counts_from_the_next_call(device):
    layer = fc.Dropout(0.5, device=device)
    net = fc.Sequential(layer, input_shape=(5, 5, 4))
    for p, part in ((0.0, 0), (0.9, 0.9), (1.0, 1), (0.2, 0.2)):
        layer.p = p
        for y in (layer.forward(np.ones_like(X)), net.forward(np.ones_like(X))):
            assert abs((y == 0).mean() - part) < 0.1


def test_save_keeps_what_counts(tmp_path):
    net = fc.Sequential(fc.BatchNorm2d(4), fc.LeakyReLU(), input_shape=(5, 5, 4))
    net.predict(X)
    net[0].eps, net[1].negative_slope = 0.5, 0.3
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(fc.load(tmp_path / "net.safetensors").predict(X), net.predict(X))


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (fc.BatchNorm2d(4), "eps", -1.0), (fc.BatchNorm2d(4), "eps", float("nan")), (fc.BatchNorm2d(4), "momentum", 2),
        (fc.Dropout(), "p", 1.5), (fc.Dropout(), "p", float("nan")), (fc.LeakyReLU(), "negative_slope", "steep"),
        (fc.ELU(), "alpha", float("inf")), (fc.Softplus(), "k", 0), (fc.Conv2d(1, 1, 1), "algorithm", "fast"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_a_constructor_refuses_is_refused_later(layer, name, value):
    before = getattr(layer, name)
    with pytest.raises(fc.ArgumentError, match=name):
        setattr(layer, name, value)
    assert getattr(layer, name) == before


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (fc.Conv2d(1, 1, 3), "stride", (2, 2)), (fc.Conv2d(1, 1, 3), "padding", 1),
        (fc.Conv2d(1, 1, 3), "bias", False),
        (fc.BatchNorm2d(4), "num_features", 5), (fc.BatchNorm2d(4), "track_running_stats", False),
        (fc.MaxPool2d(2), "kernel_size", (3, 3)), (fc.Linear(3, 4), "out_features", 5),
        (fc.Flatten(), "training", None),
        (fc.GELU(), "approximate", "tanh"), (fc.Upsample(scale_factor=2), "mode", "bilinear"),
        (fc.Pad(1), "mode", "reflect"),
        (fc.LPPool2d(2, 2), "norm_type", 3.0), (fc.GroupNorm(2, 4), "num_groups", 4),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_shapes_follow_from_is_fixed(layer, name, value):
    if name == "training":
        layer.training = False  # a mode, which may be assigned
        return
    before = dict(vars(layer))
    with pytest.raises(fc.ArgumentError, match=rf"{name}=.* was assigned to .*fixed when it is made"):
        setattr(layer, name, value)
    assert vars(layer) == before


def test_attributes_of_ones_own_stay_free():
    layer: Any = fc.ReLU()
    layer.remark = "first"
    layer.remark = "second"

    class Mine(fc.layers.ReLU):
        def __init__(self, size):
            self.size = size
            super().__init__()

    mine = Mine(3)
    mine.size = 4
    assert (layer.remark, mine.size) == ("second", 4)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_the_switch_of_algorithms_counts_from_the_next_call(device):
    net = fc.Sequential(fc.Conv2d(16, 16, 3, padding=1, device=device), input_shape=(12, 12, 16))
    x = np.random.default_rng(0).standard_normal((2, 12, 12, 16)).astype(np.float32)
    chosen, lone = net.predict(x), net[0].forward(x)
    try:
        fc.set_convolution_algorithm("direct")
        conv = fc.Conv2d(16, 16, 3, padding=1, algorithm="direct", device=device)
        direct = fc.Sequential(conv, input_shape=(12, 12, 16))
        direct[0].params.update(net[0].params)
        np.testing.assert_array_equal(net.predict(x), direct.predict(x))
        np.testing.assert_array_equal(net[0].forward(x), direct.predict(x))
    finally:
        fc.set_convolution_algorithm("auto")
    np.testing.assert_array_equal(net.predict(x), chosen)
    np.testing.assert_array_equal(net[0].forward(x), lone)


def test_fusing_may_be_switched():
    net = fc.Sequential(fc.Conv2d(4, 4, 3), fc.ReLU(), input_shape=(5, 5, 4))
    net.predict(X)
    net.fuse = False
    assert not net.plan(6, training=False).fused
    net.fuse = True
    assert net.plan(6, training=False).fused


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_arguments_of_a_loss_count_from_the_next_step(device):
    net = fc.Sequential(fc.Flatten(), fc.Linear(100, 3), input_shape=(5, 5, 4)).to(device)
    loss = fc.CrossEntropy()
    trainer = fc.Trainer(net, loss, fc.SGD(0.0))
    before = trainer.step(X, LABELS)
    loss.label_smoothing = 0.5
    expected = fc.CrossEntropy(label_smoothing=0.5, device=device).forward(net.predict(X), LABELS)
    assert trainer.step(X, LABELS) == pytest.approx(expected, rel=1e-5)
    assert trainer.evaluate((X, LABELS)).loss == pytest.approx(expected, rel=1e-5)
    assert abs(expected - before) > 1e-3
    trainer.loss = fc.Hinge()
    expected = fc.Hinge(device=device).forward(net.predict(X), LABELS)
    assert trainer.step(X, LABELS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "name", "value"),
    [
        (fc.CrossEntropy(), "label_smoothing", 2.0), (fc.CrossEntropy(), "label_smoothing", float("nan")),
        (fc.CrossEntropy(), "weight", [-1.0, 1.0]), (fc.CrossEntropy(), "ignore_index", 0.5),
        (fc.CrossEntropy(), "reduction", "none"), (fc.Hinge(), "p", 3), (fc.Hinge(), "margin", float("inf")),
        (fc.SmoothL1(), "beta", -1), (fc.BinaryCrossEntropy(), "pos_weight", "many"), (fc.L1(), "device", "tpu"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_a_loss_refuses_is_refused_later(loss, name, value):
    before = getattr(loss, name)
    with pytest.raises((fc.ArgumentError, fc.BackendError), match=name):
        setattr(loss, name, value)
    assert getattr(loss, name) == before
    with pytest.raises(fc.ArgumentError):
        fc.Trainer(fc.Sequential(fc.Linear(2, 2), input_shape=(2,)), fc.L1(), fc.SGD()).loss = "L1"


def test_weights_of_a_loss_are_replaced_as_a_whole():
    loss = fc.CrossEntropy(weight=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="read-only"):
        loss.weight[0] = 5
    net = fc.Sequential(fc.Flatten(), fc.Linear(100, 3), input_shape=(5, 5, 4))
    trainer = fc.Trainer(net, loss, fc.SGD(0.0))
    before = trainer.step(X, LABELS)
    loss.weight = [3.0, 2.0, 1.0]
    assert trainer.step(X, LABELS) != before
    loss.weight = [1.0, 2.0]
    with pytest.raises(fc.ShapeError, match="2"):
        trainer.step(X, LABELS)
