"""Normalization of constant, far off and huge numbers, against float64: nothing cancels, and no square overflows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcnn as fc

SMALLEST = 4 * float(np.finfo(np.float32).tiny)
LAYERS = {
    "batch": lambda shape, **how: fc.BatchNorm2d(shape[-1], **how),
    "instance": lambda shape, **how: fc.InstanceNorm2d(shape[-1], **how),
    "group": lambda shape, **how: fc.GroupNorm(2, shape[-1], **how),
    "layer, short rows": lambda shape, **how: fc.LayerNorm(shape[-1], **how),
    "layer, long rows": lambda shape, **how: fc.LayerNorm(shape, **how),
    "contrast": lambda shape, **how: fc.LocalContrastNorm(5, **how),
    "contrast, divided only": lambda shape, **how: fc.LocalContrastNorm(5, mode="divisive", **how),
}
CENTRING = [name for name in LAYERS if "only" not in name]
SHAPES = [(1, 7, 5, 4), (3, 20, 21, 6), (2, 33, 40, 16)]


def truth(kind, shape, x, dy):
    """Return y and dx by float64 in the reference."""
    layer = LAYERS[kind](shape, dtype="float64", device="reference")
    return layer.forward(x.astype(np.float64)), layer.backward(dy.astype(np.float64))


def assert_near(got, want, within):
    """Compare with an error relative to the largest value; the smallest numbers of float32 are 0 in kernels."""
    np.testing.assert_allclose(got, want, rtol=0, atol=max(within * np.abs(want).max(), SMALLEST))


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", CENTRING)
@pytest.mark.parametrize("value", [255, 1 / 3, -1e4 - 0.1, 1e12, -1e30, 3e37])
def test_constant_images_have_no_deviation(device, dtype, kind, value):
    for shape in SHAPES:
        x = np.full(shape, value, dtype)
        y = LAYERS[kind](shape[1:], dtype=dtype, device=device).forward(x)
        np.testing.assert_allclose(y, 0, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["both", "subtractive"])
def test_flat_blocks_of_an_image_have_no_contrast(device, dtype, mode):
    x = np.full((1, 60, 64, 3), 255, dtype)
    x[0, 30:, :32], x[0, :30, 40:] = 1, 0.1
    y = fc.LocalContrastNorm(mode=mode, dtype=dtype, device=device).forward(x)
    flat = [y[0, 36:, :26], y[0, :24, 46:], y[0, :24, :34], y[0, 36:, 38:]]
    assert max(np.abs(block).max() for block in flat) <= 1e-6
    assert np.abs(y).max() > 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", CENTRING)
@pytest.mark.parametrize("offset", [1e4, -3e5])
def test_noise_far_from_zero(kind, dtype, offset):
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        x, dy = (offset + rng.normal(size=shape)).astype(dtype), rng.normal(size=shape).astype(dtype)
        layer = LAYERS[kind](shape[1:], dtype=dtype)
        for got, want in zip((layer.forward(x), layer.backward(dy)), truth(kind, shape[1:], x, dy), strict=True):
            assert_near(got, want, 3e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("size", [1e13, 1e18, 1e20, 1e30, 1e35])
def test_squares_and_factors_beyond_float32(kind, size):
    rng = np.random.default_rng(2)
    for shape in SHAPES:
        x, dy = (size * rng.normal(size=shape)).astype("float32"), rng.normal(size=shape).astype("float32")
        layer = LAYERS[kind](shape[1:])
        y, dx = layer.forward(x), layer.backward(dy)
        want_y, want_dx = truth(kind, shape[1:], x, dy)
        assert_near(y, want_y, 3e-6)
        assert_near(dx, want_dx, 1e-5)


@given(
    kind=st.sampled_from(["batch", "instance", "group", "layer, short rows", "layer, long rows"]),
    sizes=st.lists(st.sampled_from([0, 1e-6, 1.0, 1e9, 1e19, 1e25, 1e37]), min_size=4, max_size=4),
    channels=st.sampled_from([4, 12, 300]), pixels=st.integers(2, 90), seed=st.integers(0, 99),
)  # fmt: skip
def test_channels_of_all_sizes(kind, sizes, channels, pixels, seed):
    rng, shape = np.random.default_rng(seed), (2, pixels, 1, channels)
    x = (rng.normal(size=shape) * np.resize(sizes, channels) + np.resize(sizes[::-1], channels)).astype("float32")
    y = LAYERS[kind](shape[1:]).forward(x)
    assert_near(y, truth(kind, shape[1:], x, x)[0], 5e-6)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_batch_of_huge_numbers_of_both_signs(device):
    x = np.array([[-1e30], [1e30]], "float32")
    layer = fc.BatchNorm1d(1, device=device)
    np.testing.assert_allclose(layer.forward(x), [[-1], [1]], rtol=1e-6)
    assert layer.state["running_var"] == np.inf
    fixed = layer.eval().forward(x)
    np.testing.assert_array_equal(fixed, np.zeros_like(x))


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("value", [3e37, -1e25, 1e18])
@pytest.mark.parametrize("after", [(), (fc.ReLU,)], ids=["plain", "clipped"])
def test_measured_convolution_of_constant_outputs(device, value, after):
    conv = fc.Conv2d(2, 16, 1)
    layers = [conv, fc.BatchNorm2d(16), *(kind() for kind in after)]
    net = fc.Sequential(*layers, input_shape=(9, 8, 2)).to(device)
    conv.params["weight"][...] = 0
    conv.params["bias"][...] = value
    x = np.random.default_rng(3).normal(size=(4, 9, 8, 2)).astype("float32")
    np.testing.assert_allclose(net.forward(x), 0, atol=1e-6)
    assert np.isfinite(net.backward(np.ones((4, 9, 8, 16), "float32"))).all()


@pytest.mark.parametrize("size", [1e20, 1e30])
@pytest.mark.parametrize("clipped", [False, True])
def test_measured_convolutions_of_huge_outputs_train_as_plain_ones(size, clipped):
    rng = np.random.default_rng(4)
    x, dy = rng.normal(size=(4, 9, 8, 3)).astype("float32"), rng.normal(size=(4, 9, 8, 5)).astype("float32")
    results = []
    for device, fuse in (("cpu", True), ("cpu", False), ("reference", False)):
        after = [fc.ReLU()] if clipped else []
        layers = [fc.Conv2d(3, 16, 1), fc.BatchNorm2d(16), *after, fc.Conv2d(16, 5, 3, padding=1)]
        net = fc.Sequential(*layers, input_shape=(9, 8, 3), fuse=fuse).to(device)
        for layer in (layers[0], layers[-1]):
            weight = layer.params["weight"]
            weight[...] = np.random.default_rng(7).normal(size=weight.shape)
        layers[0].params["weight"][...] *= size
        results.append((net.forward(x), net.backward(dy), layers[0].grads["weight"].copy()))
    for got in results[:2]:
        for ours, want in zip(got, results[2], strict=True):
            assert_near(ours, want, 2e-5)


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize("size", [1e12, 1e20, 1e30])
def test_local_response_to_huge_numbers(beta, size):
    rng = np.random.default_rng(5)
    x, dy = (size * rng.normal(size=(2, 5, 9))).astype("float32"), rng.normal(size=(2, 5, 9)).astype("float32")
    layer, exact = fc.LocalResponseNorm(5, beta=beta), fc.LocalResponseNorm(5, beta=beta, device="reference")
    assert_near(layer.forward(x), exact.forward(x.astype("float64")), 5e-6)
    assert_near(layer.backward(dy), exact.backward(dy.astype("float64")), 1e-5)


def test_contrast_of_numbers_whose_squares_no_float_holds():
    x = np.random.default_rng(6).normal(size=(1, 12, 13, 2))
    for device in ("cpu", "reference"):
        layer = fc.LocalContrastNorm(3, dtype="float64", device=device)
        small = layer.forward(x * 1e100)
        np.testing.assert_allclose(layer.forward(x * 1e200), small, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float32"), ("cpu", "float64"), ("reference", "float32")])
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_means_and_norms_whose_sums_overflow(device, dtype, channels):
    x = np.random.default_rng(8).uniform(-1, 1, (2, 8, 8, channels)).astype(dtype)
    x[0, ..., 0] = 0.99
    largest, how = np.finfo(dtype).max, {"dtype": dtype, "device": device}
    pools = [
        (fc.AvgPool2d(2, **how), largest), (fc.AvgPool2d(3, 2, 1, **how), largest),
        (fc.AvgPool2d(3, 2, 1, count_include_pad=False, **how), largest), (fc.AdaptiveAvgPool2d(3, **how), largest),
        (fc.GlobalAvgPool(**how), largest), (fc.LPPool2d(2, 2, **how), largest / 4),
    ]  # fmt: skip
    for pool, scale in pools:
        want = pool.forward(x).copy()
        np.testing.assert_allclose(pool.forward(x * scale) / scale, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["batch", "group", "layer, short rows", "layer, long rows"])
@pytest.mark.parametrize("size", [1e20, 1e30, 1e36])
def test_huge_gradients(kind, size):
    rng = np.random.default_rng(9)
    for shape in SHAPES:
        x, dy = rng.normal(size=shape).astype("float32"), (size * (3 + rng.normal(size=shape))).astype("float32")
        layer = LAYERS[kind](shape[1:])
        layer.forward(x)
        assert_near(layer.backward(dy) / size, truth(kind, shape[1:], x, dy)[1] / size, 1e-5)


@pytest.mark.parametrize("value", [0.001, 0.005, 0.0123, 1 / 3])
@pytest.mark.parametrize("window", [1, 3])
def test_measured_convolution_of_many_small_constants(value, window):
    conv = fc.Conv2d(16, 32, window, padding=window // 2)
    net = fc.Sequential(conv, fc.BatchNorm2d(32), input_shape=(56, 56, 16))
    conv.params["weight"][...] = 0
    conv.params["bias"][...] = value
    x = np.random.default_rng(10).normal(size=(8, 56, 56, 16)).astype("float32")
    np.testing.assert_allclose(net.forward(x), 0, atol=1e-6)
