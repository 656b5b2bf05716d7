"""Copies and pickles: the same network, the same bits, here and in other processes."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import fastcnn as fc

WAYS = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "oldest protocol": lambda thing: pickle.loads(pickle.dumps(thing, 2)),
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(params=WAYS)
def duplicate(request):
    return WAYS[request.param]


def network(device="cpu", dtype="float32") -> fc.Graph:
    x = fc.Input(6, 6, 2, name="image")
    block = fc.Sequential(fc.Conv2d(4, 4, 3, padding=1), fc.BatchNorm2d(4), fc.ReLU(), name="block")
    h = block(fc.Conv2d(2, 4, 3, padding=1, weight_init=fc.initializers.HeNormal())(x))
    h = fc.Dropout(0.3)(block(h) + h)
    return fc.Graph(x, fc.Linear(4, 3)(fc.GlobalAvgPool()(h))).astype(dtype).to(device)


def trained(device="cpu", dtype="float32"):
    net = network(device, dtype)
    trainer = fc.Trainer(net, fc.CrossEntropy(label_smoothing=0.1), fc.Adam(0.01), seed=3, clip_norm=1.0)
    trainer.fit(data(), epochs=2, batch_size=4)
    return trainer


def data():
    rng = np.random.default_rng(1)
    return rng.standard_normal((10, 6, 6, 2)).astype(np.float32), rng.integers(3, size=10)


def same_arrays(one, other):
    assert list(one.names.values()) == list(other.names.values())
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        for held in ("params", "state"):
            a, b = getattr(mine, held), getattr(theirs, held)
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
                assert a[name].dtype == b[name].dtype
                assert not np.shares_memory(a[name], b[name])


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network(duplicate, device, dtype):
    net, (x, _) = trained(device, dtype).net, data()
    net.freeze("block").eval()
    net.layers[0].eval()
    twin = duplicate(net)
    same_arrays(net, twin)
    np.testing.assert_array_equal(net.predict(x), twin.predict(x))
    assert (twin.dtype, twin.device, twin.training, twin.trainable_count) == (
        net.dtype, net.device, net.training, net.trainable_count
    )  # fmt: skip
    assert twin.layers[0].training is False
    assert twin.summary() == net.summary()
    net.layers[0].params["weight"][...] = 0
    assert twin.layers[0].params["weight"].any()


def test_a_network_that_nobody_has_drawn(duplicate):
    net = network()
    twin = duplicate(net)
    assert all(layer.store is None for layer in (*net.layers, *twin.layers))
    for each in (net, twin):
        each.draw_missing(5)
    same_arrays(net, twin)


def test_a_trainer_goes_on_where_it_was(duplicate):
    trainer = trained()
    twin = duplicate(trainer)
    assert twin.net is not trainer.net
    found = [each.fit(data(), epochs=2, batch_size=4, validation=data()).epochs for each in (trainer, twin)]
    kept = [
        [{k: v for k, v in record.items() if "second" not in k and k != "images_per_s"} for record in h] for h in found
    ]
    assert kept[0] == kept[1]
    same_arrays(trainer.net, twin.net)


def test_a_network_and_its_trainer_stay_together(duplicate):
    trainer = trained()
    net, twin = duplicate([trainer.net, trainer])
    assert twin.net is net
    before = net.predict(data()[0])
    twin.step(*data())
    assert (net.predict(data()[0]) != before).any()


def test_networks_that_share_layers_still_do(duplicate):
    net = network()
    net.initialize(0)
    trunk, x = net.trunk("block.relu1"), data()[0]
    net_2, trunk_2 = duplicate((net, trunk))
    assert trunk_2.layers[0] is net_2.layers[0]
    np.testing.assert_array_equal(trunk_2.predict(x), trunk.predict(x))
    net_2.layers[0].params["weight"] = np.zeros((3, 3, 2, 4))
    net_2.layers[0].params["bias"] = np.zeros(4)
    assert not trunk_2.activations(x, "conv1").any()


@pytest.mark.parametrize(
    "thing",
    [
        fc.SGD(0.1, momentum=0.9), fc.Adam(), fc.CrossEntropy(weight=[1.0, 2.0]), fc.schedules.Cosine(),
        fc.schedules.ReduceOnPlateau(), fc.augment.RandomShift(2), fc.BatchNorm2d(3), fc.Dropout(0.2),
        fc.MultiTask({"a": (fc.CrossEntropy(), 1.0)}), fc.MaxPool2d(2, return_indices=True), fc.SparseCoding(1, 4, 3),
    ],
    ids=lambda thing: type(thing).__name__,
)  # fmt: skip
def test_parts(duplicate, thing):
    twin = duplicate(thing)
    assert type(twin) is type(thing)
    if not repr(thing).startswith("<"):
        assert repr(twin) == repr(thing)


def test_a_layer_that_has_run(duplicate):
    layer, x = fc.BatchNorm2d(2), data()[0]
    layer.forward(x)
    twin = duplicate(layer)
    np.testing.assert_array_equal(twin.eval().forward(x), layer.eval().forward(x))
    np.testing.assert_array_equal(twin.state["running_mean"], layer.state["running_mean"])


def test_a_loss_that_has_run(duplicate):
    loss, y, t = fc.CrossEntropy(), np.eye(3), [0, 1, 1]
    expected = loss.forward(y, t)
    twin = duplicate(loss)
    with pytest.raises(fc.ArgumentError, match="forward first"):
        twin.backward()
    assert twin.forward(y, t) == expected


def test_a_long_chain(duplicate):
    net = fc.Sequential(*[fc.ReLU() for _ in range(3000)], input_shape=(2,)).to("reference")
    twin = duplicate(net)
    np.testing.assert_array_equal(twin.predict(np.ones((1, 2))), np.ones((1, 2)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    net, (x, _) = trained().net, data()
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(fc.Graph.predict, [(net, x), (net, x[:3])])
    np.testing.assert_array_equal(found[0], net.predict(x))
    np.testing.assert_array_equal(found[1], net.predict(x[:3]))
