"""A layer at three nodes: its gradients are the sums over them, fused or not, as PyTorch's."""

import numpy as np
import pytest

import fastcnn as fc

DEVICES = ("reference", "cpu")


def network(device: str, fuse: bool) -> fc.Graph:
    """Return a network whose convolution, norm and linear layer stand at three nodes each, in fusible places."""
    x = fc.Input(6, 6, 3)
    conv, norm = fc.Conv2d(3, 3, 3, padding=1, name="conv"), fc.BatchNorm2d(3, name="norm")
    h = x
    for _ in range(3):
        h = fc.ReLU()(norm(fc.ReLU()(conv(h))))
    linear = fc.Linear(108, 108, name="linear")
    y = fc.Flatten()(h)
    for activation in (fc.ReLU(), fc.Sigmoid()):
        y = activation(linear(y))
    return fc.Graph(x, linear(y), fuse=fuse).astype("float64").to(device)


def torch_gradients(torch, net: fc.Graph, x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    nn = torch.nn
    named = dict(net.named_layers())
    conv, norm, linear = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(108, 108)
    modules = nn.ModuleDict({"conv": conv, "norm": norm, "linear": linear}).double()
    turned = {"conv": (3, 2, 0, 1), "linear": (1, 0), "norm": (0,)}
    with torch.no_grad():
        for name, module in modules.items():
            module.weight.copy_(torch.from_numpy(named[name].params["weight"].transpose(turned[name]).copy()))
            module.bias.copy_(torch.from_numpy(named[name].params["bias"].copy()))
    h = torch.from_numpy(x).permute(0, 3, 1, 2).clone().requires_grad_()
    leaf = h
    for _ in range(3):
        h = torch.relu(norm(torch.relu(conv(h))))
    y = h.permute(0, 2, 3, 1).flatten(1)
    for activation in (torch.relu, torch.sigmoid):
        y = activation(linear(y))
    linear(y).backward(torch.from_numpy(dy))
    back = {"conv": (2, 3, 1, 0), "linear": (1, 0), "norm": (0,)}
    found = {f"{name}.weight": module.weight.grad.numpy().transpose(back[name]) for name, module in modules.items()}
    found |= {f"{name}.bias": module.bias.grad.numpy() for name, module in modules.items()}
    return found | {"dx": leaf.grad.permute(0, 2, 3, 1).numpy()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fuse", [False, True])
def test_gradients_through_a_layer_at_three_nodes(device, fuse):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    rng = np.random.default_rng(5)
    x, dy = rng.standard_normal((4, 6, 6, 3)), rng.standard_normal((4, 108))
    net = network(device, fuse)
    net.initialize(2)
    assert bool(net.plan(4, training=True, returns="inputs").fused) == fuse
    for again in range(2):  # the sums start anew in every pass
        net.forward(x)
        dx = net.backward(dy)
        wanted = torch_gradients(torch, net, x, dy)
        np.testing.assert_allclose(dx, wanted.pop("dx"), rtol=1e-8, atol=1e-9, err_msg=f"pass {again}")
        for name, layer in net.named_layers():
            for key, gradient in layer.grads.items():
                np.testing.assert_allclose(gradient, wanted[f"{name}.{key}"], rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fuse", [False, True])
def test_sums_over_three_nodes_are_exact_on_whole_numbers(device, fuse, integers):
    """Three uses side by side, one below a tap: the gradient is that of the three batches one after the other."""
    inputs = [fc.Input(5, 4, 2) for _ in range(3)]
    conv = fc.Conv2d(2, 3, 3, padding=1, name="conv")
    net = fc.Graph(inputs, [fc.ReLU()(conv(x)) for x in inputs], fuse=fuse).to(device)
    conv.params["weight"] = integers(0, (3, 3, 2, 3))
    xs = [integers(i, (2, 5, 4, 2), "float32") for i in range(1, 4)]
    dys = [integers(i, (2, 5, 4, 3), "float32") for i in range(4, 7)]
    net.forward(*xs)
    net.backward(*dys)
    gradients = {name: gradient.copy() for name, gradient in conv.grads.items()}
    alone = fc.Conv2d(2, 3, 3, padding=1, device=device)
    alone.params["weight"] = conv.params["weight"]
    y = alone.forward(np.concatenate(xs))
    alone.backward(np.concatenate(dys) * (y > 0))
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, alone.grads[name])


@pytest.mark.parametrize("device", DEVICES)
def test_a_frozen_layer_at_three_nodes_only_passes_gradients_on(device):
    rng = np.random.default_rng(5)
    x, dy = rng.standard_normal((4, 6, 6, 3)), rng.standard_normal((4, 108))
    nets = [network(device, fuse=True), network(device, fuse=True)]
    dxs = []
    for net, frozen in zip(nets, (False, True), strict=True):
        net.initialize(2)
        if frozen:
            net.freeze("conv", "linear")
        net.forward(x)
        dxs.append(net.backward(dy))
    np.testing.assert_array_equal(*dxs)
    named = dict(nets[1].named_layers())
    assert not any(gradient.any() for name in ("conv", "linear") for gradient in named[name].grads.values())
    assert named["norm"].grads["weight"].any()
