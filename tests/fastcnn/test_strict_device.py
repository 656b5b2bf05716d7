"""The engine on a device whose arrays hide their numbers: the same ones as in the reference room, without fusion."""

import numpy as np
import pytest
from strict_device import DeviceArray, StrictBackend

import fastcnn as fc
from fastcnn import models
from fastcnn.backend import Fused, get, import_kernels, registered
from fastcnn.backend.host import HostBackend

STEPS = 3


@pytest.fixture
def device():
    with registered(StrictBackend()) as backend:
        yield backend


def lenet():
    return models.lenet5()


def resnet():
    return models.resnet20()


def twins(make):
    """A network in the reference room, without fusion, and one with the same weights on the device."""
    ours, theirs = make(), make()
    for net, name in ((ours, "strict"), (theirs, "reference")):
        net.to(name).initialize(0)
    theirs.fuse = False
    return ours, theirs


def batches(net, count=STEPS, images=4):
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield rng.standard_normal((images, *net.input_shapes[0])).astype(np.float32), rng.integers(10, size=images)


def same_values(ours, theirs):
    for layer, other in zip(ours.layers, theirs.layers, strict=True):
        found, wanted = layer.held_values(), other.held_values()
        assert found.keys() == wanted.keys()
        for name in found:
            np.testing.assert_array_equal(found[name], wanted[name], f"{name} of {layer.label}")


@pytest.mark.parametrize("make", [lenet, resnet])
@pytest.mark.parametrize("optimizer", [fc.SGD, fc.Adam])
def test_training_takes_the_same_steps(device, make, optimizer):
    ours, theirs = twins(make)
    trainers = [fc.Trainer(net, fc.CrossEntropy(), optimizer(0.01), clip_value=1.0) for net in (ours, theirs)]
    for batch in batches(ours):
        assert trainers[0].step(*batch) == trainers[1].step(*batch)
    assert isinstance(ours.own_store().own_values, DeviceArray)
    assert not ours.plan(4, training=True, returns="parameters").fused
    same_values(ours, theirs)


def test_fit_evaluate_and_predict(device):
    ours, theirs = twins(lenet)
    augment = fc.augment.RandomShift(2)
    found = []
    for net in (ours, theirs):
        x, y = next(batches(net, images=10))
        trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.05, momentum=0.9), augment=augment, clip_norm=10.0)
        history = trainer.fit((x, y), epochs=2, batch_size=4, validation=(x, y))
        records = [{key: value for key, value in record.items() if "second" not in key and key != "images_per_s"}
                   for record in history.epochs]  # fmt: skip
        found.append((records, trainer.evaluate((x, y)), net.predict(x).tobytes()))
    assert found[0] == found[1]


def test_a_step_waits_once(device):
    net = lenet().to("strict")
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1))
    batch = next(batches(net))
    trainer.step(*batch)
    device.reads = 0
    trainer.step(*batch)
    assert device.reads == 1


def test_a_loss_that_is_not_finite_leaves_the_weights(device):
    ours, theirs = twins(resnet)
    x, y = next(batches(ours))
    x[0] = np.nan
    said = []
    for net in (ours, theirs):
        with pytest.raises(fc.TrainingError) as caught:
            fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1)).step(x, y)
        said.append(str(caught.value))
    assert said[0] == said[1]
    same_values(ours, theirs)


LAYERS = [
    fc.Conv2d(3, 4, 3, padding=1), fc.BatchNorm2d(3), fc.MaxPool2d(2, return_indices=True), fc.AvgPool2d(2), fc.ReLU(),
    fc.AdaptiveAvgPool2d(1), fc.AdaptiveMaxPool2d(2, return_indices=True), fc.Dropout2d(0.5), fc.Flatten(),
    fc.Softmax(), fc.Upsample(scale_factor=2), fc.ConvTranspose2d(3, 4, 2, stride=2), fc.GroupNorm(1, 3),
    fc.LeakyReLU(0.1), fc.Linear(3, 2), fc.LocalContrastNorm(3), fc.LocalResponseNorm(3), fc.Gain(3),
    fc.Pad(2, mode="reflect"), fc.SeparableConv2d(3, 4, 3), fc.LPPool2d(2, 2), fc.InstanceNorm2d(3), fc.LayerNorm(3),
    fc.PadChannels(1, 2), fc.Dropout(0.2), fc.Elementwise(lambda x: x * x, lambda x: x + x), fc.Permute(2, 1, 0),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_lone_layers(device, layer):
    x, found = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32), []
    x = x[:, 0, 0] if isinstance(layer, fc.Linear) else x
    for name in ("strict", "reference"):
        one = layer.without_values()
        one.device = name
        one.own_store().redraw(
            lambda _, key: np.full({**layer.parameter_shapes(), **layer.state_shapes()}[key], 0.5), [one]
        )
        y = one.forward(x)
        maxima = y[0] if isinstance(y, tuple) else y
        found.append([*(y if isinstance(y, tuple) else (y,)), one.backward(np.ones_like(maxima)),
                      *(one.store.backend.download(gradient) for gradient in one.grads.values())])  # fmt: skip
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_losses_by_themselves(device):
    y, labels = np.random.default_rng(0).standard_normal((5, 4)), np.arange(5) % 4
    for loss, targets in ((fc.CrossEntropy, labels), (fc.CrossEntropy, np.full((5, 4), 0.25)), (fc.Hinge, labels),
                          (fc.MeanSquaredError, y / 2), (fc.BinaryCrossEntropy, y > 0)):  # fmt: skip
        ours, theirs = (loss(device=name) for name in ("strict", "reference"))
        assert ours.forward(y, targets) == theirs.forward(y, targets)
        np.testing.assert_array_equal(ours.backward(), theirs.backward())


def test_values_are_assigned_saved_and_moved(device, tmp_path):
    net = lenet().to("strict")
    layer = net.layers[0]
    layer.params["weight"] = np.ones(layer.weight_shape)
    layer.params["bias"] = layer.params["bias"]
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device="strict")
    assert (again.own_store().host_value(again.layers[0], "weight") == 1).all()
    same_values(again, net)
    x, _ = next(batches(net))
    there = net.predict(x)
    np.testing.assert_array_equal(fc.load(tmp_path / "net.safetensors", device="reference").predict(x), there)


class Partial(HostBackend):
    """The reference room with some of its fused operations only."""

    def kernels(self, operation):
        return import_kernels("reference", operation)


def trained_with(fuses):
    backend = Partial("partial")
    backend.fuses = frozenset(fuses)
    with registered(backend):
        x = fc.Input(8, 8, 3)
        h = fc.ReLU()(fc.BatchNorm2d(4)(fc.Conv2d(3, 4, 3, padding=1, name="first")(x)))
        h = fc.ReLU()(fc.BatchNorm2d(4)(fc.Conv2d(4, 4, 3, padding=1)(h)) + h)
        h = fc.ReLU()(fc.Conv2d(4, 4, 3, padding=1)(fc.BatchNorm2d(4)(h)) + h)
        h = fc.MaxPool2d(2)(fc.ReLU()(fc.Conv2d(4, 4, 3, padding=1)(h)))
        net = fc.Graph(x, fc.Linear(64, 10)(fc.Flatten()(h))).astype("float64").to("partial")
        net.initialize(0)
        trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1))
        losses = [trainer.step(*batch) for batch in batches(net)]
        plans = net.plan(4, True, "parameters"), net.plan(4, False)
        steps = {type(step).__name__ for plan in plans for step in plan.steps}
        return steps, [*losses, *net.predict(next(batches(net))[0]).ravel()]


STEPS_OF = {
    Fused.ACTIVATION: {"Activated"}, Fused.RESIDUAL: {"Activated"}, Fused.FOLDED_NORM: {"Folded"},
    Fused.STATISTICS: {"Measured", "Normalized"}, Fused.NORM_ACTIVATION: {"Normalized"},
    Fused.NORM_RESIDUAL: {"Normalized"},
}  # fmt: skip


@pytest.mark.parametrize("fused", Fused)
def test_a_room_may_have_any_of_the_fused_operations(fused):
    """With none, with one, with all but one and with all of them networks compute the same."""
    kinds, found = zip(*(trained_with(some) for some in ((), {fused}, {*Fused} - {fused}, Fused)), strict=True)
    assert kinds[0] <= {"Step", "Normalized"}
    assert STEPS_OF.get(fused, set()) <= kinds[1]
    for numbers in found[1:]:
        np.testing.assert_allclose(numbers, found[0], rtol=1e-9, atol=1e-12)


def test_reading_by_accident_is_refused():
    array = get("reference").zeros((3,), np.dtype(np.float32))
    hidden = DeviceArray(array)
    for read in (np.asarray, np.ascontiguousarray, np.isfinite, np.square, np.count_nonzero, float, bool, list, len):
        if read is len:
            assert read(hidden) == 3
            continue
        with pytest.raises(TypeError):
            read(hidden)
    with pytest.raises(TypeError):
        hidden[...] = array
    with pytest.raises(TypeError):
        array[...] = hidden
