"""Learning rates and optimizers in training."""

import numpy as np
import pytest
from small_training import CLASSES, blobs, network, trainer

import fastcnn as fc


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
