"""Trunks, new heads, parameters by name from another network's file, and what layers inside a network put out."""

import numpy as np
import pytest

import fastcnn as fc

DEVICES = ("reference", "cpu")


def network(classes: int = 3, device: str = "reference") -> fc.Graph:
    x = fc.Input(8, 8, 2)
    h = fc.ReLU(name="relu")(fc.BatchNorm2d(4, name="norm")(fc.Conv2d(2, 4, 3, padding=1, name="conv")(x)))
    h = fc.MaxPool2d(2, name="pool")(fc.ReLU(name="last")(fc.Conv2d(4, 4, 3, padding=1, name="twice")(h)) + h)
    return fc.Graph(x, fc.Linear(64, classes, name="head")(fc.Flatten(name="flat")(h))).to(device)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 8, 8, 2)).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_a_new_head_on_a_loaded_trunk_learns_alone(tmp_path, device, images):
    saved = network()
    saved.initialize(0)
    saved.save(tmp_path / "net.safetensors")
    net = fc.load(tmp_path / "net.safetensors", device=device)
    before = net.activations(images, "pool")
    net.freeze()
    tuned = fc.Graph(
        net.inputs, fc.Linear(4, 2, name="new", device=device)(fc.GlobalAvgPool(device=device)(net.node("pool")))
    )
    assert [name for name, _ in tuned.named_layers()][-2:] == ["pool2", "new"]
    assert tuned.trainable_count == 10
    dict(net.named_layers())["norm"].eval()
    trainer = fc.Trainer(tuned, fc.CrossEntropy(), fc.SGD(0.01))
    losses = [trainer.step(images, [0, 1, 0, 1, 1]) for _ in range(20)]
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(tuned.activations(images, "pool"), before)
    np.testing.assert_array_equal(net.activations(images, "pool"), before)


def test_a_trunk_is_what_leads_to_its_ends(images):
    net = network()
    trunk = net.trunk("relu", "pool")
    assert trunk.output_names == ["relu", "pool"]
    assert "head" not in dict(trunk.named_layers())
    relu, pool = trunk.predict(images)
    np.testing.assert_array_equal(pool, net.activations(images, "pool"))
    np.testing.assert_array_equal(relu, net.activations(images, "relu"))


def test_trunk_keeps_only_the_inputs_it_needs():
    a, b = fc.Input(3), fc.Input(4)
    h = fc.Linear(3, 4, name="left")(a)
    net = fc.Graph([a, b], fc.ReLU(name="out")(h + fc.ReLU(name="right")(b)))
    assert net.trunk("left").inputs == [a]
    assert net.trunk("out").inputs == [a, b]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [2, 5, 256])
def test_activations_are_those_of_layers_run_one_by_one(device, batch_size, images):
    net = network(device=device)
    net.forward(images)  # moves the running statistics
    names = [name for name, _ in net.named_layers()]
    found = net.activations(images, *names, batch_size=batch_size)
    assert list(found) == names
    wanted = {net.inputs[0]: images}
    for node in net.nodes[1:]:
        layer = type(node.layer)(**node.layer.config(), device="reference", dtype="float64")
        for kind in ("params", "state"):
            getattr(layer, kind).update(getattr(node.layer, kind))
        wanted[node] = layer.eval().forward(*(wanted[source] for source in node.inputs))
        np.testing.assert_allclose(found[node.layer.name], wanted[node], rtol=1e-4, atol=1e-5, err_msg=repr(node))
        alone = net.activations(images, node.layer.name, batch_size=batch_size)
        np.testing.assert_allclose(alone, wanted[node], rtol=1e-4, atol=1e-5, err_msg=repr(node))


def test_a_tap_is_not_fused_over_and_the_rest_is():
    net = network()

    def fused(*names: str) -> list[list[str]]:
        plan = net.plan(4, training=False, outputs=[net.node(name) for name in names])
        return [[node.layer.name for node in (first, *others)] for first, others in plan.fused.items()]

    assert fused("head") == [["conv", "norm", "relu"], ["twice", "last"]]
    assert fused("norm") == [["conv", "norm"]]
    assert fused("conv", "norm") == []
    assert fused("last", "head") == fused("head")
    assert fused("twice", "conv", "head") == [["norm", "relu"]]


def test_nodes_of_a_layer_used_again_are_numbered(images):
    x = fc.Input(4)
    twice = fc.Linear(4, 4, name="twice")
    net = fc.Graph(x, twice(fc.Abs(name="abs")(twice(x)))).to("reference")
    found = net.activations(images[:, 0, :2].reshape(5, 4), "twice", "abs", "twice:2")
    np.testing.assert_array_equal(found["abs"], np.abs(found["twice"]))
    np.testing.assert_array_equal(found["twice:2"], net.predict(images[:, 0, :2].reshape(5, 4)))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda net, x: net.activations(x), "no name"),
        (lambda net, x: net.activations(x, "heat"), "such as head"),
        (lambda net, x: net.node("no such layer"), "such as conv, norm"),
        (lambda net, x: net.trunk("twice:2"), "'twice:2' names no layer"),
        (lambda net, x: net.activations(x[:, :4], "head"), "needs (N, 8, 8, 2)"),
        (lambda net, x: net.activations(x, "head", batch_size=0), "batch_size"),
    ],
)
def test_wrong_names_and_arrays_get_one_sentence(call, sentence, images):
    with pytest.raises(fc.FastcnnError) as caught:
        call(network(), images)
    assert sentence in str(caught.value)


def snapshot(net: fc.Graph) -> dict[str, np.ndarray]:
    return {
        f"{name}.{key}": value.copy()
        for name, layer in net.named_layers()
        for views in (layer.params, layer.state)
        for key, value in views.items()
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_move_by_name_as_far_as_they_fit(tmp_path, device, dtype, images):
    old, new = network(3), network(7, device).astype(dtype)
    old.forward(images)
    old.save(tmp_path / "old.safetensors")
    before, given = snapshot(new), snapshot(old)
    loaded = new.load_parameters(tmp_path / "old.safetensors", strict=False)
    assert loaded.mismatched == ["head.weight", "head.bias"]
    assert loaded.missing == loaded.unexpected == []
    assert sorted(loaded.matched + loaded.mismatched) == sorted(given)
    for name, value in snapshot(new).items():
        np.testing.assert_array_equal(value, before[name] if name in loaded.mismatched else given[name], name)
        assert value.dtype == dtype


def test_missing_and_unexpected_tensors_are_told(tmp_path):
    old = network()
    old.save(tmp_path / "old.safetensors")
    small = fc.Sequential(fc.Conv2d(2, 4, 3, name="conv"), fc.Conv2d(4, 2, 1, name="extra"), input_shape=(8, 8, 2))
    loaded = small.load_parameters(tmp_path / "old.safetensors", strict=False)
    assert loaded.matched == ["conv.weight", "conv.bias"]
    assert loaded.missing == ["extra.weight", "extra.bias"]
    assert "norm.running_mean" in loaded.unexpected


def test_strict_loading_takes_all_or_nothing(tmp_path, images):
    old = network()
    old.save(tmp_path / "old.safetensors")
    new = network(5)
    before = snapshot(new)
    with pytest.raises(fc.CheckpointError, match=r"'head.weight' \(2 such tensors\): give strict=False"):
        new.load_parameters(tmp_path / "old.safetensors")
    for name, value in snapshot(new).items():
        np.testing.assert_array_equal(value, before[name])
    same = network()
    assert len(same.load_parameters(tmp_path / "old.safetensors").matched) == len(before)
    np.testing.assert_array_equal(same.predict(images), old.predict(images))


def test_files_of_nothing_that_fits_are_refused(tmp_path):
    from safetensors.numpy import save_file

    other = fc.Sequential(fc.Linear(3, 2, name="other"), input_shape=(3,)).to("reference")
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(fc.CheckpointError, match=r"holds nothing that this network has"):
        network().load_parameters(tmp_path / "other.safetensors", strict=False)
    save_file({"other.weight": np.zeros((3, 2), np.float16)}, tmp_path / "half.safetensors", {"fastcnn": "{}"})
    with pytest.raises(fc.CheckpointError, match=r"of type F16: convert it"):
        other.load_parameters(tmp_path / "half.safetensors", strict=False)
    with pytest.raises(fc.CheckpointError, match=r"cannot be read"):
        other.load_parameters(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(fc.CheckpointError, match=r"is damaged"):
        other.load_parameters(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"note": "fastcnn"}])
@pytest.mark.parametrize("strict", [True, False])
def test_files_of_others_are_refused_even_where_names_and_shapes_fit(tmp_path, metadata, strict):
    from safetensors.numpy import save_file

    net = fc.Sequential(
        fc.Conv2d(3, 3, 3, name="conv"), fc.Flatten(), fc.Linear(12, 12, name="head"), input_shape=(4, 4, 3)
    ).to("reference")
    net.initialize(0)
    before = snapshot(net)
    others = {name: np.ascontiguousarray(value.T) for name, value in before.items()}
    save_file(others, tmp_path / "others.safetensors", metadata)
    with pytest.raises(fc.CheckpointError, match=r"was not written by fastcnn: convert it.*PyTorch.*\(R, S, in, out\)"):
        net.load_parameters(tmp_path / "others.safetensors", strict=strict)
    with pytest.raises(fc.CheckpointError, match=r"no fastcnn architecture.*PyTorch.*\(R, S, in, out\)"):
        fc.load(tmp_path / "others.safetensors", device="reference")
    fc.SparseCoding(1, 2, 3).save(tmp_path / "sparse.safetensors")
    with pytest.raises(fc.CheckpointError, match=r"was not written by fastcnn"):
        net.load_parameters(tmp_path / "sparse.safetensors", strict=strict)
    for name, value in snapshot(net).items():
        np.testing.assert_array_equal(value, before[name])
