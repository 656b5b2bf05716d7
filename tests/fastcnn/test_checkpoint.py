"""Model files: what is written comes back, and what is damaged is refused with one sentence."""

import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import fastcnn as fc
from fastcnn.checkpoint.safetensors import LONGEST_JSON, describe


def every_layer() -> fc.Graph:
    x, z = fc.Input(9, 8, 4), fc.Input(54)
    h = fc.Conv2d(
        4, 6, (3, 2), stride=(2, 1), padding=((0, 1), (1, 0)), groups=2, bias=False,
        weight_init=fc.initializers.Normal(std=0.1), name="stem",
    )(x)  # fmt: skip
    h = fc.Identity()(fc.ReLU()(h))
    h = fc.MaxPool2d(3, stride=2, padding=1, dilation=1, ceil_mode=True)(h)
    same = fc.Conv2d(6, 6, 3, padding="same", dilation=2)
    h = same(same(h) + h)
    h = fc.AvgPool2d(2, stride=1, count_include_pad=False, divisor_override=3)(h)
    h = fc.Flatten()(h)
    return fc.Graph([x, z], [fc.Linear(h.shape[0], 54)(h) + z, h]).to("reference")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def saved(net: fc.Graph, path) -> fc.Graph:
    net.save(path)
    return fc.load(path, device="reference")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_graph_comes_back(path, dtype):
    net = every_layer().astype(dtype)
    again = saved(net, path)
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((3, *shape)) for shape in net.input_shapes]
    for ours, theirs in zip(net.predict(*xs), again.predict(*xs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.dtype == dtype
    assert describe(again) == describe(net)
    assert list(map(repr, again.layers)) == list(map(repr, net.layers))


@pytest.mark.parametrize(
    "layer",
    [
        fc.Conv1d(2, 4, 3, padding=((2, 0),)),
        fc.MaxPool1d(2),
        fc.AvgPool1d(2),
        fc.Conv3d(2, 4, 1),
        fc.MaxPool3d((1, 1, 2)),
        fc.AvgPool3d(1, stride=(1, 2, 1)),
    ],
    ids=repr,
)
def test_layers_of_other_ranks_come_back(path, layer):
    shape = (5,) * (layer.rank) + (2,)
    net = fc.Sequential(layer, input_shape=shape).to("reference")
    assert repr(saved(net, path).layers[0]) == repr(layer)


def test_sequential_comes_back_with_its_metadata(path):
    net = fc.models.lenet5().to("reference")
    net.save(path, metadata={"classes": ["zero", "one"], "mean": [0.1307]})
    again = fc.load(path, device="reference")
    assert isinstance(again, fc.Sequential)
    assert len(again) == len(net)
    assert again.metadata == net.metadata == {"classes": ["zero", "one"], "mean": [0.1307]}
    assert sorted(load_file(path))[:2] == ["conv1.bias", "conv1.weight"]
    assert again.device == "reference"


def test_loading_draws_nothing(path):
    fc.models.lenet5().to("reference").save(path)
    draws = []
    for load in (True, False):
        fc.manual_seed(1)
        if load:
            fc.load(path, device="reference")
        draws.append(fc.Linear(3, 3, device="reference").params["weight"])
    np.testing.assert_array_equal(*draws)


def test_equal_networks_give_equal_files(tmp_path):
    contents = set()
    for number in range(8):
        net = fc.models.lenet5().to("reference")
        net.initialize(0)
        net.save(tmp_path / f"{number}", metadata={"data": "digits", "mean": [0.1]})
        contents.add((tmp_path / f"{number}").read_bytes())
    assert len(contents) == 1


def test_metadata_must_be_json(path):
    for metadata in ({"x": np.ones(2)}, {"x": float("nan")}):
        with pytest.raises(fc.ArgumentError, match=r"JSON"):
            fc.models.lenet5().to("reference").save(path, metadata=metadata)
    assert not path.exists()


def test_metadata_too_long_to_be_read_is_refused_as_such(path):
    with pytest.raises(fc.ArgumentError, match=r"^metadata has .* characters as JSON"):
        fc.models.lenet5().to("reference").save(path, metadata={"log": "x" * (LONGEST_JSON // 2)})
    assert not path.exists()


def test_users_own_layers_cannot_be_saved(path):
    class Mine(fc.Identity):
        pass

    class Rule(fc.initializers.Zeros):
        pass

    for layer in (Mine(), fc.Linear(3, 3, weight_init=Rule())):
        net = fc.Sequential(layer, input_shape=(3,)).to("reference")
        with pytest.raises(fc.ArgumentError, match=r"of fastcnn's own"):
            net.save(path)
    assert not path.exists()


def test_writing_replaces_the_file_or_leaves_it(path, monkeypatch):
    net = fc.models.lenet5().to("reference")
    net.save(path)
    before = path.read_bytes()
    net.initialize(1)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(fc.CheckpointError, match=r"No space left"):
        net.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    monkeypatch.undo()
    net.save(path)
    assert path.read_bytes() != before
    assert os.listdir(path.parent) == [path.name]


def test_file_has_ordinary_permissions(path):
    mask = os.umask(0o022)
    try:
        fc.models.lenet5().to("reference").save(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_unwritable_place(tmp_path):
    with pytest.raises(fc.CheckpointError, match=r"No such file or directory"):
        fc.models.lenet5().to("reference").save(tmp_path / "missing" / "net.safetensors")


def refused(path) -> str:
    with pytest.raises(fc.CheckpointError) as caught:
        fc.load(path, device="reference")
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def test_missing_files_and_folders(tmp_path):
    assert "No such file" in refused(tmp_path / "none.safetensors")
    assert "directory" in refused(tmp_path)
    with pytest.raises(OSError, match=r"none"):
        fc.load(tmp_path / "none")


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.0001, 0.002, 0.01, 0.5, 0.99, 0.999999])
def test_truncated_file(path, share):
    fc.models.lenet5().to("reference").save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "damaged or no safetensors file" in refused(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04" * 40, b"\x80\x04\x95" + b"a" * 60, b"\xff" * 64, b"{}", b"\0" * 8])
def test_other_files(path, content):
    path.write_bytes(content)
    refused(path)


def rewrite(path, change=None, tensors=None, header=None) -> None:
    """Save a small network with its description or tensors changed."""
    net = fc.Sequential(fc.Conv2d(1, 2, 3), fc.ReLU(), input_shape=(5, 5, 1)).to("reference")
    net.save(path)
    arrays = load_file(path)
    description = describe(net)
    if change is not None:
        change(description)
    if tensors is not None:
        tensors(arrays)
    given = {"fastcnn": json.dumps(description)} if header is None else header
    save_file(arrays, path, metadata=given)


def test_rewriting_alone_changes_nothing(path):
    rewrite(path)
    assert fc.load(path, device="reference").parameter_count == 20


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(version=2), "format version 2"),
        (lambda d: d.pop("version"), "format version None"),
        (lambda d: d.pop("layers"), "cannot be built"),
        (lambda d: d.update(layers=[]), "cannot be built"),
        (lambda d: d.update(metadata=5), "cannot be built"),
        (lambda d: d.update(dtype="int8"), "choose float32 or float64"),
        (lambda d: d["layers"]["conv1"].update({"class": "os.system"}), "no layer class"),
        (lambda d: d["layers"]["conv1"].update({"class": ["x"]}), "cannot be built"),
        (lambda d: d["layers"]["conv1"].pop("arguments"), "cannot be built"),
        (lambda d: d["layers"]["conv1"]["arguments"].update(extra=1), "extra"),
        (lambda d: d["layers"]["conv1"]["arguments"].update(device="cpu"), "does not set"),
        (lambda d: d["layers"]["conv1"]["arguments"].update(groups=0), "groups=0"),
        (lambda d: d["layers"]["conv1"]["arguments"].update(weight_init={"a": 1}), "cannot"),
        (lambda d: d["nodes"].pop(0), "cannot be built"),
        (lambda d: d["nodes"][0].update(input=[2, 2, 1]), "cannot be built"),
        (lambda d: d["nodes"][0].update(input=5), "cannot be built"),
        (lambda d: d["nodes"].append({"layer": "none", "inputs": [0]}), "cannot be built"),
        (lambda d: d.update(sequential=False, outputs=[99]), "cannot be built"),
        (lambda d: d["layers"]["conv1"]["arguments"].update(out_channels=10**12), "shape"),
    ],
)
def test_wrong_descriptions(path, change, sentence):
    rewrite(path, change)
    assert sentence in refused(path)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (lambda t: t.pop("conv1.bias"), "lacks the tensor 'conv1.bias'"),
        (lambda t: t.update(more=np.ones(3)), "also holds the tensor 'more'"),
        (lambda t: t.update({"conv1.bias": np.ones(3, "f4")}), "of shape (3,), where (2,)"),
        (lambda t: t.update({"conv1.bias": np.ones(2)}), "of type F64, where float32"),
    ],
)
def test_wrong_tensors(path, tensors, sentence):
    rewrite(path, tensors=tensors)
    assert sentence in refused(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "malformed"),
        ("[" * 100_000, "malformed"),
        ("[1]", "malformed"),
        (" " * (17 * 1024 * 1024), "characters"),
    ],
    ids=["broken", "deep", "list", "huge"],
)
def test_malformed_json(path, text, sentence):
    rewrite(path, header={"fastcnn": text})
    assert sentence in refused(path)
    rewrite(path, header={"other": "x"})
    assert "no fastcnn architecture" in refused(path)


@pytest.mark.parametrize(
    "metadata",
    [
        "note", ["a", "b"], 5, [["a", "b"]], {1: "one"}, {"a": {2: 3}}, {"a": [{None: 3}]}, {("a", "b"): 1},
        {"a": {1, 2}}, {"a": b"bytes"}, {"a": 10**5000}, {"a": float("inf")},
    ],
)  # fmt: skip
def test_metadata_that_would_not_come_back_is_refused(path, metadata):
    net = fc.models.lenet5().to("reference")
    net.metadata = {"before": 1}
    with pytest.raises(fc.ArgumentError, match=r"^metadata[^\n]*\.$"):
        net.save(path, metadata=metadata)
    assert net.metadata == {"before": 1}
    net.metadata = metadata
    with pytest.raises(fc.ArgumentError, match=r"^metadata"):
        net.save(path)
    assert not path.exists()


def nested(depth: int) -> dict:
    metadata: dict = {"a": 1}
    for number in range(depth):
        metadata = {"a": metadata} if number % 2 else {"a": [metadata]}
    return metadata


@pytest.mark.parametrize("depth", [10, 64, 66, 70, 300, 100_000])
def test_metadata_may_be_nested_as_deep_as_it_is_read_from_anywhere(path, depth):
    net = fc.models.lenet5().to("reference")
    if depth > 64:
        with pytest.raises(fc.ArgumentError, match="nested more than 100 deep"):
            net.save(path, metadata=nested(depth))
        assert not path.exists()
        return
    net.save(path, metadata=nested(depth))

    def deeper(levels: int) -> fc.Graph:
        return deeper(levels - 1) if levels else fc.load(path, device="reference")

    assert deeper(500).metadata == nested(depth)


TEXTS = st.text(st.characters(exclude_categories=()), max_size=6) | st.sampled_from(["a", "a.b", "b", "a.weight", "a."])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def named_networks(draw) -> fc.Graph:
    """Chains in chains of layers with whatever names."""

    def chain(depth: int) -> fc.Sequential:
        parts: list = []
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(["conv", "separable", "relu", *["chain"] * (depth < 3)]))
            name = draw(st.none() | TEXTS)
            if kind == "chain":
                part = chain(depth + 1)
                part.name = name
            elif kind == "separable":
                part = fc.SeparableConv1d(2, 2, 1, name=name)
            else:
                part = fc.Conv1d(2, 2, 1, name=name) if kind == "conv" else fc.ReLU(name=name)
            parts.append(part)
        return fc.Sequential(*parts)

    return fc.Sequential(chain(0), input_shape=(3, 2)).to("reference")


@given(st.data(), st.dictionaries(TEXTS, JSON, max_size=3))
@settings(max_examples=150, deadline=None)
def test_what_is_saved_is_loaded(tmp_path_factory, data, metadata):
    try:
        net = data.draw(named_networks())
    except fc.ArgumentError:
        return  # a name used twice
    path = tmp_path_factory.mktemp("any") / "net"
    try:
        net.save(path, metadata=metadata)
    except fc.ArgumentError:
        assert not path.exists()
        return
    again = fc.load(path, device="reference")
    assert again.metadata == metadata
    assert [name for name, _ in again.named_layers()] == [name for name, _ in net.named_layers()]
    x = np.ones((1, 3, 2), "f4")
    np.testing.assert_array_equal(again.predict(x), net.predict(x))


@pytest.mark.parametrize("name", [5, b"x", "\ud800", ("a",)])
def test_names_that_no_file_holds_are_refused(path, name):
    net = fc.Sequential(fc.Linear(2, 2, name=name), input_shape=(2,)).to("reference")
    with pytest.raises(fc.ArgumentError, match=r"give .*other,? (shorter )?name"):
        net.save(path)
    assert not path.exists()


def test_blocks_whose_names_run_into_each_other(path):
    inner = fc.Sequential(fc.Sequential(fc.Linear(2, 2, name="x"), name="b"), name="a")
    net = fc.Sequential(inner, fc.Sequential(fc.Linear(2, 2, name="y"), name="a.b"), input_shape=(2,)).to("reference")
    with pytest.raises(fc.ArgumentError, match=r"no file would give it back"):
        net.save(path)
    assert not path.exists()


def test_saving_draws_nothing_and_leaves_other_networks_their_plans(path):
    net, other = fc.models.lenet5().to("reference"), fc.models.lenet5().to("reference")
    plan = other.plan(2, False)
    fc.manual_seed(1)
    net.own_store()
    drawn = []
    for save in (True, False):
        fc.manual_seed(2)
        if save:
            net.save(path)
        drawn.append(fc.Linear(3, 3, device="reference").params["weight"])
    np.testing.assert_array_equal(*drawn)
    assert other.plan(2, False) is plan
