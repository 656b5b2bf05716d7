"""Batches that a layer does not take are refused before the first step, not when they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn as fc

DEVICES = ("cpu", "reference")
CLASSES = 3


def rows(device, **how):
    return fc.Sequential(
        fc.Linear(4, 6), fc.BatchNorm1d(6, **how), fc.ReLU(), fc.Linear(6, CLASSES), input_shape=(4,)
    ).to(device)  # fmt: skip


def pixels(device, **how):
    """Normalize maps of one pixel."""
    return fc.Sequential(
        fc.Conv2d(1, 5, 2), fc.BatchNorm2d(5, **how), fc.ReLU(), fc.Flatten(), fc.Linear(5, CLASSES),
        input_shape=(2, 2, 1),
    ).to(device)  # fmt: skip


def data(net, count):
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *net.input_shapes[0])).astype("f4"), rng.integers(CLASSES, size=count)


def trainer(net):
    return fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1))


def contents(run):
    states = [array for layer in run.net.layers for array in layer.own_state.values()]
    return [array.tobytes() for array in (run.net.own_store().own_values, *states)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [rows, pixels])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_last_batch_of_one_is_refused_at_once(make, frozen, device):
    net = make(device)
    if frozen:
        net.layers[1].trainable = False  # still takes the batch's statistics
    run = trainer(net)
    before = contents(run)
    with pytest.raises(fc.ShapeError) as caught:
        run.fit(data(net, 65), 2, batch_size=64)
    sentence = str(caught.value)
    assert "the training data of 65 images ends with a batch of 1 where batch_size=64" in sentence
    assert "batch_norm1" in sentence
    assert "\n" not in sentence
    assert (run.steps, run.epoch, contents(run)) == (0, 0, before)
    with pytest.raises(fc.ShapeError, match="comes in batches of 1 where batch_size=1"):
        run.fit(data(net, 65), batch_size=1)
    assert contents(run) == before
    run.fit(data(net, 65), batch_size=63)
    net.layers[1].eval()
    assert len(run.fit(data(net, 65), 2, batch_size=64).epochs) == 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [rows, pixels])
def test_so_are_validation_and_evaluation_by_a_norm_without_running_statistics(make, device):
    net = make(device, track_running_stats=False)
    run = trainer(net)
    before = contents(run)
    with pytest.raises(fc.ShapeError, match=r"the validation data of 9 images ends with a batch of 1 .* batch_size=8"):
        run.fit(data(net, 16), 2, batch_size=8, validation=data(net, 9))
    with pytest.raises(fc.ShapeError, match="the evaluation data of 9 images ends with a batch of 1"):
        run.evaluate(data(net, 9), batch_size=4)
    assert contents(run) == before
    run.fit(data(net, 16), 2, batch_size=8, validation=data(net, 10))
    tracking = trainer(make(device))
    tracking.fit(data(net, 16), 2, batch_size=8, validation=data(net, 9))


@pytest.mark.parametrize("device", DEVICES)
def test_images_of_one_pixel_are_refused_whatever_the_batch(device):
    net = fc.Sequential(
        fc.Conv2d(1, 5, 2), fc.InstanceNorm2d(5), fc.Flatten(), fc.Linear(5, CLASSES), input_shape=(2, 2, 1)
    ).to(device)
    with pytest.raises(fc.ShapeError, match=r"comes in batches of 8 where batch_size=8: .*one pixel in each image"):
        trainer(net).fit(data(net, 24), batch_size=8)


@given(count=st.integers(1, 20), size=st.integers(1, 12), held_out=st.integers(0, 9), tracks=st.booleans())
def test_a_fit_runs_to_its_end_or_not_at_all(count, size, held_out, tracks):
    net = rows("reference", track_running_stats=tracks)
    run = trainer(net)
    before = contents(run)
    sizes = {min(count, size), count % size or size}
    if not tracks and held_out:
        sizes |= {min(held_out, size), held_out % size or size}
    validation = data(net, held_out) if held_out else None
    if min(sizes) == 1:
        with pytest.raises(fc.ShapeError, match="batch"):
            run.fit(data(net, count), 2, size, validation)
        assert contents(run) == before
    else:
        assert len(run.fit(data(net, count), 2, size, validation).epochs) == 2
