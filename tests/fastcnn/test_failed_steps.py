"""A step that fails leaves no trace: weights, running statistics, what dropout drops, and predictions stay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn as fc

DEVICES, DTYPES = ("reference", "cpu"), ("float32", "float64")
BATCH, CLASSES = 8, 3
HUGE = {"float32": 3e38, "float64": 1.7e308}

NETWORKS = {
    "convolution and norm": lambda: [fc.Conv2d(2, 9, 3), fc.BatchNorm2d(9), fc.ReLU(), fc.Conv2d(9, 8, 1),
                                     fc.BatchNorm2d(8, momentum=None), fc.GlobalAvgPool(), fc.Linear(8, CLASSES)],
    "norm first": lambda: [fc.BatchNorm2d(2), fc.Flatten(), fc.Linear(72, CLASSES)],
    "instances and dropout": lambda: [fc.InstanceNorm2d(2, track_running_stats=True), fc.Dropout2d(0.3),
                                      fc.Conv2d(2, 4, 3), fc.ReLU(), fc.Flatten(), fc.Dropout(0.5),
                                      fc.Linear(64, CLASSES)],
    "rows": lambda: [fc.Flatten(), fc.Linear(72, 16), fc.BatchNorm1d(16), fc.Sigmoid(), fc.Linear(16, CLASSES)],
}  # fmt: skip


def trainer(name, device="cpu", dtype="float32", fuse=True, optimizer=fc.Adam, **keywords):
    net = fc.Sequential(*NETWORKS[name](), input_shape=(6, 6, 2), fuse=fuse).astype(dtype).to(device)
    net.initialize(0)
    return fc.Trainer(net, fc.CrossEntropy(), optimizer(0.01), **keywords)


def batches(count, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, BATCH, 6, 6, 2)).astype(dtype)
    return list(zip(images, rng.integers(CLASSES, size=(count, BATCH)), strict=True))


def contents(run):
    """Return the bytes of all that a step changes, and of predictions."""
    states = [array for layer in run.net.layers for array in layer.own_state.values()]
    arrays = [run.net.own_store().own_values, *states, *run.optimizer.state.values()]
    return [array.tobytes() for array in arrays]


def predictions(run):
    return run.net.predict(batches(1)[0][0]).tobytes()


def spoilt(images, value):
    images = images.copy()
    images[1, 2, 3, 0] = value
    return images


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("value", ["nan", "inf", "huge"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_failed_step_leaves_no_trace_and_the_next_is_as_if_it_had_not_been(name, value, fuse, device):
    for dtype in DTYPES:
        run, twin = (trainer(name, device, dtype, fuse) for _ in range(2))
        bad = HUGE[dtype] if value == "huge" else float(value)
        for x, y in batches(5, dtype):  # the first, the noted and the repeated run of a program
            before, made = contents(run), predictions(run)
            with pytest.raises(fc.TrainingError, match="the weights are those before this step"):
                run.step(spoilt(x, bad), y)
            assert contents(run) == before
            assert predictions(run) == made
            assert run.step(x, y) == twin.step(x, y)
            assert contents(run) == contents(twin)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_fit_that_fails_leaves_what_its_last_good_step_made(device):
    run, twin = (trainer("convolution and norm", device, seed=3) for _ in range(2))
    (x, y), (more, labels) = batches(2)
    images, targets = np.concatenate([x, more]), np.concatenate([y, labels])
    first, _ = np.split(np.random.default_rng((3, 1)).permutation(2 * BATCH), 2)
    twin.step(images[first], targets[first])
    last = np.setdiff1d(np.arange(2 * BATCH), first)[0]
    images[last] = np.nan
    with pytest.raises(fc.TrainingError, match="epoch 1, step 2, first seen in the input"):
        run.fit((images, targets), batch_size=BATCH)
    assert contents(run) == contents(twin)
    assert np.isfinite(run.net.predict(x)).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_statistic_that_overflows_is_named(device, dtype):
    """The variance of numbers near the largest one is none, and what it scales is 0: the loss is a number."""
    net = fc.Sequential(fc.BatchNorm1d(3), fc.Linear(3, CLASSES), input_shape=(3,)).astype(dtype).to(device)
    run = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1))
    x, y = np.random.default_rng(0).standard_normal((BATCH, 3)).astype(dtype), np.arange(BATCH) % CLASSES
    run.step(x, y)
    before = contents(run)
    x[:, 1] *= np.sqrt(HUGE[dtype])
    for _ in range(3):
        with pytest.raises(fc.TrainingError, match=r"no longer finite .* first seen in the running_var of batch_norm1"):
            run.step(x * 8, y)
        assert contents(run) == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -1e20])
@pytest.mark.parametrize("what", ["running_mean", "running_var"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loaded_statistic_that_is_no_number_stops_no_training(what, value, fuse, device):
    """Losses and weights do not depend on running statistics; these stay what they are, as in PyTorch."""
    run, twin = (trainer("convolution and norm", device, fuse=fuse, optimizer=fc.SGD) for _ in range(2))
    run.net.layers[1].state[what][2] = value
    for x, y in batches(5):
        assert run.step(x, y) == pytest.approx(twin.step(x, y), rel=1e-5)
    np.testing.assert_allclose(run.net.own_store().values, twin.net.own_store().values, rtol=1e-4, atol=1e-6)
    if not np.isfinite(value):
        held = run.net.layers[1].state[what]
        assert np.isfinite(held).tolist() == [i != 2 for i in range(9)]
        np.testing.assert_array_equal(held[2], value)


@pytest.mark.parametrize("device", DEVICES)
def test_an_error_in_the_middle_of_a_step_brings_the_states_back(device, monkeypatch):
    run = trainer("instances and dropout", device)
    (x, y), *_ = batches(1)
    room = run.net.plan(BATCH, True, "parameters").backend

    def fail(*arguments):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(room.loss, "sum_values", fail)
    before = contents(run)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="in the middle"):
            run.step(x, y)
        assert contents(run) == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("calls", [0, 1, 2, 7, None])
@pytest.mark.parametrize("good", [0, 1, 4])
def test_an_interrupt_ends_a_step_before_or_behind_it(device, calls, good, monkeypatch):
    run, twin = (trainer("instances and dropout", device) for _ in range(2))
    *before, (x, y) = batches(good + 1)
    for images, labels in before:
        assert run.step(images, labels) == twin.step(images, labels)
    kind = run.net.plan(BATCH, True, "parameters").backend.program.Program
    repeat = kind.run

    def interrupted(self, *arguments):
        if calls is None:
            repeat(self, *arguments)
        for function, inputs in self._calls[: calls or 0]:
            function(*inputs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.step(x, y)
    if calls is None:
        twin.step(x, y)
    assert contents(run) == contents(twin)
    assert run.step(x, y) == twin.step(x, y)


@given(
    name=st.sampled_from(sorted(NETWORKS)), device=st.sampled_from(DEVICES), dtype=st.sampled_from(DTYPES),
    order=st.lists(st.sampled_from(["good", "nan", "-inf"]), min_size=1, max_size=6), seed=st.integers(0, 9),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_order_of_good_and_bad_steps(name, device, dtype, order, seed):
    run, twin = (trainer(name, device, dtype) for _ in range(2))
    for kind, (x, y) in zip(order, batches(len(order), dtype, seed), strict=True):
        if kind == "good":
            assert run.step(x, y) == twin.step(x, y)
        else:
            with pytest.raises(fc.TrainingError):
                run.step(spoilt(x, float(kind)), y)
        assert contents(run) == contents(twin)
