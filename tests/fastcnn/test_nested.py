"""Networks as layers of others: names, shared parameters, training, files."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastcnn as fc
from fastcnn.checkpoint.safetensors import describe

DEVICES = ("reference", "cpu")


def parts(width: int = 4) -> list[fc.Layer]:
    return [fc.Conv2d(width, width, 3, padding=1), fc.BatchNorm2d(width), fc.ReLU()]


def block(width: int = 4, **keywords) -> fc.Sequential:
    return fc.Sequential(*parts(width), **keywords)


def network(device: str = "reference") -> fc.Sequential:
    return fc.Sequential(
        fc.Conv2d(1, 4, 3, padding=1), fc.ReLU(), block(), block(name="last"), fc.Sequential(block(), fc.MaxPool2d(2)),
        fc.Flatten(), fc.Linear(36, 3), input_shape=(6, 6, 1),
    ).to(device)  # fmt: skip


NAMES = (
    "conv1 relu1 sequential1.conv1 sequential1.batch_norm1 sequential1.relu1 last.conv1 last.batch_norm1 last.relu1 "
    "sequential3.sequential1.conv1 sequential3.sequential1.batch_norm1 sequential3.sequential1.relu1 "
    "sequential3.pool1 flatten1 linear1"
).split()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 6, 6, 1)).astype(np.float32)


def names(net: fc.Graph) -> list[str]:
    return [name for name, _ in net.named_layers()]


def test_layers_are_named_after_their_blocks():
    net = network()
    assert names(net) == NAMES
    assert net[3][0] is dict(net.named_layers())["last.conv1"]
    assert net[4][0][0] is dict(net.named_layers())["sequential3.sequential1.conv1"]
    assert (len(net), len(net[2]), [type(part).__name__ for part in net[4]]) == (7, 3, ["Sequential", "MaxPool2d"])
    net.own_store()
    assert net[3][0].name == "last.conv1"
    assert "last.conv1 = Conv2d(4, 4" in net[3][0].label
    assert names(net[3]) == ["conv1", "batch_norm1", "relu1"]
    assert [row.name for row in net.measures()] == NAMES


@pytest.mark.parametrize("device", DEVICES)
def test_a_nested_network_trains_as_the_flat_one(device, images):
    net = network(device)
    flat = fc.Sequential(
        fc.Conv2d(1, 4, 3, padding=1), fc.ReLU(), *parts(), *parts(), *parts(), fc.MaxPool2d(2), fc.Flatten(),
        fc.Linear(36, 3), input_shape=(6, 6, 1),
    ).to(device)  # fmt: skip
    trainers = [fc.Trainer(one, fc.CrossEntropy(), fc.Adam(0.01), seed=2) for one in (net, flat)]
    for _ in range(3):
        first, second = (trainer.step(images, [0, 1, 2, 0, 1]) for trainer in trainers)
        assert first == second
    np.testing.assert_array_equal(net.own_store().values, flat.own_store().values)
    np.testing.assert_array_equal(net.predict(images), flat.predict(images))


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_are_the_inner_networks_own(device, images):
    inner = fc.Sequential(fc.Conv2d(1, 2, 3, padding=1), fc.ReLU(), input_shape=(6, 6, 1), name="inner").to(device)
    outer = fc.Sequential(inner, fc.Flatten(device=device), fc.Linear(72, 3, device=device), input_shape=(6, 6, 1))
    for _ in range(2):
        fc.Trainer(outer, fc.CrossEntropy(), fc.SGD(0.1)).step(images, [0, 1, 2, 0, 1])
        np.testing.assert_array_equal(inner.predict(images), outer.activations(images, "inner.relu1"))
    inner[0].params["weight"] = np.zeros((3, 3, 1, 2))
    assert not outer[0][0].params["weight"].any()
    assert names(inner) == ["conv1", "relu1"]


def test_a_block_used_twice_shares_its_weights(images):
    twice = fc.Sequential(fc.Conv2d(1, 1, 3, padding=1), fc.Tanh(), name="twice")
    net = fc.Sequential(twice, twice, input_shape=(6, 6, 1)).to("reference")
    assert names(net) == ["twice.conv1", "twice.tanh1"]
    found = net.activations(images, "twice.tanh1", "twice.tanh1:2")
    np.testing.assert_array_equal(found["twice.tanh1:2"], net.predict(images))
    np.testing.assert_array_equal(twice[1].forward(twice[0].forward(found["twice.tanh1"])), found["twice.tanh1:2"])


def test_a_graph_is_a_layer_too(images):
    x, z = fc.Input(4, 4, 1), fc.Input(4, 4, 1)
    gate = fc.Graph([x, z], [fc.Sigmoid()(fc.Conv2d(1, 1, 1, name="mix")(x)) * z, x + z], name="gate")
    a, b = fc.Input(6, 6, 1), fc.Input(6, 6, 1)  # of another size than the block's own
    product, total = gate(a, b)
    net = fc.Graph([a, b], product + fc.ReLU()(total)).to("reference")
    assert names(net) == ["gate.mix", "gate.sigmoid1", "gate.multiply1", "gate.add1", "relu1", "add1"]
    sigmoid = 1 / (1 + np.exp(-net.activations((images, 2 * images), "gate.mix")))
    wanted = sigmoid * 2 * images + np.maximum(3 * images, 0)
    np.testing.assert_allclose(net.predict(images, 2 * images), wanted, rtol=1e-5)


def test_residual_blocks_of_a_loop(images):
    x = fc.Input(6, 6, 1)
    h = fc.Conv2d(1, 4, 1)(x)
    for number in range(3):
        h = fc.ReLU()(block(name=f"stage{number}")(h) + h)
    net = fc.Graph(x, h).to("reference")
    assert [name for name in names(net) if name.endswith("conv1")] == ["conv1", *(f"stage{n}.conv1" for n in range(3))]
    total = net.parameter_count
    assert net.freeze("stage1").trainable_count == total - 3 * 3 * 4 * 4 - 4 - 8


def test_blocks_freeze_by_name_or_as_things():
    net = network()
    everything = net.parameter_count
    size = sum(layer.parameter_count for layer in net[3])
    assert net.freeze("last").trainable_count == everything - size
    assert net.unfreeze(net[3]).trainable_count == everything
    assert net[3].freeze().trainable_count == 0
    assert net.trainable_count == everything - size
    with pytest.raises(fc.ArgumentError, match="of this network"):
        net.freeze(block())


@pytest.mark.parametrize("device", DEVICES)
def test_files_keep_the_nesting(tmp_path, device, images):
    net = network(device)
    net.forward(images)
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device=device)
    assert names(again) == NAMES
    assert repr(again[4][0][0]) == repr(net[4][0][0])
    assert names(again[3]) == ["conv1", "batch_norm1", "relu1"]
    np.testing.assert_array_equal(again.predict(images), net.predict(images))
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()
    loaded = network(device).load_parameters(tmp_path / "net.safetensors")
    assert "last.batch_norm1.running_mean" in loaded.matched


@pytest.mark.parametrize("first", [True, False])
def test_files_of_a_layer_inside_and_outside_of_a_block(tmp_path, images, first):
    conv = fc.Conv2d(1, 1, 3, padding=1)
    inner = fc.Sequential(fc.Sequential(conv, fc.ReLU()), conv)
    net = fc.Sequential(*((conv, inner) if first else (inner, conv)), inner, input_shape=(6, 6, 1)).to("reference")
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device="reference")
    assert names(again) == names(net)
    assert again[int(first)] is again[2]
    assert again[2][0][0] is again[2][1] is again[0 if first else 1]
    np.testing.assert_array_equal(again.predict(images), net.predict(images))


def nested(depth: int) -> list:
    """Return a chain in a chain in a chain ..., as deep as JSON is read but Python does not go."""
    chain = ["conv1"]
    for _ in range(depth):
        chain = [{"name": "a", "chain": chain}]
    return chain


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(sequential=True),
        lambda d: d["sequential"].reverse(),
        lambda d: d["sequential"].append(d["sequential"][1]),
        lambda d: d["sequential"][2].pop("name"),
        lambda d: d["sequential"][2].update(name="another"),
        lambda d: d["sequential"][2].update(chain=nested(450)),
        lambda d: d["sequential"][2].update(chain=["none"]),
        lambda d: d["sequential"][2].update(chain=None),
        lambda d: d.update(nodes=d["nodes"][:-1]),
    ],
)
def test_wrong_chains_in_files_are_refused(tmp_path, change):
    net = network()
    net.save(tmp_path / "net.safetensors")
    tensors = load_file(tmp_path / "net.safetensors")
    description = describe(net)
    change(description)
    save_file(tensors, tmp_path / "net.safetensors", metadata={"fastcnn": json.dumps(description)})
    with pytest.raises(fc.CheckpointError, match="cannot be built"):
        fc.load(tmp_path / "net.safetensors", device="reference")


def test_files_of_graphs_in_chains_keep_the_names(tmp_path, images):
    x = fc.Input(6, 6, 1)
    net = fc.Sequential(fc.Graph(x, fc.Conv2d(1, 1, 1)(x) + x), fc.ReLU(), input_shape=(6, 6, 1)).to("reference")
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device="reference")
    assert names(again) == ["graph1.conv1", "graph1.add1", "relu1"]
    np.testing.assert_array_equal(again.predict(images), net.predict(images))


def test_a_trunk_under_a_new_chain(images):
    trunk = network().trunk("last.relu1")
    net = fc.Sequential(trunk, fc.GlobalAvgPool(device="reference"), input_shape=(8, 8, 1))
    assert names(net) == [*(f"graph1.{name}" for name in NAMES[:8]), "pool1"]
    assert net.output_shapes == [(4,)]
    cut = network()
    tuned = fc.Graph(cut.inputs, fc.Flatten(device="reference")(cut.node("last.relu1")))
    assert names(tuned) == [*NAMES[:8], "flatten1"]


def two_inputs() -> fc.Graph:
    a, b = fc.Input(3), fc.Input(3)
    return fc.Graph([a, b], [a + b, a * b])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: block().predict(np.zeros((1, 6, 6, 4))), "give input_shape"),
        (lambda: block().forward(np.zeros((1, 6, 6, 4))), "give input_shape"),
        (lambda: block().summary(), "give input_shape"),
        (lambda: block().save("net.safetensors"), "give input_shape"),
        (lambda: block().trunk("relu1"), "give input_shape"),
        (lambda: fc.Trainer(block(), fc.CrossEntropy(), fc.SGD(0.1)), "give input_shape"),
        (lambda: block()(np.zeros((1, 6, 6, 4))), "forward or predict for arrays"),
        (lambda: block()(fc.Input(6, 6, 4), fc.Input(6, 6, 4)), "a chain takes one"),
        (lambda: two_inputs()(fc.Input(3)), "called on 1 nodes and has 2 inputs"),
        (lambda: two_inputs()(1, 2), "forward or predict for arrays"),
        (lambda: fc.Sequential(two_inputs(), input_shape=(3,)), "called on 1 nodes"),
        (lambda: fc.Sequential(block(name="a"), block(name="a"), input_shape=(6, 6, 4)), "are named 'a'"),
        (lambda: fc.Sequential(block(name="a"), fc.ReLU(name="a.conv1"), input_shape=(6, 6, 4)), "named 'a.conv1'"),
        (lambda: fc.Sequential(block(), input_shape=(6, 6, 5)), "conv1 = Conv2d(4, 4"),
        (lambda: fc.Sequential(fc.Sequential(fc.ReLU, name="a")), "layers only"),
    ],
)
def test_wrong_nesting_gets_one_sentence(call, sentence):
    with pytest.raises(fc.FastcnnError) as caught:
        call()
    assert sentence in str(caught.value)


def deep(levels: int, kind: type = fc.Sequential) -> fc.Graph:
    """Return a network in a network in a network ..., each with a layer of its own; every other one is named."""
    net = fc.Linear(3, 3)
    for level in range(levels):
        name = f"b{level}" if level % 2 else None
        if kind is fc.Sequential:
            net = fc.Sequential(net, fc.ReLU() if level % 5 else fc.Linear(3, 3), name=name)
        else:
            x = fc.Input(3)
            net = fc.Graph(x, fc.ReLU()(net(x)), name=name)
    return fc.Sequential(net, fc.Linear(3, 2), input_shape=(3,)).to("reference")


@pytest.mark.parametrize("kind", [fc.Sequential, fc.Graph])
@pytest.mark.parametrize("levels", [1, 48, 49, 50, 51, 400])
def test_networks_nest_deeper_than_pythons_stack(tmp_path, levels, kind):
    net = deep(levels, kind)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype("f4")
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01))
    for _ in range(3):
        assert np.isfinite(trainer.step(x, [0, 1, 0, 1]))
    assert len(net.summary().splitlines()) == len(net.layers) + 2
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device="reference")
    assert names(again) == names(net)
    assert describe(again) == describe(net)
    np.testing.assert_array_equal(again.predict(x), net.predict(x))
    inner, ours = again, net
    while kind is fc.Sequential and isinstance(ours, fc.Sequential):
        assert isinstance(inner, fc.Sequential)
        assert (inner.name, len(inner)) == (ours.name, len(ours))
        inner, ours = inner[0], ours[0]


def test_chains_of_thousands_of_layers(tmp_path):
    layers = [fc.ReLU() if number % 2 else fc.Linear(3, 3) for number in range(5000)]
    net = fc.Sequential(*layers, input_shape=(3,)).to("reference")
    x = np.ones((2, 3), "f4")
    fc.Trainer(net, fc.MeanSquaredError(), fc.SGD(0.01)).step(x, x)
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device="reference")
    np.testing.assert_array_equal(again.predict(x), net.predict(x))
    assert names(again) == names(net)


def test_a_network_that_no_file_would_give_back_is_refused(tmp_path):
    net = fc.Linear(3, 3)
    for _ in range(1001):
        net = fc.Sequential(net, name="a")
    net = fc.Sequential(net, input_shape=(3,)).to("reference")
    with pytest.raises(fc.ArgumentError, match="nested more than 1000 deep"):
        net.save(tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("parts", [-1, 2, 10**9, None, "1", 0.5, []])
def test_flat_chains_in_files_that_do_not_close_are_refused(tmp_path, parts):
    net = deep(60)
    net.save(tmp_path / "net.safetensors")
    tensors = load_file(tmp_path / "net.safetensors")
    description = describe(net)
    assert description["sequential"][0] == {"name": "b59", "parts": 2}
    description["sequential"][1]["parts"] = 3 if parts == 2 else parts
    save_file(tensors, tmp_path / "net.safetensors", metadata={"fastcnn": json.dumps(description)})
    with pytest.raises(fc.CheckpointError, match="cannot be built"):
        fc.load(tmp_path / "net.safetensors", device="reference")
