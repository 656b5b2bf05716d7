"""Schedules beside PyTorch's, epoch by epoch or step by step, and what they refuse."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcnn.errors import ArgumentError
from fastcnn.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Moment,
    MultiStep,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    Step,
    Warmup,
)

EPOCHS = 24


def moments(schedule: Schedule, epochs: int = 100, per_epoch: int = 10) -> list[Moment]:
    every = per_epoch if schedule.by == "step" else 1
    return [Moment(step, epochs * every, every) for step in range(epochs * every)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_the_command_line_end_at_or_below_one(name):
    schedule = SCHEDULES[name]()
    factors = [schedule.at(moment) for moment in moments(schedule)]
    assert all(0 < factor <= 1 for factor in factors)
    if name not in ("warmup", "onecycle"):
        assert factors[0] == 1
        assert all(later <= earlier for earlier, later in pairwise(factors))
    assert max(factors) == 1


def rates(schedule: Schedule, count: int = EPOCHS) -> list[float]:
    return [0.5 * schedule.at(Moment(i, count, lr=0.5)) for i in range(count)]


def pytorch_rates(make, count: int = EPOCHS) -> list[float]:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.5)
    schedule = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


TWINS = {
    "constant": (Constant(), lambda lr, o: lr.ConstantLR(o, 1.0)),
    "step": (Step(7, 0.5), lambda lr, o: lr.StepLR(o, 7, 0.5)),
    "multi-step": (MultiStep([3, 17], 0.2), lambda lr, o: lr.MultiStepLR(o, [3, 17], 0.2)),
    "shares": (MultiStep([0.5, 0.75]), lambda lr, o: lr.MultiStepLR(o, [12, 18])),
    "exponential": (Exponential(0.9), lambda lr, o: lr.ExponentialLR(o, 0.9)),
    "cosine": (Cosine(), lambda lr, o: lr.CosineAnnealingLR(o, EPOCHS)),
    "cosine, final": (Cosine(0.1), lambda lr, o: lr.CosineAnnealingLR(o, EPOCHS, eta_min=0.05)),
    "warm-up": (Warmup(length=5, first=1 / 3), lambda lr, o: lr.LinearLR(o, 1 / 3, 1.0, 5)),
    "warm-up, cosine": (
        Warmup(Cosine(), 4, 0.2),
        lambda lr, o: lr.SequentialLR(o, [lr.LinearLR(o, 0.2, 1.0, 4), lr.CosineAnnealingLR(o, EPOCHS - 4)], [4]),
    ),
    "one cycle": (OneCycle(), lambda lr, o: lr.OneCycleLR(o, 0.5, EPOCHS, cycle_momentum=False)),
    "one cycle, other": (
        OneCycle(0.5, 10, 100),
        lambda lr, o: lr.OneCycleLR(
            o, 0.5, EPOCHS, pct_start=0.5, div_factor=10, final_div_factor=100, cycle_momentum=False
        ),
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TWINS)
def test_rates_are_pytorchs(name):
    schedule, make = TWINS[name]
    assert rates(schedule) == pytest.approx(pytorch_rates(make), rel=1e-10)


CYCLES = ({}, {"pct_start": 0.5, "base_momentum": 0.5, "max_momentum": 0.99}, {"pct_start": 0.1})


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("keywords", CYCLES, ids=str)
def test_momentum_of_one_cycle_is_pytorchs(keywords):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.5, momentum=0.1)
    twin = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, EPOCHS, **keywords)
    schedule, want = OneCycle(**keywords), []
    for _ in range(EPOCHS):
        want.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if len(want) < EPOCHS:
            twin.step()
    assert schedule.cycle_momentum
    assert [schedule.momentum_at(Moment(i, EPOCHS)) for i in range(EPOCHS)] == pytest.approx(want, rel=1e-10)


def test_momentum_waits_for_the_end_of_a_warm_up():
    schedule, cycle = Warmup(OneCycle(), length=4), OneCycle()
    assert schedule.cycle_momentum
    assert not Warmup(OneCycle(cycle_momentum=False)).cycle_momentum
    momenta = [schedule.momentum_at(Moment(i, 20)) for i in range(20)]
    assert momenta == [0.95] * 4 + [cycle.momentum_at(Moment(i, 16)) for i in range(16)]


RESULTS = [3, 2, 2, 2.001, 1.9999, 1, 1, 1, 1, 1, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
PLATEAUS = [
    {"patience": 1},
    {"patience": 0, "cooldown": 2, "factor": 0.5},
    {"patience": 2, "min_lr": 0.02},
    {"patience": 1, "threshold": 0.3},
    {"patience": 1, "threshold": 0.3, "threshold_mode": "abs"},
    {"patience": 1, "mode": "max"},
    {"patience": 1, "mode": "max", "threshold": 0.2, "threshold_mode": "abs"},
    {"patience": 0, "eps": 0.01},
]


@pytest.mark.parametrize("keywords", PLATEAUS, ids=str)
def test_plateau_is_pytorchs(keywords):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.5)
    twin = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **keywords)
    schedule = ReduceOnPlateau(**keywords)
    for _ in range(2):  # `start` forgets
        schedule.start()
        got = [0.5 * schedule.at(Moment(i, 99, 1, {schedule.metric: r}, 0.5)) for i, r in enumerate(RESULTS)]
    want = []
    for result in RESULTS:
        twin.step(result)
        want.append(optimizer.param_groups[0]["lr"])
    assert got == pytest.approx(want, rel=1e-10)
    assert len(set(want)) > 1


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("level", [1.0, -1.0, 0.0, -1e-30, 1e30])
def test_a_flat_result_is_a_plateau_wherever_it_lies(mode, level):
    schedule = ReduceOnPlateau(mode, factor=0.1, patience=2)
    factors = [schedule.at(Moment(epoch, 9, record={schedule.metric: level})) for epoch in range(1, 9)]
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


@given(
    results=st.lists(st.floats(-100, 100), min_size=1, max_size=12), shift=st.sampled_from([1, -1]),
    threshold=st.sampled_from([0.0, 1e-4, 0.3, 1.0, 2.0]), mode=st.sampled_from(["min", "max"]),
)  # fmt: skip
def test_the_margin_is_a_share_of_the_magnitude(results, shift, threshold, mode):
    """Beside the definition; the smallest of results is to them what the largest is to their opposites."""
    schedule, twin = (ReduceOnPlateau(m, patience=0, eps=0.0, threshold=threshold) for m in ("min", "max"))
    best, want = None, []
    for result in results:
        better = best is None or result < best - threshold * abs(best)
        best = result if better else best
        want.append(better)
    got, factor = [], 1.0
    for result in results:
        found = schedule.at(Moment(1, 9, record={"val_loss": result}))
        assert found == twin.at(Moment(1, 9, record={"val_accuracy": -result}))
        got.append(found == factor)
        factor = found
    assert got == want


@pytest.mark.parametrize("metric", ["val_accuracy", "accuracy", "val_loss"])
def test_an_epoch_without_a_result_counts_for_nothing(metric):
    results = [0.5, None, 0.5, None, None, 0.5, None, 0.5]
    schedule, twin = (ReduceOnPlateau("max", patience=1, metric=metric) for _ in range(2))
    factors = [schedule.at(Moment(i, 9, record={metric: result})) for i, result in enumerate(results, 1)]
    known = [twin.at(Moment(i, 9, record={metric: 0.5})) for i in range(1, 5)]
    assert [factor for factor, result in zip(factors, results, strict=True) if result is not None] == known
    assert factors[1] == factors[0]


def test_plateau_counts_an_epoch_once_behind_a_warm_up():
    schedule = Warmup(ReduceOnPlateau(patience=0), length=1, first=0.5)
    schedule.start()
    factors = [
        schedule.at(Moment(step, 40, 10, {"val_loss": 1.0} if step and step % 10 == 0 else None)) for step in range(40)
    ]
    assert factors[:10] == pytest.approx([0.5 + 0.05 * i for i in range(10)])
    assert factors[10:] == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10)


def test_epochs_and_shares_are_the_same_in_steps():
    for epochs, steps in ((Step(2), Step(2, by="step")), (MultiStep([1, 0.5]), MultiStep([1, 0.5], by="step"))):
        for epoch in range(6):
            assert epochs.at(Moment(epoch, 6)) == steps.at(Moment(7 * epoch + 3, 42, 7))
    assert Exponential(0.5, by="step").at(Moment(5, 40, 10)) == pytest.approx(0.5**0.5)


def test_one_step_is_enough():
    for make in SCHEDULES.values():
        assert 0 < make().at(Moment(0, 1)) <= 1


REFUSED = [
    (lambda: Cosine(by="week"), "'epoch' or by 'step'"),
    (lambda: Step(0), "step_size=0"),
    (lambda: MultiStep(0.5), "milestones=0.5"),
    (lambda: MultiStep([1.5]), "whole epochs, or a share below 1"),
    (lambda: Exponential(-1), "gamma=-1"),
    (lambda: Warmup(0.1), "the schedule that follows"),
    (lambda: OneCycle(2), "pct_start=2"),
    (lambda: OneCycle(base_momentum=-0.1), "base_momentum=-0.1"),
    (lambda: OneCycle(max_momentum=1.0), "max_momentum=1.0 was given: it must lie below 1"),
    (lambda: ReduceOnPlateau("up"), "mode='up'"),
    (lambda: ReduceOnPlateau(patience=-1), "patience=-1"),
    (lambda: ReduceOnPlateau(threshold_mode="no"), "threshold_mode='no'"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals(call, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        call()
