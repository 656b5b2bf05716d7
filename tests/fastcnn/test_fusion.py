"""Steps that serve several nodes: the same results as one step a node, to the bit where nothing is folded."""

import numpy as np
import pytest

import fastcnn as fc

NORMS = {
    "batch": lambda channels: fc.BatchNorm2d(channels),
    "group": lambda channels: fc.GroupNorm(2, channels),
    "instance": lambda channels: fc.InstanceNorm2d(channels, affine=True),
    "tracking": lambda channels: fc.InstanceNorm2d(channels, affine=True, track_running_stats=True),
    "plain": lambda channels: fc.BatchNorm2d(channels, affine=False),
    "untracked": lambda channels: fc.BatchNorm2d(channels, track_running_stats=False),
}


def residual_network(norm, fuse: bool, dtype: str, device: str) -> fc.Graph:
    """Return a network with a norm before ReLU, before a sum, before a sum and a clip, and with what none can take."""
    x = fc.Input(9, 8, 5)
    h = fc.ReLU()(norm(6)(fc.Conv2d(5, 6, 3, padding=1, bias=False)(x)))
    other = norm(6)(fc.Conv2d(5, 6, 1)(x))
    h = fc.ReLU6()(norm(6)(fc.SeparableConv2d(6, 6, 3, padding=1)(h)) + other)
    linear = norm(6)(fc.ConvTranspose2d(6, 6, 3, padding=1)(h)) + h
    both = fc.ReLU()(h + norm(6)(fc.Conv2d(6, 6, 1, groups=2)(linear)))
    summed = fc.ReLU()(fc.Conv2d(6, 6, 3, padding=1)(both) + linear)
    doubled = norm(6)(fc.Conv2d(6, 6, 1)(summed))
    smooth = fc.GELU()(norm(6)(fc.Conv2d(6, 6, 1)(doubled + doubled)))
    net = fc.Graph(x, fc.Linear(6, 3)(fc.GlobalAvgPool()(smooth + summed)), fuse=fuse).astype(dtype).to(device)
    net.initialize(3)
    rng = np.random.default_rng(0)
    for layer in net.layers:
        for values in (layer.params, layer.state):
            for name, value in values.items():
                if value.shape == (6,):
                    values[name] = rng.uniform(0.5, 2, 6) if name == "running_var" else rng.normal(size=6)
    return net


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_that_add_and_clip_change_no_bit(norm, dtype, device):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((4, 9, 8, 5)).astype(dtype), rng.standard_normal((4, 3)).astype(dtype)
    fused, plain = (residual_network(NORMS[norm], fuse, dtype, device) for fuse in (True, False))
    for training in (True, False):
        fused.train(training)
        plain.train(training)
        np.testing.assert_array_equal(fused.forward(x), plain.forward(x))
        np.testing.assert_array_equal(fused.backward(dy), plain.backward(dy))
        for ours, theirs in zip(fused.layers, plain.layers, strict=True):
            for name, gradient in theirs.grads.items():
                np.testing.assert_array_equal(ours.grads[name], gradient, f"{theirs.label} {name}")
    assert max(len(step.nodes) for step in fused.plan(4, True, "parameters").steps) == 3


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("batch", [1, 40])
@pytest.mark.parametrize("norm", NORMS)
def test_prediction_folds_norms_with_running_statistics(norm, batch, device):
    x = np.random.default_rng(2).standard_normal((batch, 9, 8, 5))
    fused, plain = (residual_network(NORMS[norm], fuse, "float64", device) for fuse in (True, False))
    for _ in range(2):
        np.testing.assert_allclose(fused.predict(x), plain.predict(x), rtol=1e-11, atol=1e-11)
        for net in (fused, plain):  # the next prediction must see what has changed in place
            first = next(layer for layer in net.layers if layer.state or "weight" in layer.params)
            first.params["weight"][...] *= 1.5
    tracks = any(layer.state for layer in plain.layers)
    kinds = {type(step).__name__ for step in fused.plan(batch, training=False).steps}
    assert ("Folded" in kinds) == tracks


def test_large_weights_are_folded_where_that_is_done_once():
    net = fc.Sequential(fc.Conv2d(40, 50, 3), fc.BatchNorm2d(50), fc.ReLU(), fc.Flatten(), fc.Linear(200, 3),
                        input_shape=(4, 4, 40)).astype("float64")  # fmt: skip
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 40))
    plain = fc.Sequential(*net, input_shape=(4, 4, 40), fuse=False).astype("float64")
    expected = plain.predict(x)
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-12, atol=1e-12)
    net.freeze(*net[:3])
    net[1].eval()
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-12, atol=1e-12)
    plans = net.plan(1, training=False), net.plan(1, training=True, returns="parameters")
    kernels = [{function.__name__ for _, calls in plan.forward_parts for function, _ in calls} for plan in plans]
    assert ["fold_norm" in names for names in kernels] == [True, False]
    assert ["fixed_norm_forward" in names for names in kernels] == [False, True]
