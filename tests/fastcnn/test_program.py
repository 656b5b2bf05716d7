"""Networks run as programs: what is repeated and what is kept of the parameters show in no result."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_networks import networks
from sweeps import crossed, examples

import fastcnn as fc
from fastcnn.engine.plan import run
from fastcnn.kernels.cpu.runtime import workspace

BATCH = 2
RETURNS = ["nothing", "inputs", "parameters"]


def poison():
    for buffer in workspace._current.workspace.held.values():
        buffer.view(np.uint8)[...] = 0x7F


def results(net, plan, images, gradients, as_program):
    """Return all that a pass, and the way back where there is one, leave behind; states end as they were before."""
    states = [array for layer in net.layers for array in layer.own_state.values()]
    before = [state.copy() for state in states]
    poison()
    plan.load(images)
    if as_program:
        plan.forward()
    else:
        keeper = workspace.Keeper(plan.store.constants) if plan._keeps else None  # kept filters take other kernels
        with workspace.keeping(keeper):
            run([call for _, calls in plan.forward_parts for call in calls])
    found = [y.copy() for y in plan.outputs]
    if plan.output_gradients:
        plan.load_gradients(gradients)
        if as_program:
            plan.backward()
        else:
            run([call for _, calls in plan.backward_parts for call in calls])
        found += [dx.copy() for dx in plan.input_gradients] + [plan.store.gradients.copy()]
    found += [state.copy() for state in states]
    for state, kept in zip(states, before, strict=True):
        state[...] = kept
    return found


def check_programs(net, plan, rng):
    """Compare a plan's passes with its calls one by one, for several contents of all arrays."""
    for _ in range(4):
        images, gradients = (
            [rng.standard_normal((BATCH, *shape), dtype=net.dtype) for shape in shapes]
            for shapes in (net.input_shapes, net.output_shapes)
        )
        as_program, by_calls = (results(net, plan, images, gradients, way) for way in (True, False))
        for ours, expected in zip(as_program, by_calls, strict=True):
            np.testing.assert_array_equal(ours, expected)
        for layer in net.layers:
            for name in layer.params:
                layer.params[name] *= net.dtype.type(1.01)


@given(networks(), st.sampled_from(["float32", "float64"]), st.sampled_from(RETURNS), st.integers(0, 5))
@examples(30)
def test_programs_of_random_networks_repeat_what_calls_do(ends, dtype, returns, seed):
    net, rng = fc.Graph(*ends).astype(dtype), np.random.default_rng(seed)
    net.initialize(seed)
    check_programs(net, net.plan(BATCH, returns != "nothing", returns), rng)


NETWORKS = {
    "lenet": lambda: fc.models.lenet(),
    "resnet20": lambda: fc.models.resnet20(input_shape=(12, 12, 3)),
    "mobilenet_v2": lambda: fc.models.mobilenet_v2(input_shape=(32, 32, 3), classes=5),
    "googlenet": lambda: fc.models.googlenet(input_shape=(48, 48, 3), classes=5),
    "densenet121": lambda: fc.models.densenet121(input_shape=(32, 32, 3), classes=5),
    "unet": lambda: fc.models.unet(input_shape=(16, 16, 1)),
    "box_detector": lambda: fc.models.box_detector(),
}


@pytest.mark.parametrize(("name", "returns"), crossed(NETWORKS, RETURNS))
def test_programs_repeat_what_calls_do(name, returns):
    net, rng = NETWORKS[name](), np.random.default_rng(0)
    net.initialize(0)
    plan = net.plan(BATCH, returns != "nothing", returns)
    for layer in net.layers:
        layer.eval() if isinstance(layer, fc.Dropout) else None
    check_programs(net, plan, rng)
    assert plan._program._tape is not None


@pytest.fixture
def net():
    net = fc.Sequential(
        fc.Conv2d(3, 20, 3, padding=1, bias=False), fc.BatchNorm2d(20), fc.ReLU(), fc.Conv2d(20, 32, 3, padding=1),
        fc.GlobalAvgPool(), fc.Linear(32, 4), input_shape=(8, 8, 3),
    )  # fmt: skip
    net.initialize(1)
    yield net
    HELD.clear()


HELD = {}
"""What the ways below hold on to from their first call on."""


def by_array(net):
    array = HELD[net] = HELD[net] if net in HELD else net[0].params["weight"]
    array *= np.float32(1.5)


def by_row(net):
    row = HELD[net] = HELD[net] if net in HELD else net[0].params["weight"].reshape(-1)[5:9]
    row += np.float32(0.5)


def by_dict(net):
    params = HELD[net] = HELD[net] if net in HELD else net[0].params
    params["weight"] = params["weight"] + np.float32(0.1)


def by_state(net):
    net[1].state["running_mean"][...] += np.float32(0.3)


def by_item(net):
    net[0].params["weight"] = 1.5 * net[0].params["weight"]


def by_flat_array(net):
    values = net.own_store().values
    values += np.float32(0.01)


def by_forward(net):
    net.forward(np.random.default_rng(5).standard_normal((3, 8, 8, 3)))


def by_training(net):
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1))
    trainer.step(np.ones((4, 8, 8, 3), np.float32), np.zeros(4, int))


def by_optimizer(net):
    store = net.own_store()
    store.gradients.fill(1)
    fc.SGD(0.1).update(store.backend, store.values, store.gradients)


def by_initialize(net):
    net.initialize(int(1000 * net[0].params["weight"].max()))


def by_astype(net):
    net.astype("float64")
    net[0].params["weight"] *= 1.1
    net.astype("float32")


WAYS = (by_array, by_row, by_dict, by_state, by_item, by_flat_array, by_forward, by_training, by_optimizer,
        by_initialize, by_astype)  # fmt: skip


@pytest.mark.parametrize("change", WAYS, ids=lambda way: way.__name__)
def test_predictions_see_every_change_of_the_parameters(net, change):
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), dtype=np.float32)
    last = None
    for _ in range(5):
        for _ in range(3):
            found = net.predict(x)
        fresh = fc.Sequential(*(type(layer)(**layer.config()) for layer in net), input_shape=(8, 8, 3))
        for own, layer in zip(fresh, net, strict=True):
            own.params.update(layer.own_params)
            own.state.update(layer.own_state)
        np.testing.assert_allclose(found, fresh.predict(x), rtol=1e-6, atol=1e-6)
        assert last is None or np.abs(found - last).max() > 1e-4
        last = found
        change(net)


def test_loaded_parameters_are_seen(net, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), dtype=np.float32)
    other = fc.Sequential(*(type(layer)(**layer.config()) for layer in net), input_shape=(8, 8, 3))
    other.initialize(7)
    other.save(tmp_path / "other.safetensors")
    for _ in range(4):
        net.predict(x)
    net.load_parameters(tmp_path / "other.safetensors")
    np.testing.assert_allclose(net.predict(x), other.predict(x), rtol=1e-6, atol=1e-6)


def test_arrays_given_back_let_packed_filters_be_kept(net):
    store = net.own_store()
    held = net[0].params["weight"]
    assert store.version is None
    view = held[0]
    del held
    assert store.version is None
    del view
    before = store.version
    assert before is not None
    assert store.version == before
    assert net[0].params["weight"] is not None
    assert store.version > before
