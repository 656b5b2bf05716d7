"""One optimizer for several networks: each has moments and counts of its own, as long as it lives."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_training import CLASSES, blobs, network, parameters

import fastcnn as fc

DEVICES = ("cpu", "reference")
RULES = {
    "sgd": lambda: fc.SGD(0.1, momentum=0.9, dampening=0.1), "adam": lambda: fc.Adam(0.01, amsgrad=True),
    "adamw": lambda: fc.AdamW(0.01), "rmsprop": lambda: fc.RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: fc.Adagrad(0.1, lr_decay=0.1),
}  # fmt: skip


def other(device):
    net = fc.Sequential(fc.Flatten(), fc.Linear(36, CLASSES), input_shape=(6, 6, 1)).to(device)
    net.initialize(1)
    return net


def nets(device):
    """Return two networks of one shape, and one of another."""
    return [network(device), network(device), other(device)]


def trainers(networks, optimizers):
    return [
        fc.Trainer(net, fc.CrossEntropy(), optimizer, seed=i)
        for i, (net, optimizer) in enumerate(zip(networks, optimizers, strict=True))
    ]


def contents(run):
    return [parameters(run.net).tobytes(), {name: a.tobytes() for name, a in run.optimizer.state.items()}]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", RULES)
def test_networks_that_take_turns_are_as_with_an_optimizer_each(rule, device):
    shared = RULES[rule]()
    ours = trainers(nets(device), [shared] * 3)
    theirs = trainers(nets(device), [RULES[rule]() for _ in range(3)])
    for turn in (0, 0, 1, 2, 1, 0, 0, 0, 2, 1, 1, 1, 2, 2, 0):
        assert ours[turn].step(*blobs()) == theirs[turn].step(*blobs())
        assert contents(ours[turn]) == contents(theirs[turn])
        assert shared.steps == theirs[turn].optimizer.steps


@given(turns=st.lists(st.integers(0, 2), max_size=10), rule=st.sampled_from(sorted(RULES)))
def test_any_order_of_turns(turns, rule):
    ours = trainers(nets("reference"), [RULES[rule]()] * 3)
    theirs = trainers(nets("reference"), [RULES[rule]() for _ in range(3)])
    for turn in turns:
        ours[turn].step(*blobs()), theirs[turn].step(*blobs())
        assert contents(ours[turn]) == contents(theirs[turn])


@pytest.mark.parametrize("device", DEVICES)
def test_a_second_fit_of_another_network_begins_anew_and_a_trainer_of_the_same_goes_on(device):
    shared = fc.Adam(0.01)
    first, second = trainers(nets(device)[:2], [shared] * 2)
    first.fit(blobs(), 2, batch_size=16)
    second.fit(blobs(), 1, batch_size=16)
    assert shared.steps == 4
    again = fc.Trainer(first.net, fc.CrossEntropy(), shared)
    again.step(*blobs())
    assert shared.steps == 9


def test_states_end_with_their_networks():
    shared = fc.Adam(0.01)
    first, second = trainers(nets("cpu")[:2], [shared] * 2)
    first.step(*blobs())
    held = weakref.ref(shared.state["exp_avg"].base)
    second.step(*blobs())
    gc.collect()
    assert held() is not None  # waits
    del first
    gc.collect()
    assert held() is None
    second.step(*blobs())
    assert shared.steps == 2
    del second
    gc.collect()
    third = trainers([network("cpu")], [shared])[0]
    third.step(*blobs())
    assert shared.steps == 1


def test_a_state_that_is_assigned_belongs_to_the_next_step():
    shared = fc.Adam(0.01)
    first, second = trainers(nets("cpu")[:2], [shared] * 2)
    for _ in range(3):
        first.step(*blobs())
    kept = {name: array.copy() for name, array in shared.state.items()}
    second.step(*blobs())
    shared.state = kept
    second.step(*blobs())
    assert shared.steps == 4
    fresh = fc.Adam(0.01)
    fresh.state = {name: array.copy() for name, array in shared.state.items()}
    fc.Trainer(network("cpu"), fc.CrossEntropy(), fresh).step(*blobs())
    assert fresh.steps == 5


@pytest.mark.parametrize("rule", RULES)
def test_copies(rule):
    optimizer = RULES[rule]()
    run, *_ = trainers([network("cpu")], [optimizer])
    for _ in range(3):
        run.step(*blobs())
    before = contents(run)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert repr(twin) == repr(optimizer)
        assert {name: a.tobytes() for name, a in twin.state.items()} == before[1]
        fc.Trainer(network("cpu"), fc.CrossEntropy(), twin).step(*blobs())
        assert twin.steps == 4
    twin = copy.copy(optimizer)
    assert (repr(twin), twin.state) == (repr(optimizer), {})
    fc.Trainer(network("cpu"), fc.CrossEntropy(), twin).step(*blobs())
    assert contents(run) == before


@pytest.mark.parametrize("device", DEVICES)
def test_moving_a_network_keeps_its_state(device):
    optimizer = fc.Adam(0.01)
    run, *_ = trainers([network("cpu")], [optimizer])
    run.step(*blobs())
    run.net.to(device)
    run.step(*blobs())
    assert optimizer.steps == 2


def test_a_networks_memory_needs_no_state():
    optimizer = fc.Adam(0.01)
    run, *_ = trainers([network("cpu")], [optimizer])
    run.step(*blobs())
    before = contents(run)
    run.net.memory(8, optimizer=optimizer)
    assert contents(run) == before
    np.testing.assert_array_equal(optimizer.steps, 1)
