"""Where parameters live: one array for the life of a network, one dtype, and memory that stays as it is."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

import fastcnn as fc

X = np.random.default_rng(0).standard_normal((4, 6, 6, 2)).astype(np.float32)


def network(device="cpu") -> fc.Sequential:
    return fc.Sequential(
        fc.Conv2d(2, 3, 3), fc.BatchNorm2d(3), fc.ReLU(), fc.Flatten(), fc.Linear(48, 3), input_shape=(6, 6, 2)
    ).to(device)


def arrays(net):
    return [array for layer in net.layers for held in (layer.params, layer.state) for array in held.values()]


USES = {
    "predict": lambda net: net.predict(X),
    "forward": lambda net: (net.forward(X), net.backward(np.ones((4, 3)))),
    "trainer": lambda net: fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1)).step(X, [0, 1, 2, 0]),
    "activations": lambda net: net.activations(X, "relu1"),
    "trunk": lambda net: net.trunk("relu1").predict(X),
    "lone layer": lambda net: net[0].forward(X),
    "initialize": lambda net: net.initialize(4),
    "memory": lambda net: net.memory(8),
    "around": lambda net: fc.Sequential(net, fc.ReLU(device=net.device), input_shape=(6, 6, 2)).predict(X),
    "summary": lambda net: net.summary(),
    "save and load": lambda net: None,
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("first", ["conv1", "linear1"])
def test_an_array_taken_first_is_the_networks_for_good(use, first, device):
    net = network(device)
    w = dict(net.named_layers())[first].params["weight"]
    held = arrays(net)
    USES[use](net)
    assert dict(net.named_layers())[first].params["weight"] is w
    assert all(now is then for now, then in zip(arrays(net), held, strict=True))
    w[...] = 0
    dict(net.named_layers())[first].params["bias"][...] = 0
    assert not net.activations(X, first).any()


def test_loading_fills_the_arrays_that_are_there(tmp_path):
    net = network()
    net.save(tmp_path / "net.safetensors")
    held = arrays(net)
    net.load_parameters(tmp_path / "net.safetensors")
    assert all(now is then for now, then in zip(arrays(net), held, strict=True))


def test_arrays_of_a_block_are_those_of_the_network_around_it():
    block = fc.Sequential(fc.Conv2d(2, 2, 3, padding=1), fc.ReLU(), input_shape=(6, 6, 2), name="block")
    net = fc.Sequential(block, fc.Flatten(), fc.Linear(72, 3), input_shape=(6, 6, 2))
    w = block[0].params["weight"]
    net.predict(X)
    before = block.predict(X)
    w[...] = 0
    assert (block.predict(X) != before).any()
    assert block[0].params["weight"] is w
    assert net.layers[0].params["weight"] is w


def test_looking_at_a_layer_draws_it_alone():
    """A Trainer's seed draws what nobody has looked at, as if there had been no look."""
    one, other = network(), network()
    fc.manual_seed(1)
    lone = one[0].params["weight"].copy()
    for net in (one, other):
        fc.Trainer(net, fc.CrossEntropy(), fc.SGD(), seed=9)
    assert (one[0].params["weight"] == lone).all()
    assert (one[0].params["weight"] != other[0].params["weight"]).any()
    fc.manual_seed(1)
    assert (network()[0].params["weight"] == lone).all()
    x = fc.Input(6, 6, 2)
    rest = fc.Graph(x, fc.Linear(48, 3)(fc.Flatten()(fc.Conv2d(2, 3, 3)(x))))
    rest.nodes[1].layer.params["weight"] = np.zeros((3, 3, 2, 3))
    fc.Trainer(rest, fc.CrossEntropy(), fc.SGD(), seed=9)
    assert not rest.nodes[1].layer.params["weight"].any()
    assert rest.nodes[3].layer.params["weight"].any()


@pytest.mark.parametrize(
    "leave",
    [
        lambda net: net.astype("float64"),
        lambda net: net.to("reference"),
        lambda net: fc.Graph(net.inputs, fc.ReLU()(fc.Linear(3, 2)(net.node("linear1")))),
    ],
    ids=["astype", "to", "another network"],
)
def test_an_array_that_is_cut_off_cannot_be_written(leave):
    net = network()
    w, kept = net[0].params["weight"], net[0].params["weight"].copy()
    leave(net).predict(X)
    with pytest.raises(ValueError, match="read-only"):
        w[...] = 0
    np.testing.assert_array_equal(net[0].params["weight"], kept)
    net[0].params["weight"][...] = 0  # asked for anew it is the one that counts
    assert not net.own_store().host_value(net[0], "weight").any()


EXACT = 1 + 2.0**-40  # what float32 rounds


def wide(*layers, shape):
    return fc.Sequential(*layers, input_shape=shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: wide(fc.Conv1d(2, 3, 1, dtype="float64"), fc.BatchNorm1d(3), shape=(4, 2)),
        lambda: wide(fc.Conv1d(2, 3, 1), fc.BatchNorm1d(3, dtype="float64"), shape=(4, 2)),
        lambda: wide(fc.Sequential(fc.Conv1d(2, 3, 1), fc.ReLU()), fc.BatchNorm1d(3, dtype="float64"), shape=(4, 2)),
        lambda: fc.Sequential(fc.Conv1d(2, 3, 1, dtype="float64"), fc.BatchNorm1d(3)),
    ],
    ids=["first", "last", "nested", "block"],
)
def test_a_network_has_one_dtype_from_its_making(make):
    net = make()
    assert {layer.dtype for layer in net.layers} == {np.dtype("float64")}
    for layer in net.layers:
        for name in layer.params:
            layer.params[name] = np.full(layer.params[name].shape, EXACT)
    if net.inputs:
        assert net.predict(np.ones((1, 4, 2))).dtype == np.float64
    for layer in net.layers:
        for array in layer.params.values():
            assert (array == EXACT).all()


def test_values_that_were_set_before_are_kept_exactly():
    conv = fc.Conv1d(2, 3, 1, dtype="float64")
    conv.params["weight"] = np.full((1, 2, 3), EXACT)
    net = wide(conv, fc.BatchNorm1d(3), shape=(4, 2))
    net.predict(np.ones((1, 4, 2)))
    assert (net[0].params["weight"] == EXACT).all()


def test_numbers_that_would_be_rounded_are_refused():
    net = network()
    net.predict(X)
    net[4].forward(np.ones((1, 48)))  # a layer by itself follows a float64 array
    net[4].params["weight"][0, 0] = EXACT
    with pytest.raises(fc.ArgumentError, match=r"weight of linear1.* float64 numbers .*astype"):
        net.predict(X)
    assert net.astype("float64").predict(X).dtype == np.float64
    assert net[4].params["weight"][0, 0] == EXACT


def test_a_lone_pass_in_float64_leaves_the_network_as_it_is():
    net = network()
    before = net.predict(X)
    assert net[0].forward(X.astype("float64")).dtype == np.float64
    np.testing.assert_array_equal(net.predict(X), before)
    assert net.dtype == np.float32


def test_changing_batch_sizes_take_no_more_memory():
    net = network()
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01))
    rng = np.random.default_rng(0)

    def run(times):
        for _ in range(times):
            size = int(rng.integers(1, 40))
            x, t = np.ones((size, 6, 6, 2), np.float32), np.zeros(size, np.int64)
            trainer.step(x, t)
            trainer.evaluate((x, t), batch_size=size)
            net.predict(x, batch_size=size)

    run(60)
    gc.collect()
    tracemalloc.start()
    try:
        run(20)
        gc.collect()
        first = tracemalloc.get_traced_memory()[0]
        run(150)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - first < 200_000
    finally:
        tracemalloc.stop()
    assert len(trainer._batches) <= 10


def test_a_plan_that_is_dropped_is_freed_at_once():
    net = network()
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01))
    gc.disable()
    try:
        trainer.step(X, [0, 1, 2, 0])
        plan = weakref.ref(net.plan(4, True, "parameters"))
        trainer.step(np.concatenate([X, X]), [0, 1, 2, 0] * 2)
        assert plan() is None
    finally:
        gc.enable()
