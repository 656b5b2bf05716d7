"""Layers and networks against their PyTorch twins in float64: outputs, gradients, training."""

from collections.abc import Iterable

import numpy as np
import pytest

import fastcnn as fc

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
nn = torch.nn

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
DEVICES = ("reference", "cpu")


def to_torch(weight: np.ndarray) -> "torch.Tensor":
    """Return a weight (*filter, C, K) in PyTorch's order (K, C, *filter)."""
    return torch.from_numpy(np.moveaxis(weight, (-1, -2), (0, 1)).copy())


def from_torch(weight: "torch.Tensor") -> np.ndarray:
    return np.moveaxis(weight.detach().numpy(), (0, 1), (-1, -2))


def copy_parameters(layers: Iterable[fc.Layer], twins: Iterable["nn.Module"]) -> None:
    with torch.no_grad():
        for layer, twin in zip(layers, twins, strict=True):
            twin.weight.copy_(to_torch(layer.params["weight"]))
            if "bias" in layer.params:
                twin.bias.copy_(torch.from_numpy(layer.params["bias"]))


def check_gradients(layers: Iterable[fc.Layer], twins: Iterable["nn.Module"]) -> None:
    for layer, twin in zip(layers, twins, strict=True):
        np.testing.assert_allclose(layer.grads["weight"], from_torch(twin.weight.grad), **CLOSE)
        if "bias" in layer.params:
            np.testing.assert_allclose(layer.grads["bias"], twin.bias.grad.numpy(), **CLOSE)


LAYERS = [
    ((11, 2), "Conv1d", (2, 6, 4), {"stride": 3, "padding": 2, "groups": 2}),
    ((8, 8, 6), "Conv2d", (6, 4, (3, 2)), {"dilation": (2, 1), "padding": "same"}),
    ((9, 7, 6), "Conv2d", (6, 9, 3), {"stride": 2, "padding": (0, 2), "groups": 3}),
    ((5, 6, 7, 2), "Conv3d", (2, 3, (1, 2, 3)), {"stride": (1, 2, 1), "bias": False}),
    ((6, 4), "ConvTranspose1d", (4, 6, 5, 3, 2, 2, 2), {}),
    ((4, 5, 6), "ConvTranspose2d", (6, 4, (3, 2)), {"stride": (1, 2), "dilation": (3, 1), "output_padding": (2, 1)}),
    ((5, 3, 6), "ConvTranspose2d", (6, 6, 4), {"stride": 2, "padding": 1, "groups": 6}),
    ((7, 6, 3), "ConvTranspose2d", (3, 2, 3), {"padding": (1, 2), "bias": False}),
    ((3, 2, 4, 2), "ConvTranspose3d", (2, 3, (1, 2, 3)), {"stride": (1, 3, 2), "padding": (0, 0, 1)}),
    ((12, 3), "MaxPool1d", (3,), {"stride": 2, "padding": 1}),
    ((9, 8, 3), "MaxPool2d", (3,), {"stride": 2, "dilation": 2, "padding": 1, "ceil_mode": True}),
    ((4, 5, 6, 2), "MaxPool3d", ((1, 2, 3),), {}),
    ((12, 3), "AvgPool1d", (5,), {"padding": 2, "ceil_mode": True}),
    (
        (9, 8, 3),
        "AvgPool2d",
        (3,),
        {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    ),
    ((7, 7, 2), "AvgPool2d", (3,), {"stride": 2, "divisor_override": 5}),
    ((5, 5, 5, 1), "AvgPool3d", (2,), {}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "name", "positional", "keywords"), LAYERS)
def test_layer_equals_its_twin(device, shape, name, positional, keywords):
    rng = np.random.default_rng(5)
    layer = getattr(fc, name)(*positional, **keywords, dtype="float64", device=device)
    twin = getattr(nn, name)(*positional, **keywords).double()
    if layer.parameter_count:
        copy_parameters([layer], [twin])
    x = rng.standard_normal((3, *shape))
    twin_x = torch.from_numpy(fc.to_nchw(x)).requires_grad_()
    twin_y = twin(twin_x)
    y = layer.forward(x)
    np.testing.assert_allclose(fc.to_nchw(y), twin_y.detach().numpy(), **CLOSE)
    dy = rng.standard_normal(y.shape)
    twin_y.backward(torch.from_numpy(fc.to_nchw(dy)))
    dx = layer.backward(dy)
    np.testing.assert_allclose(fc.to_nchw(dx), twin_x.grad.numpy(), **CLOSE)
    if layer.parameter_count:
        check_gradients([layer], [twin])


class LastChannelsFlatten(nn.Module):
    """Flatten in the order of channels-last memory."""

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        return x.permute(0, 2, 3, 1).flatten(1)


def lenet5_twin() -> "nn.Module":
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), LastChannelsFlatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).double()  # fmt: skip


def weighted(modules: Iterable) -> list:
    return [module for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("device", DEVICES)
def test_lenet5_equals_its_twin(device):
    rng = np.random.default_rng(1)
    net = fc.models.lenet5().astype("float64").to(device)
    twin = lenet5_twin()
    layers = [layer for layer in net.layers if layer.parameter_count]
    copy_parameters(layers, weighted(twin))
    x, labels = rng.standard_normal((5, 28, 28, 1)), rng.integers(10, size=5)
    twin_x = torch.from_numpy(fc.to_nchw(x)).requires_grad_()
    twin_y = twin(twin_x)
    twin_loss = nn.CrossEntropyLoss()(twin_y, torch.from_numpy(labels))
    twin_loss.backward()
    loss = fc.CrossEntropy(device=device)
    logits = net.forward(x)
    np.testing.assert_allclose(logits, twin_y.detach().numpy(), **CLOSE)
    assert loss.forward(logits, labels) == pytest.approx(twin_loss.item(), rel=1e-12)
    dx = net.backward(loss.backward())
    np.testing.assert_allclose(fc.to_nchw(dx), twin_x.grad.numpy(), **CLOSE)
    check_gradients(layers, weighted(twin))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.05},
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        {"lr": 0.02, "momentum": 0.8, "nesterov": True},
    ],
)
def test_training_steps_equal_pytorchs(device, settings):
    rng = np.random.default_rng(2)
    net = fc.models.lenet5().astype("float64")
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(**settings), device=device)
    twin = lenet5_twin()
    layers = [layer for layer in net.layers if layer.parameter_count]
    copy_parameters(layers, weighted(twin))
    optimizer = torch.optim.SGD(twin.parameters(), **settings)
    for size in (6, 6, 3):
        x, labels = rng.standard_normal((size, 28, 28, 1)), rng.integers(10, size=size)
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(twin(torch.from_numpy(fc.to_nchw(x))), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        assert trainer.step(x, labels) == pytest.approx(loss.item(), rel=1e-10)
    for layer, module in zip(layers, weighted(twin), strict=True):
        np.testing.assert_allclose(layer.params["weight"], from_torch(module.weight), **CLOSE)
        np.testing.assert_allclose(layer.params["bias"], module.bias.detach().numpy(), **CLOSE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fuse", [True, False])
def test_branching_graph_with_a_shared_layer_equals_its_twin(device, fuse):
    rng = np.random.default_rng(3)
    stem, shared = fc.Conv2d(3, 4, 3, padding=1), fc.Conv2d(4, 4, 3, padding=1, bias=False)
    side = fc.Conv2d(4, 4, 1)
    x = fc.Input(6, 5, 3)
    h = fc.ReLU()(stem(x))
    y = fc.ReLU()(shared(fc.ReLU()(shared(h))) + side(h)) + fc.Identity()(h)
    net = fc.Graph(x, [y, fc.Flatten()(h)], fuse=fuse).astype("float64").to(device)
    twins = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)]
    twins = [twin.double() for twin in [*twins, nn.Conv2d(4, 4, 1)]]
    copy_parameters([stem, shared, side], twins)

    images = rng.standard_normal((2, 6, 5, 3))
    tx = torch.from_numpy(fc.to_nchw(images)).requires_grad_()
    th = torch.relu(twins[0](tx))
    ty = torch.relu(twins[1](torch.relu(twins[1](th))) + twins[2](th)) + th
    outputs = net.forward(images)
    np.testing.assert_allclose(fc.to_nchw(outputs[0]), ty.detach().numpy(), **CLOSE)
    dys = [rng.standard_normal(output.shape) for output in outputs]
    flat = LastChannelsFlatten()(th)
    torch.autograd.backward([ty, flat], [torch.from_numpy(fc.to_nchw(dys[0])), torch.from_numpy(dys[1])])
    dx = net.backward(*dys)
    np.testing.assert_allclose(fc.to_nchw(dx), tx.grad.numpy(), **CLOSE)
    check_gradients([stem, shared, side], twins)
