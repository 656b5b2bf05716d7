"""Activations inside the kernels of convolutions and linear layers: the same bits as after them."""

import numpy as np
import pytest
from sweeps import crossed

import fastcnn as fc
from fastcnn.layers.activation import Plain

ACTIVATIONS = {kind.__name__: kind for kind in fc.layers.LAYERS.values() if issubclass(kind, Plain)} | {
    "LeakyReLU": lambda: fc.LeakyReLU(0.2),
    "ELU": fc.ELU,
    "GELU": fc.GELU,
    "GELU, tanh": lambda: fc.GELU("tanh"),
    "Sigmoid": fc.Sigmoid,
    "Tanh": fc.Tanh,
    "Softplus": lambda: fc.Softplus(2),
    "Abs": fc.Abs,
    "SoftAbs": lambda: fc.SoftAbs(1.5),
    "Elementwise": lambda: fc.Elementwise(lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
}
FROM_OUTPUT = {"ReLU", "ReLU6", "Sigmoid", "Tanh"}  # the gradient needs y alone


def network(activation, fuse, dtype, device):
    """Return a network that meets every kernel: gather, dots, depthwise, Winograd, phases, scatter, linear."""
    layers = [
        fc.Conv2d(3, 16, 3, padding=1), fc.Conv2d(16, 16, 3, padding=1, groups=16), fc.Conv2d(16, 64, 3, padding=1),
        fc.Conv2d(64, 40, 3, padding=1, stride=2), fc.ConvTranspose2d(40, 3, 7), fc.Conv2d(3, 2, 1), fc.Flatten(),
        fc.Linear(2 * 14 * 14, 70),
    ]  # fmt: skip
    chain = []
    for layer in layers:
        chain += [layer] if isinstance(layer, fc.Flatten) else [layer, activation()]
    net = fc.Sequential(*chain, fc.Linear(70, 5), input_shape=(16, 16, 3), fuse=fuse).astype(dtype).to(device)
    net.initialize(3)
    return net


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(("name", "dtype"), crossed(ACTIVATIONS, ["float32", "float64"]))
def test_fused_activations_change_no_bit(name, dtype, device):
    plain, fused = (network(ACTIVATIONS[name], fuse, dtype, device) for fuse in (False, True))
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((3, 16, 16, 3)).astype(dtype), rng.standard_normal((3, 5)).astype(dtype)
    np.testing.assert_array_equal(fused.predict(x), plain.predict(x))
    np.testing.assert_array_equal(fused.forward(x), plain.forward(x))
    np.testing.assert_array_equal(fused.backward(dy), plain.backward(dy))
    assert len(fused.plan(3, training=False).fused) == 7
    assert len(fused.plan(3, training=True, returns="inputs").fused) == (7 if name in FROM_OUTPUT else 0)


def test_softmax_needs_its_pixel_whole():
    net = fc.Sequential(fc.Conv2d(3, 4, 1), fc.Softmax(), input_shape=(2, 2, 3))
    assert net.plan(1, training=False).fused == {}
