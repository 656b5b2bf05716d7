"""Training steps as one program: the same bits as steps of separate calls, numbers that change, guards that stop."""

from math import sqrt

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.engine.plan import run
from fastcnn.kernels.cpu import program
from fastcnn.kernels.cpu.runtime import launch

BATCH, CLASSES = 9, 5
OPTIMIZERS = {
    "sgd": lambda: fc.SGD(0.05),
    "sgd, all": lambda: fc.SGD(0.05, momentum=0.9, dampening=0.1, weight_decay=0.01, decay_bias=False),
    "nesterov": lambda: fc.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: fc.Adam(0.01),
    "amsgrad": lambda: fc.Adam(0.01, weight_decay=0.01, amsgrad=True, decay_bias=False),
    "adamw": lambda: fc.AdamW(0.01),
    "rmsprop": lambda: fc.RMSprop(0.001, momentum=0.5, centered=True),
    "adagrad": lambda: fc.Adagrad(0.01, lr_decay=0.1),
}
DEVICES = ("reference", "cpu")


def network(device="cpu"):
    net = fc.Sequential(
        fc.Conv2d(1, 6, 5), fc.BatchNorm2d(6), fc.ReLU(), fc.MaxPool2d(2), fc.Flatten(), fc.Linear(96, CLASSES),
        input_shape=(12, 12, 1),
    ).to(device)  # fmt: skip
    net.initialize(0)
    return net


def batches(count, size=BATCH):
    rng = np.random.default_rng(1)
    shape = (count, size, 12, 12, 1)
    return list(zip(rng.standard_normal(shape, np.float32), rng.integers(CLASSES, size=(count, size)), strict=True))


def contents(trainer):
    """Return copies of all that a step changes."""
    state = trainer.optimizer.state
    statistics = [array for layer in trainer.net.layers for array in layer.state.values()]
    named = {"values": trainer.net.own_store().values, **state}
    return {name: array.copy() for name, array in (named | dict(enumerate(statistics))).items()}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, str(name))


class ByCalls:
    """A trainer whose steps are separate calls, each through its door."""

    def __init__(self, net, loss, optimizer, clip_norm=None, clip_value=None):
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.clip_norm, self.clip_value = clip_norm, clip_value

    def step(self, x, y):
        plan = self.net.plan(len(x), True, "parameters")
        store, backend = plan.store, plan.backend
        plan.load([x])
        run(plan.forward_calls)
        loss = self.loss.forward(plan.outputs[0], y)
        plan.load_gradients([self.loss.backward()])
        run(plan.backward_calls)
        parts = [store.gradients[part] for part in plan.trained]
        assert all(backend.all_finite(part) for part in parts)
        for part in parts:
            if self.clip_value is not None:
                np.clip(part, -self.clip_value, self.clip_value, out=part)
        if self.clip_norm is not None:
            squares = np.zeros((len(parts), 1))
            for part, square in zip(parts, squares, strict=True):
                backend.optimizer.square_sum(part, square)
            factor = self.clip_norm / (sqrt(squares.sum()) + 1e-6)
            for part in parts if factor < 1 else ():
                part *= np.float32(factor)
        self.optimizer.update(backend, store.values, store.gradients, store.decayed, plan.trained)
        return loss


def pair(make, device="cpu", **clip):
    """Return a trainer and one of separate calls, that begin alike."""
    ours = fc.Trainer(network(device), fc.CrossEntropy(), make(), **clip)
    return ours, ByCalls(network(device), fc.CrossEntropy(device=device), make(), **clip)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_warm_step_is_one_call_of_a_kernel(name, monkeypatch):
    trainer = fc.Trainer(network(), fc.CrossEntropy(), OPTIMIZERS[name](), clip_norm=1.0, clip_value=0.1)
    for x, y in batches(2):
        trainer.step(x, y)
    calls, run_launches = [], program.run_launches
    monkeypatch.setattr(
        program, "run_launches", lambda table, *turn: calls.append(len(table)) or run_launches(table, *turn)
    )
    monkeypatch.setattr(launch, "call_serial", lambda kernel, *_, **__: pytest.fail(f"{kernel} was called"))
    for x, y in batches(3):
        before = contents(trainer)
        trainer.step(x, y)
        assert (contents(trainer)["values"] != before["values"]).any()
    assert len(calls) == 3
    assert calls[0] > 10


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_have_the_bits_of_separate_calls(name, device):
    ours, theirs = pair(OPTIMIZERS[name], device)
    for x, y in batches(5):
        assert ours.step(x, y) == theirs.step(x, y)
        assert_same(contents(ours), contents(theirs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clip", [{"clip_norm": 0.5}, {"clip_norm": 1e3}, {"clip_value": 0.01, "clip_norm": 0.1}])
def test_clipped_steps_have_the_bits_of_separate_calls(clip, device):
    ours, theirs = pair(OPTIMIZERS["sgd, all"], device, **clip)
    for x, y in batches(5):
        assert ours.step(x, y) == theirs.step(x, y)
        assert_same(contents(ours), contents(theirs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e200), ("float64", 1.7e308), ("float32", 3e38)])
def test_huge_gradients_are_clipped_and_not_lost(dtype, size, device):
    """A hundred weights, whose gradients are as large as one another: each has a tenth of the norm."""
    net = fc.Sequential(fc.Linear(10, 10, bias=False), input_shape=(10,)).astype(dtype).to(device)
    run = fc.Trainer(net, fc.L1(reduction="sum"), fc.SGD(1.0), clip_norm=1.0)
    for _ in range(4):
        net[0].params["weight"] = np.zeros((10, 10))
        run.step(np.full((1, 10), size, dtype), np.full((1, 10), -1.0))
        np.testing.assert_allclose(net[0].params["weight"], -0.1, rtol=1e-5)


def test_limits_may_change():
    ours, theirs = pair(OPTIMIZERS["sgd"])
    for number, (x, y) in enumerate(batches(8)):
        ours.clip_norm = theirs.clip_norm = 0.1 if number in (4, 5) else None
        ours.clip_value = theirs.clip_value = 0.01 if number > 4 else None
        ours.step(x, y), theirs.step(x, y)
        assert_same(contents(ours), contents(theirs))


def test_thread_count_changes_no_bit_and_may_change(with_threads):
    def steps(counts):
        trainer = fc.Trainer(network(), fc.CrossEntropy(), fc.Adam(0.01))
        losses = [
            with_threads(count, lambda x=x, y=y: trainer.step(x, y))
            for count, (x, y) in zip(counts, batches(6, 64), strict=True)
        ]
        return contents(trainer) | {"losses": np.array(losses)}

    want = steps([1] * 6)
    assert_same(steps([2] * 6), want)
    assert_same(steps([2, 2, 2, 1, 1, 2]), want)


CHANGES = {
    "sgd, all": {"lr": 0.01, "momentum": 0.5, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"nesterov": False, "momentum": 0.8},
    "adam": {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1},
    "amsgrad": {"decay_bias": True},
    "adamw": {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.3},
    "rmsprop": {"lr": 0.01, "alpha": 0.5, "eps": 1e-2, "momentum": 0.1},
    "adagrad": {"lr": 0.1, "lr_decay": 0.5, "eps": 1e-2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_numbers_that_change_between_steps_count_at_once(name):
    ours, theirs = pair(OPTIMIZERS[name])
    for number, (x, y) in enumerate(batches(7)):
        for trainer in (ours, theirs) if number == 4 else ():
            for what, value in CHANGES[name].items():
                setattr(trainer.optimizer, what, value)
        ours.step(x, y), theirs.step(x, y)
        assert_same(contents(ours), contents(theirs))


def test_a_changed_rate_is_the_one_that_moves_the_weights():
    trainer = fc.Trainer(network(), fc.CrossEntropy(), fc.SGD(0.1))
    for lr, (x, y) in zip((0.1, 0.1, 0.1, 0.1, 0.5, 0.0, 0.25), batches(7), strict=True):
        before = contents(trainer)["values"]
        trainer.optimizer.lr = lr
        trainer.step(x, y)
        store = trainer.net.own_store()
        np.testing.assert_allclose(store.values, before - lr * store.gradients, rtol=1e-6, atol=1e-8)
        assert (store.values != before).any() == (lr > 0)


def with_huge_gradients(net):
    """Have finite outputs, and gradients that overflow: the last layer's weights are huge, and what they weigh is 0."""
    net.layers[0].params["weight"] = np.zeros((5, 5, 1, 6))
    net.layers[0].params["bias"] = np.zeros(6)
    net.layers[1].params["weight"] = np.zeros(6)
    net.layers[1].params["bias"] = np.full(6, 2e-38)
    net.layers[-1].params["weight"] = np.full((96, CLASSES), 3e38) * [1, -1, 1, -1, 1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("broken_step", [1, 2, 3, 5])
@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam"])
def test_what_is_not_finite_stops_before_the_update(name, what, broken_step, device):
    trainer = fc.Trainer(network(device), fc.CrossEntropy(), OPTIMIZERS[name](), clip_norm=1.0)
    *good, (x, y), last = batches(broken_step + 1)
    for images, labels in good:
        trainer.step(images, labels)
    kept = contents(trainer)["values"]
    if what == "loss":
        x[3] = np.nan
    else:
        with_huge_gradients(trainer.net)
    before, gradients = contents(trainer), trainer.net.own_store().gradients.copy()
    sentence = "the loss is nan" if what == "loss" else "a gradient is not finite"
    with pytest.raises(fc.TrainingError, match=f"{sentence} in step {broken_step}, first seen in the (input|gradient)"):
        trainer.step(x, y)
    after = contents(trainer)
    assert after.keys() == before.keys()
    for key in [key for key in before if isinstance(key, str)]:
        np.testing.assert_array_equal(after[key], before[key], key)
    assert np.array_equal(trainer.net.own_store().gradients, gradients) == (what == "loss")
    assert trainer.optimizer.steps == broken_step - 1
    trainer.net.own_store().values[...] = kept
    for state in trainer.net.layers[1].state.values():
        state[...] = 1
    assert np.isfinite(trainer.step(*last))
    assert trainer.optimizer.steps == broken_step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layers_may_be_frozen_for_a_while(name):
    ours, theirs = pair(OPTIMIZERS[name])
    for number, (x, y) in enumerate(batches(12)):
        for trainer in (ours, theirs):
            if number == 4:
                trainer.net.freeze(trainer.net[0])
            if number == 8:
                trainer.net.unfreeze()
        ours.step(x, y), theirs.step(x, y)
        assert_same(contents(ours), contents(theirs))
    assert ours.optimizer.state["taken"][:, 2].tolist() == [8, 12, 8, 12]


def test_a_state_that_is_cleared_or_replaced_is_seen():
    ours, theirs = pair(OPTIMIZERS["nesterov"])
    for number, (x, y) in enumerate(batches(12)):
        for trainer in (ours, theirs):
            if number == 4:
                trainer.optimizer.state.clear()
            if number == 8:
                trainer.optimizer.state = {name: array.copy() for name, array in trainer.optimizer.state.items()}
                trainer.optimizer.state["momentum_buffer"] *= 2
        ours.step(x, y), theirs.step(x, y)
        assert_same(contents(ours), contents(theirs))
    assert ours.optimizer.steps == 8


def test_the_optimizer_may_be_another():
    ours, theirs = pair(OPTIMIZERS["sgd"])
    first = ours.optimizer
    for number, (x, y) in enumerate(batches(12)):
        for trainer in (ours, theirs):
            if number == 4:
                trainer.optimizer = fc.Adam(0.02)
        ours.step(x, y), theirs.step(x, y)
        assert_same(contents(ours), contents(theirs))
    assert (first.steps, ours.optimizer.steps) == (4, 8)


def test_batch_sizes_may_change_and_others_may_use_the_network():
    ours, theirs = pair(OPTIMIZERS["adam"])
    for number, ((x, y), size) in enumerate(zip(batches(14), (9, 9, 9, 4, 9, 4, 4, 4, 1, 9, 4, 1, 1, 9), strict=True)):
        for trainer in (ours, theirs):
            if number == 6:
                trainer.net.backward(np.ones_like(trainer.net.forward(x)))
                trainer.net.predict(np.zeros((300, 12, 12, 1), np.float32))  # scratch memory grows
            if number == 10:
                store = trainer.net.own_store()
                trainer.optimizer.update(store.backend, store.values, store.gradients, store.decayed)
        ours.step(x[:size], y[:size]), theirs.step(x[:size], y[:size])
        assert_same(contents(ours), contents(theirs))


def test_predictions_between_steps_keep_packed_filters():
    trainer = fc.Trainer(network(), fc.CrossEntropy(), fc.Adam())
    for x, y in batches(4):
        trainer.step(x, y)
        assert trainer.net.own_store().version is not None
