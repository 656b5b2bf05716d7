"""Learning rates and optimizers in training."""

import numpy as np
import pytest
from small_training import CLASSES, blobs, network, trainer

import fastcnn as fc
from fastcnn.engine.training_step import TrainingStep
from fastcnn.training.rates import Rates


def lrs(run: fc.Trainer, monkeypatch) -> list:
    seen = []
    take = TrainingStep.run

    def spy(self, optimizer, *limits):
        seen.append(optimizer.lr)
        take(self, optimizer, *limits)

    monkeypatch.setattr(TrainingStep, "run", spy)
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


CYCLED = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"betas": (0.8, 0.99), "amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "RMSprop": {},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", CYCLED)
def test_one_cycle_of_rate_and_momentum_is_pytorchs(name, device):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    net, rng = network(device).astype("float64"), np.random.default_rng(0)
    net.initialize(0)
    store = net.own_store()
    twin = torch.nn.Parameter(torch.tensor(store.values))
    theirs = getattr(torch.optim, name)([twin], **CYCLED[name])
    ours = getattr(fc, name)(0.01, **CYCLED[name])
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.01, 20, base_momentum=0.6)
    rates = Rates(ours, fc.schedules.OneCycle(base_momentum=0.6), 4, 5)
    for step in range(20):
        store.gradients[...] = rng.standard_normal(store.gradients.shape)
        twin.grad = torch.tensor(store.gradients)
        theirs.step()
        rates.before_step()
        ours.update(store.backend, store.values, store.gradients)
        if step < 19:
            cycle.step()
    np.testing.assert_allclose(store.values, twin.detach().numpy(), rtol=1e-10, atol=1e-12)
    rates.restore()
    first = getattr(fc, name)(**CYCLED[name])
    assert (ours.lr, ours.momentum) == (0.01, first.momentum)
    assert getattr(ours, "betas", None) == getattr(first, "betas", None)


def test_one_cycle_needs_momentum():
    cycle = fc.schedules.Warmup(fc.schedules.OneCycle())
    with pytest.raises(fc.ArgumentError, match="cycles the momentum, and Adagrad has none: give OneCycle"):
        fc.Trainer(network(), fc.CrossEntropy(), fc.Adagrad(), schedule=cycle)
    still = fc.schedules.OneCycle(cycle_momentum=False)
    run = fc.Trainer(network(), fc.CrossEntropy(), fc.Adagrad(), schedule=still)
    assert len(run.fit(blobs(), 2).epochs) == 2


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


@pytest.mark.parametrize("metric", ["accuracy", "val_accuracy"])
def test_plateau_goes_on_where_an_epoch_has_no_accuracy(metric):
    """Every label is ignored: there is nothing to count."""
    plateau = fc.schedules.ReduceOnPlateau("max", patience=0, metric=metric)
    run = trainer(loss=fc.CrossEntropy(ignore_index=-1), schedule=plateau)
    images, labels = blobs(20)
    none = np.full_like(labels, -1)
    data, held_out = ((images, none), (images, labels)) if metric == "accuracy" else ((images, labels), (images, none))
    history = run.fit(data, 4, batch_size=10, validation=held_out)
    assert [epoch[metric] for epoch in history.epochs] == [None] * 4
    assert run.optimizer.lr == 0.1


def test_an_interrupted_fit_gives_the_rate_back():
    run = trainer(schedule=fc.schedules.OneCycle())

    def stop(record):
        if run.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.fit(blobs(), 4, callback=stop)
    assert (run.optimizer.lr, run.optimizer.momentum) == (0.1, 0.9)


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
