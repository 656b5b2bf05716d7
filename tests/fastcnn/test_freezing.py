"""Frozen layers: no gradients, no updates, no kernels for either; what is not frozen learns as PyTorch's does."""

import numpy as np
import pytest

import fastcnn as fc

DEVICES = ("reference", "cpu")


def network(device: str = "reference", dtype: str = "float64", fuse: bool = True) -> fc.Sequential:
    return fc.Sequential(
        fc.Conv2d(2, 4, 3, padding=1, bias=False, name="stem.conv"),
        fc.BatchNorm2d(4, name="stem.norm"),
        fc.ReLU(),
        fc.Conv2d(4, 5, 3, name="body.conv"),
        fc.ReLU(),
        fc.MaxPool2d(2),
        fc.Flatten(),
        fc.Linear(20, 3, name="head"),
        input_shape=(6, 6, 2),
        fuse=fuse,
    ).astype(dtype).to(device)  # fmt: skip


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((7, 6, 6, 2)), rng.integers(0, 3, 7)


def values(net: fc.Graph) -> dict[str, np.ndarray]:
    return {f"{name}.{key}": value.copy() for name, layer in net.named_layers() for key, value in layer.params.items()}


def kernels_back(net: fc.Graph) -> list[tuple[str, list[str]]]:
    plan = net.plan(7, training=True, returns="parameters")
    return [(step.layer.name, [call.__name__ for call, _ in calls]) for step, calls in plan.backward_parts]


def test_names_prefixes_and_layers_choose():
    net = network()
    everything = net.parameter_count
    assert net.freeze("stem").trainable_count == everything - net[0].parameter_count - 8
    assert net.unfreeze(net[1]).trainable_count == everything - net[0].parameter_count
    assert net.freeze().trainable_count == 0
    assert net.unfreeze("head", "body.conv").freeze("head").trainable_count == net[3].parameter_count
    assert net.unfreeze().trainable_count == everything


@pytest.mark.parametrize("what", ["ste", "stem.con", fc.ReLU(), 3])
def test_what_the_network_lacks_is_refused(what):
    with pytest.raises(fc.ArgumentError, match=r"of this network: give"):
        network().freeze(what)


def test_summary_shows_what_is_frozen():
    net = network().freeze("stem")
    assert net.summary().count("(frozen)") == 2
    assert [row.name for row in net.measures() if not row.trainable] == ["stem.conv", "stem.norm"]
    assert net.summary().splitlines()[-1].split() == ["trainable", f"{net.trainable_count}"]


def test_the_way_back_ends_at_the_first_layer_that_learns():
    net = network("cpu", "float32").freeze("stem", "body")
    plan = net.plan(7, training=True, returns="parameters")
    assert [step.layer.name for step, _ in plan.backward_parts] == ["head"]
    assert len(plan.fused) == 2  # below it, convolution, ReLU and pooling stay one kernel
    smaller = plan.bytes
    assert smaller < net.unfreeze().plan(7, training=True, returns="parameters").bytes


def test_no_kernel_runs_for_the_gradient_of_a_frozen_weight():
    net = network().freeze("body", "head")
    back = dict(kernels_back(net))
    assert back["head"] == ["linear_backward_input"]
    assert [name for name in back["body.conv"] if name.startswith("conv")] == ["conv_measured_backward_input"]
    assert back["stem.conv"] == ["conv_backward_weight"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("frozen", [("body",), ("stem",), ("stem.conv", "head"), ("body", "head")])
def test_gradients_of_the_others_are_those_of_a_network_that_learns(device, frozen, batch):
    nets = [network(device, fuse=False), network(device, fuse=False)]
    for net in nets:
        net.initialize(1)
        net.forward(batch[0])
    nets[1].freeze(*frozen)
    grads = []
    for net in nets:
        y = net.forward(batch[0])
        net.backward(np.cos(y))
        grads.append({f"{n}.{k}": g.copy() for n, layer in net.named_layers() for k, g in layer.grads.items()})
    for name, gradient in grads[1].items():
        held = name.startswith(frozen)
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient) if held else grads[0][name], name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (fc.Conv2d(3, 4, 3, padding=1), (5, 5, 3)),
        (fc.ConvTranspose2d(3, 4, 3, stride=2), (5, 5, 3)),
        (fc.SeparableConv2d(3, 4, 3), (5, 5, 3)),
        (fc.Linear(6, 4), (6,)),
        (fc.Gain(3), (5, 3)),
        (fc.BatchNorm2d(3), (5, 5, 3)),
        (fc.GroupNorm(3, 6), (5, 6)),
        (fc.LayerNorm(6), (5, 6)),
    ],
    ids=repr,
)
def test_every_layer_passes_the_gradient_on_when_frozen(device, layer, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, *shape))
    layer = type(layer)(**layer.config(), dtype="float64", device=device)
    y = layer.forward(x)
    dx = layer.backward(np.sin(y)).copy()
    assert any(gradient.any() for gradient in layer.grads.values())
    layer.trainable = False
    assert not any(gradient.any() for gradient in layer.grads.values())
    np.testing.assert_array_equal(layer.forward(x), y)
    np.testing.assert_array_equal(layer.backward(np.sin(y)), dx)
    assert not any(gradient.any() for gradient in layer.grads.values())
    layer.trainable = True
    layer.forward(x)
    layer.backward(np.sin(y))
    assert any(gradient.any() for gradient in layer.grads.values())


RULES = {
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01, "weight_decay": 0.01, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.3}),
}

# Parts frozen in each step: something late, something that learns late, something that comes and goes.
PROGRAM = [["stem"], ["stem"], [], ["body", "stem.norm"], [], ["head"], ["stem", "body"], []]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", RULES)
def test_training_in_parts_is_pytorchs(device, rule, batch):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    net = network(device)
    kind, arguments = RULES[rule]
    trainer = fc.Trainer(net, fc.CrossEntropy(), getattr(fc, kind)(**arguments))
    twin = torch_twin(torch, net)
    optimizer = getattr(torch.optim, kind)(twin.parameters(), **arguments)
    x, labels = torch.from_numpy(fc.to_nchw(batch[0]).copy()), torch.from_numpy(batch[1])
    for frozen in PROGRAM:
        net.unfreeze().freeze(*frozen) if frozen else net.unfreeze()
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(not name.replace("-", ".").startswith(tuple(frozen) or "none"))
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(twin(x), labels)
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(trainer.step(*batch), loss.item(), rtol=1e-9)
    check_equal(net, twin)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("frozen", [(), ("stem.norm",), ("stem.conv",)])
def test_training_around_held_statistics_is_pytorchs(device, fuse, frozen, batch):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    net = network(device, fuse=fuse)
    net.forward(batch[0])
    net[1].eval()
    twin = torch_twin(torch, net)
    norm = dict(twin.named_modules())["stem-norm"].eval()
    for name in ("running_mean", "running_var"):
        getattr(norm, name).copy_(torch.from_numpy(net[1].state[name].copy()))
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name.replace("-", ".").rpartition(".")[0] not in frozen)
    if frozen:
        net.freeze(*frozen)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1, momentum=0.9))
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    x, labels = torch.from_numpy(fc.to_nchw(batch[0]).copy()), torch.from_numpy(batch[1])
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(x), labels)
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(trainer.step(*batch), loss.item(), rtol=1e-9)
    check_equal(net, twin)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("activation", [fc.ReLU, fc.Sigmoid, fc.GELU, None])
@pytest.mark.parametrize("kind", [fc.Conv2d, fc.SeparableConv2d])
def test_a_frozen_branch_beside_one_that_learns(device, held, activation, kind):
    """What a kernel adds to a frozen branch still passes its gradient on to the other one."""
    nets = []
    for fuse in (True, False):
        a, b = fc.Input(5, 5, 2), fc.Input(5, 5, 2)
        norm = fc.BatchNorm2d(3, name="norm")
        branches = norm(kind(2, 3, 3, name="frozen")(a)), fc.Conv2d(2, 3, 3, name="learns")(b)
        total = fc.Add()(*branches)
        out = total if activation is None else activation()(total)
        plain = fc.ReLU()(kind(2, 3, 3, name="another")(a) + branches[1])
        net = fc.Graph([a, b], [out, plain], fuse=fuse).astype("float64").to(device)
        net.initialize(3)
        net.freeze("frozen", "norm", "another")
        norm.state["running_mean"], norm.state["running_var"] = [1.0, 0.0, -1.0], [0.5, 1.0, 2.0]
        norm.train(not held)
        nets.append(net)
    rng = np.random.default_rng(1)
    xs, dys = rng.standard_normal((2, 3, 5, 5, 2)), rng.standard_normal((2, 3, 3, 3, 3))
    found = []
    for net in nets:
        plan = net.plan(3, training=True, returns="parameters")
        plan.load(xs)
        plan.forward()
        plan.load_gradients(dys)
        plan.backward()
        found.append([*plan.outputs, *dict(net.named_layers())["learns"].grads.values()])
        names = [step.layer.name for step, calls in plan.backward_parts if calls]
        assert not {"frozen", "another"} & {name for name in names if not net.fuse}
    for fused, plain in zip(*found, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-10, atol=1e-12)
    assert found[0][-1].any()


def test_a_frozen_trunk_of_held_normalizations_is_folded_as_in_prediction():
    net = network("cpu", "float32").freeze("stem")
    net[1].eval()
    fused = net.plan(7, training=True, returns="parameters").fused
    assert [node.layer.name for node in fused[net.nodes[1]]] == ["stem.norm", "relu1"]
    net[1].train()
    assert net.nodes[1] not in net.plan(7, training=True, returns="parameters").fused


@pytest.mark.parametrize("device", DEVICES)
def test_another_mode_between_forward_and_forward_makes_another_plan(device, batch):
    layer = fc.BatchNorm2d(2, device=device)
    free = layer.forward(batch[0])
    held = layer.eval().forward(batch[0])
    assert not np.allclose(free, held)
    np.testing.assert_array_equal(layer.train().forward(batch[0]), free)


def torch_twin(torch, net):
    """Return PyTorch's twin of `network`, with its values."""
    nn = torch.nn
    layers = {
        "stem-conv": nn.Conv2d(2, 4, 3, padding=1, bias=False), "stem-norm": nn.BatchNorm2d(4), "relu1": nn.ReLU(),
        "body-conv": nn.Conv2d(4, 5, 3), "relu2": nn.ReLU(), "pool": nn.MaxPool2d(2),
        "last": ChannelsLast(torch), "head": nn.Linear(20, 3),
    }  # fmt: skip
    twin = nn.Sequential()
    for name, layer in layers.items():
        twin.add_module(name, layer)
    twin.double()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(torch.from_numpy(in_torchs_order(values(net)[name.replace("-", ".")]).copy()))
    return twin


def ChannelsLast(torch):
    """Return a module that flattens in our order."""

    class Module(torch.nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    return Module()


def in_torchs_order(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def check_equal(net: fc.Graph, twin) -> None:
    ours = values(net)
    for name, parameter in twin.named_parameters():
        wanted = parameter.detach().numpy()
        np.testing.assert_allclose(in_torchs_order(ours[name.replace("-", ".")]), wanted, rtol=1e-8, atol=1e-10)
    norm, theirs = net[1], dict(twin.named_modules())["stem-norm"]
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(norm.state[name], getattr(theirs, name).numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_frozen_moves_and_everything_else_does(device, batch):
    net = network(device)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.AdamW(0.1, weight_decay=0.5))
    trainer.step(*batch)
    state = {name: array.copy() for name, array in trainer.optimizer.state.items()}
    net.freeze("stem", "body.conv")
    before = values(net)
    for _ in range(3):
        trainer.step(*batch)
    for name, value in values(net).items():
        assert np.array_equal(value, before[name]) == (not name.startswith("head")), name
    store = net.own_store()
    for kind in ("exp_avg", "exp_avg_sq"):
        kept, now = store.named(state[kind]), store.named(trainer.optimizer.state[kind])
        assert all(np.array_equal(kept[name], now[name]) == (not name.startswith("head")) for name in kept)
    assert trainer.optimizer.steps == 4


@pytest.mark.parametrize("device", DEVICES)
def test_held_normalization_keeps_its_statistics_and_dropout_drops_nothing(device, batch):
    net = fc.Sequential(fc.BatchNorm2d(2), fc.Dropout(0.5), fc.Flatten(), fc.Linear(72, 3), input_shape=(6, 6, 2))
    net.to(device).forward(batch[0])
    before = {name: value.copy() for name, value in net[0].state.items()}
    net[0].eval()
    net[1].eval()
    np.testing.assert_allclose(net.forward(batch[0]), net.predict(batch[0]), rtol=1e-6)
    fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1)).step(*batch)
    for name, value in before.items():
        np.testing.assert_array_equal(net[0].state[name], value)
    net[0].train()
    net.forward(batch[0])
    assert net[0].state["num_batches_tracked"] == before["num_batches_tracked"] + 1


def test_population_statistics_leave_held_layers_alone(batch):
    net = network().freeze()
    net[1].eval()
    with pytest.raises(fc.ArgumentError, match="nothing to estimate"):
        fc.estimate_population_statistics(net, [batch[0]])


def test_clipping_measures_what_learns(batch):
    nets = [network(fuse=False), network(fuse=False)]
    trainers = [
        fc.Trainer(net, fc.CrossEntropy(), fc.SGD(1.0), clip_norm=norm)
        for net, norm in zip(nets, (None, 0.01), strict=True)
    ]
    for trainer in trainers:
        trainer.net.freeze("stem", "head")
        trainer.step(*batch)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in nets[0][3].grads.values()))
    np.testing.assert_allclose(nets[1][3].grads["weight"], nets[0][3].grads["weight"] * 0.01 / (norm + 1e-6))


def test_a_network_without_anything_to_learn_is_refused(batch):
    trainer = fc.Trainer(network().freeze(), fc.CrossEntropy(), fc.SGD(0.1))
    for train in (lambda: trainer.step(*batch), lambda: trainer.fit(batch)):
        with pytest.raises(fc.ArgumentError, match=r"are frozen: let some learn"):
            train()
    assert trainer.evaluate(batch).loss > 0


def test_files_do_not_keep_what_was_frozen(tmp_path):
    net = network().freeze("stem")
    net.save(tmp_path / "net.safetensors")
    assert fc.load(tmp_path / "net.safetensors").trainable_count == net.parameter_count
