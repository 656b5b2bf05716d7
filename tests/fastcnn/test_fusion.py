"""Steps that serve several nodes: the same results as one step a node, to the bit but for what is said here.

Weights are folded in prediction, and a convolution that sums its outputs for the batch normalization after it (or a
gradient for that before) adds them in another order than the normalization by itself.
"""

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.engine.steps import Normalized

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
    sums = norm in ("batch", "plain", "untracked")  # statistics of all images: convolutions take them
    most = {"float32": 1e-5, "float64": 1e-13}[dtype] if sums else 0.0

    def check(ours, theirs, what=""):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=most * max(1, np.abs(theirs).max()), err_msg=what)

    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((4, 9, 8, 5)).astype(dtype), rng.standard_normal((4, 3)).astype(dtype)
    fused, plain = (residual_network(NORMS[norm], fuse, dtype, device) for fuse in (True, False))
    for training in (True, False):
        fused.train(training)
        plain.train(training)
        check(fused.forward(x), plain.forward(x))
        check(fused.backward(dy), plain.backward(dy))
        for ours, theirs in zip(fused.layers, plain.layers, strict=True):
            for name, gradient in {**theirs.grads, **theirs.state}.items():
                check({**ours.grads, **ours.state}[name], gradient, f"{theirs.label} {name}")
    plan = fused.plan(4, True, "parameters")
    assert max(len(step.nodes) for step in plan.steps) == 3
    assert ("conv_measured_forward" in kernel_names(plan)) == sums


def kernel_names(plan) -> set[str]:
    """Return the names of all kernels of a plan, both ways."""
    calls = [call for _, part in (*plan.forward_parts, *plan.backward_parts) for call in part]
    return {function.__name__ for function, _ in calls}


def chain(fuse: bool, device: str, dtype: str = "float64") -> fc.Graph:
    """Return a network of normalizations before one convolution, before two, before a padding by reflection."""
    x = fc.Input(12, 11, 8)
    h = fc.ReLU6()(fc.BatchNorm2d(24, name="one")(fc.Conv2d(8, 24, 1)(x)))
    h = fc.BatchNorm2d(24, name="linear")(fc.Conv2d(24, 24, 3, padding=1, groups=24)(h))
    h = fc.ReLU()(fc.BatchNorm2d(16, name="two")(fc.Conv2d(24, 16, 3, padding=1)(h)))
    h = fc.ReLU()(fc.BatchNorm2d(16, name="mirrored")(fc.Conv2d(16, 16, 1)(h) + fc.Conv2d(16, 16, 3, padding=1)(h)))
    h = fc.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")(h)
    h = fc.GELU()(fc.BatchNorm2d(16, name="smooth")(h))
    h = fc.BatchNorm2d(16, name="summed")(fc.Conv2d(16, 16, 1)(h)) + h
    h = fc.ReLU()(fc.BatchNorm2d(16, name="read twice")(fc.Conv2d(16, 16, 1)(h)))
    h = fc.Concat()(fc.Conv2d(16, 8, 1)(h), fc.MaxPool2d(3, 1, padding=1)(h))
    h = fc.ReLU()(fc.BatchNorm2d(16, name="pooled last")(fc.Conv2d(24, 16, 1)(h)))
    pooled = fc.GlobalAvgPool()(fc.Concat()(fc.MaxPool2d(3, 1, padding=1)(h), fc.Conv2d(16, 8, 1)(h)))
    net = fc.Graph(x, fc.Linear(24, 3)(pooled), fuse=fuse).astype(dtype).to(device)
    net.initialize(3)
    return net


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolutions_sum_for_the_norms_beside_them(device, dtype):
    """Gradients are summed where one step fills them: it may add what another one left."""
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((4, 12, 11, 8)).astype(dtype), rng.standard_normal((4, 3)).astype(dtype)
    fused, plain = (chain(fuse, device, dtype) for fuse in (True, False))
    most = {"float32": 2e-5, "float64": 1e-13}[dtype]
    for _ in range(4):  # through the doors, noted, and repeated
        for ours, theirs in ((fused.forward(x), plain.forward(x)), (fused.backward(dy), plain.backward(dy))):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=most * np.abs(theirs).max())
        largest = max(np.abs(gradient).max() for layer in plain.layers for gradient in layer.grads.values())
        for ours, theirs in zip(fused.layers, plain.layers, strict=True):
            for name, gradient in theirs.grads.items():
                np.testing.assert_allclose(ours.grads[name], gradient, rtol=0, atol=most * largest)
            for name, value in theirs.state.items():
                np.testing.assert_allclose(ours.state[name], value, rtol=most, atol=most)
    plan = fused.plan(4, True, "inputs")
    steps = {step.layer.name: step for step in plan.steps if isinstance(step, Normalized)}
    assert [name for name, step in steps.items() if step.summed] == ["one", "linear", "two", "read twice"]
    assert {"conv_measured_forward", "conv_measured_backward_input"} <= kernel_names(plan)
    assert not any("measured" in name for name in kernel_names(plain.plan(4, True, "inputs")))


def test_statistics_are_taken_in_training_only():
    net = chain(True, "cpu")
    assert not any("measured" in name for name in kernel_names(net.plan(4, training=False)))
    for layer in net.layers:
        layer.eval()
    assert not any("measured" in name for name in kernel_names(net.plan(4, True, "parameters")))


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
