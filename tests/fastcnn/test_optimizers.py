"""Optimizers beside torch.optim on a network's parameters, spared parameters, and states by name."""

import numpy as np
import pytest

import fastcnn as fc

STEPS = 20
RULES = {
    "sgd": (fc.SGD, "SGD", {"lr": 0.1}),
    "sgd, defaults": (fc.SGD, "SGD", {}),
    "sgd, all": (fc.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd, nesterov": (fc.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    "adam": (fc.Adam, "Adam", {}),
    "adam, all": (
        fc.Adam, "Adam", {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}
    ),
    "adamw": (fc.AdamW, "AdamW", {}),
    "adamw, amsgrad": (fc.AdamW, "AdamW", {"lr": 0.1, "amsgrad": True}),
    "rmsprop": (fc.RMSprop, "RMSprop", {}),
    "rmsprop, all": (
        fc.RMSprop, "RMSprop",
        {"lr": 0.1, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.5, "centered": True},
    ),
    "adagrad": (fc.Adagrad, "Adagrad", {}),
    "adagrad, all": (
        fc.Adagrad, "Adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3},
    ),
}  # fmt: skip


def network(device="reference"):
    net = fc.Sequential(
        fc.Conv2d(2, 3, 3), fc.ReLU(), fc.Flatten(), fc.Linear(12, 5), fc.Linear(5, 2), input_shape=(4, 4, 2)
    )
    net.astype("float64").to(device).initialize(0)
    return net


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("decay_bias", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_twenty_steps_equal_pytorchs(name, decay_bias, device):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    ours, theirs, arguments = RULES[name]
    store, rng = network(device).own_store(), np.random.default_rng(0)
    params, grads = store.named(store.values), store.named(store.gradients)
    twins = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in params.items()}
    spared = [twin for key, twin in twins.items() if key.endswith("bias")] if not decay_bias else []
    groups = [{"params": [twin for twin in twins.values() if not any(twin is other for other in spared)]}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    rule, optimizer = getattr(torch.optim, theirs)(groups, **arguments), ours(**arguments, decay_bias=decay_bias)
    for _ in range(STEPS):
        for key, twin in twins.items():
            grads[key][...] = rng.standard_normal(grads[key].shape)
            twin.grad = torch.tensor(grads[key])
        rule.step()
        optimizer.update(store.backend, store.values, store.gradients, store.decayed)
    for key, twin in twins.items():
        np.testing.assert_allclose(params[key], twin.detach().numpy(), rtol=1e-10, atol=1e-12)
    for what, state in optimizer.state.items():
        if what == "step":
            assert state == STEPS
            continue
        assert what in optimizer.arrays
        for key, value in store.named(state).items():
            np.testing.assert_allclose(value, rule.state[twins[key]][what].numpy(), rtol=1e-10, atol=1e-14)


def test_parameters_of_one_axis_stand_behind_the_others():
    store = network().own_store()
    params = store.named(store.values)
    assert list(params) == [
        f"{layer}.{name}" for layer in ("conv1", "linear1", "linear2") for name in ("weight", "bias")
    ]
    marked = store.named(np.arange(store.values.size, dtype=float))
    for key, value in marked.items():
        assert (value < store.decayed).all() == (value.ndim > 1), key
        assert np.shares_memory(params[key], store.values)


def test_a_state_is_made_anew_for_other_parameters_and_after_clear():
    room = network().own_store().backend
    for optimizer in (fc.Adam(0.1, amsgrad=True), fc.RMSprop(0.1, momentum=0.5, centered=True), fc.Adagrad(0.1)):
        first = np.ones(4)
        optimizer.update(room, first, np.ones(4))
        optimizer.update(room, np.ones(4), np.ones(4))
        assert optimizer.steps == 2
        optimizer.update(room, np.ones(3, np.float32), np.ones(3, np.float32))
        assert optimizer.steps == 1
        assert all(a.dtype == np.float32 for name, a in optimizer.state.items() if name != "step")
        optimizer.state.clear()
        again = np.ones(4)
        optimizer.update(room, again, np.ones(4))
        np.testing.assert_array_equal(again, first)


REFUSED = [
    (lambda: fc.SGD(0.1, nesterov=True, momentum=0.5, dampening=0.5), "dampening 0"),
    (lambda: fc.SGD(0.1, dampening=float("nan")), "dampening=nan"),
    (lambda: fc.Adam(betas=0.9), "give two numbers"),
    (lambda: fc.Adam(betas=(0.9, 1.0)), r"betas\[1\]=1.0 was given"),
    (lambda: fc.Adam(eps=-1), "eps=-1"),
    (lambda: fc.AdamW(weight_decay=-1), "weight_decay=-1"),
    (lambda: fc.RMSprop(alpha=2), "alpha=2"),
    (lambda: fc.RMSprop(momentum=1), "momentum=1"),
    (lambda: fc.Adagrad(lr_decay=-1), "lr_decay=-1"),
    (lambda: fc.Adagrad(lr="fast"), "lr='fast'"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals(call, sentence):
    with pytest.raises(fc.ArgumentError, match=sentence):
        call()


def test_representations_tell_the_rule():
    assert repr(fc.AdamW(0.1)) == "AdamW(0.1, betas=(0.9, 0.999), weight_decay=0.01)"
    assert "RMSprop(0.01" in repr(fc.RMSprop())
    assert "Adagrad(0.01" in repr(fc.Adagrad())
