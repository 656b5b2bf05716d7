"""Numbers of optimizers, schedules and trainers are checked wherever they are assigned, not at first only."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_training import blobs, network, parameters

import fastcnn as fc
from fastcnn import schedules

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = [NAN, INF, -INF, np.float32("nan"), "fast", "0.1", b"1", True, [0.1, 0.2], {}, 10**400, 1j, object()]
OPTIMIZERS = {
    "SGD": lambda: fc.SGD(0.1, momentum=0.9), "Adam": fc.Adam, "AdamW": fc.AdamW, "RMSprop": fc.RMSprop,
    "Adagrad": fc.Adagrad,
}  # fmt: skip
SCHEDULES = {
    "Step": lambda: schedules.Step(2), "MultiStep": schedules.MultiStep, "Exponential": schedules.Exponential,
    "Cosine": schedules.Cosine, "Warmup": schedules.Warmup, "OneCycle": schedules.OneCycle,
    "ReduceOnPlateau": schedules.ReduceOnPlateau,
}  # fmt: skip
RENAMED = {"factor": "reduction"}
BELOW_0 = {"dampening"}  # what may be


def arguments(made):
    """Return the names of all arguments of an object's class, as attributes."""
    return [RENAMED.get(name, name) for name in inspect.signature(type(made)).parameters if name != "metric"]


def numbers(made):
    return [name for name in arguments(made) if isinstance(getattr(made, name), int | float)]


CASES = [(kind, name) for kinds in (OPTIMIZERS, SCHEDULES) for kind in kinds for name in arguments(kinds[kind]())]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_argument_refuses_at_assignment_what_the_constructor_refuses(kind, name):
    make = (OPTIMIZERS | SCHEDULES)[kind]
    made = make()
    before = getattr(made, name)
    bad = [NAN, INF, "no", None, [NAN, 0.5], object()]
    if name in numbers(made) and not isinstance(before, bool):
        bad = [value for value in NO_NUMBERS if not (isinstance(before, int) and isinstance(value, int))]
        bad += [] if name in BELOW_0 else [-1, -1e-9]
    for value in bad:
        with pytest.raises(fc.ArgumentError) as caught:
            setattr(made, name, value)
        assert "\n" not in str(caught.value)
        assert getattr(made, name) == before
        if name != "schedule" or value is not None:
            given = {"factor" if name == "reduction" else name: value}
            with pytest.raises(fc.ArgumentError):
                type(made)(**({"step_size": 1} if kind == "Step" else {}) | given)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@given(value=st.floats(allow_nan=True), data=st.data())
def test_what_is_taken_is_a_number_that_a_step_can_take(kind, value, data):
    made = OPTIMIZERS[kind]()
    name = data.draw(st.sampled_from(numbers(made)))
    try:
        setattr(made, name, value)
    except fc.ArgumentError:
        assert not 0 <= value < INF or value > 0.99 or isinstance(getattr(made, name), bool)
    else:
        assert getattr(made, name) == value
        assert np.isfinite(made.rule(3, 0.0)).all()


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "RMSprop", "SGD"])
@pytest.mark.parametrize("value", [1, 1.5, -0.1, NAN, "half"])
def test_momentum_is_one_of_the_rules_numbers(kind, value):
    made = OPTIMIZERS[kind]()
    with pytest.raises(fc.ArgumentError, match="momentum="):
        made.momentum = value
    made.momentum = 0.25
    assert made.rule(2, 0.0).count(0.25) == 1


def test_nesterov_keeps_what_it_needs():
    made = fc.SGD(0.1, momentum=0.9, nesterov=True)
    with pytest.raises(fc.ArgumentError, match="nesterov=True needs dampening 0"):
        made.dampening = 0.5
    plain = fc.SGD(0.1)
    with pytest.raises(fc.ArgumentError, match="needs momentum > 0"):
        plain.nesterov = True
    assert (made.dampening, plain.nesterov) == (0, False)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_refused_number_leaves_the_training_as_it_was(device):
    run = fc.Trainer(network(device), fc.CrossEntropy(), fc.SGD(0.1))
    run.step(*blobs())
    for value in (NAN, INF, -1.0, "fast"):
        for owner, name in ((run.optimizer, "lr"), (run, "clip_norm"), (run, "clip_value")):
            with pytest.raises(fc.ArgumentError, match=name):
                setattr(owner, name, value)
            with pytest.raises(fc.ArgumentError, match=name):
                fc.Trainer(network(), fc.CrossEntropy(), fc.SGD(**{"lr": 0.1} | {name: value} if name == "lr" else {}),
                           **{} if name == "lr" else {name: value})  # fmt: skip
    assert np.isfinite(run.step(*blobs()))
    assert np.isfinite(parameters(run.net)).all()
    for name, value in (("optimizer", "sgd"), ("optimizer", None), ("schedule", "cosine")):
        with pytest.raises(fc.ArgumentError, match=f"{name}="):
            setattr(run, name, value)
    run.clip_norm, run.clip_value, run.schedule = None, 1, None
    assert run.clip_value == 1.0


class Wild(schedules.Schedule):
    def __init__(self, factors):
        super().__init__("step")
        self.factors = factors

    def at(self, moment):
        return self.factors[moment.step]


@pytest.mark.parametrize("factor", [NAN, INF, -0.5])
def test_a_schedule_of_ones_own_that_gives_no_rate_is_named(factor):
    run = fc.Trainer(network(), fc.CrossEntropy(), fc.SGD(0.1), schedule=Wild([1.0, factor]))
    twin = fc.Trainer(network(), fc.CrossEntropy(), fc.SGD(0.1), schedule=Wild([1.0, 0.0]))
    with pytest.raises(fc.ArgumentError, match=r"Wild gives the learning rate .* when 1 of 2 steps are done"):
        run.fit(blobs(20), batch_size=10)
    twin.fit(blobs(20), batch_size=10)
    np.testing.assert_array_equal(parameters(run.net), parameters(twin.net))
    assert run.optimizer.lr == 0.1


def test_a_rate_that_grows_beyond_all_numbers_is_named():
    run = fc.Trainer(network(), fc.CrossEntropy(), fc.SGD(0.1), schedule=schedules.Exponential(1e200))
    with pytest.raises(fc.ArgumentError, match="Exponential gives the learning rate inf"):
        run.fit(blobs(20), 3)
