"""What gradients are where a value is NaN: one rule, in every lane, number type and room, fused or not."""

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.layers.activation import Activation

NAN = np.nan
OF_PIECES = [  # functions of pieces: the slope of the layer at NaN
    (fc.ReLU, (), 1), (fc.ReLU6, (), 1), (fc.ELU, (0.7,), 1), (fc.Hardswish, (), 1), (fc.LeakyReLU, (0.2,), 0.2),
    (fc.Abs, (), 0),
]  # fmt: skip
ACTIVATIONS = [kind for kind in fc.layers.LAYERS.values() if issubclass(kind, Activation) and kind.pointwise]
SLOPES = [
    *OF_PIECES, (fc.GELU, ("tanh",), NAN),
    *((kind, (), NAN) for kind in ACTIVATIONS if kind not in [piecewise for piecewise, *_ in OF_PIECES]),
]  # fmt: skip
CLIPS = [fc.ReLU, fc.ReLU6]


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(("kind", "arguments", "slope"), SLOPES)
def test_slope_at_nan_in_every_place(device, dtype, kind, arguments, slope):
    layer = kind(*arguments, dtype=dtype, device=device)
    for length in range(1, 41):
        plain = np.linspace(-4, 7, length).astype(dtype)
        layer.forward(plain[None])
        usual = layer.backward(np.full((1, length), 3, dtype)).copy()
        rows = np.tile(plain, (length, 1))
        np.fill_diagonal(rows, NAN)
        y = layer.forward(rows)
        np.testing.assert_array_equal(np.isnan(y), np.eye(length, dtype=bool))
        want = np.tile(usual, (length, 1))
        np.fill_diagonal(want, 3 * slope)
        np.testing.assert_allclose(layer.backward(np.full_like(rows, 3)), want, rtol=1e-6)


def backward_of(net, x, dy):
    net.forward(x)
    return [net.backward(dy), *(gradient.copy() for layer in net.layers for gradient in layer.grads.values())]


def same(make, x, dtype, compared=slice(None)):
    """Compare the gradients of a network with fused steps with those of single ones in both rooms."""
    results = []
    for device, fuse in (("cpu", True), ("cpu", False), ("reference", True), ("reference", False)):
        net = make(fuse).astype(dtype).to(device)
        for layer in net.layers:
            for name, value in layer.params.items():
                value[...] = np.random.default_rng(len(name)).choice([-2, -1, 1, 2], value.shape)
        dy = np.random.default_rng(1).integers(1, 4, (x.shape[0], *net.output_shapes[0])).astype(dtype)
        results.append(backward_of(net, x.astype(dtype), dy))
    for other in results[1:]:
        for ours, theirs in zip(results[0][compared], other[compared], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return results[0]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("channels", [1, 5, 16, 19])
@pytest.mark.parametrize("pool", [False, True])
def test_fused_clips_behind_a_convolution(dtype, clip, channels, pool):
    x = np.random.default_rng(2).integers(-2, 3, (2, 6, 6, 3)).astype(dtype)
    x[0, 2, 3, 1] = NAN

    def make(fuse):
        after = [fc.MaxPool2d(2)] if pool else []
        layers = [fc.Conv2d(3, channels, 1), clip(), *after]
        return fc.Sequential(*layers, input_shape=(6, 6, 3), fuse=fuse)

    dx = same(make, x, dtype)[0]
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("clip", CLIPS)
def test_fused_sum_and_clip(dtype, clip):
    x = np.random.default_rng(3).integers(-2, 3, (2, 4, 5, 18)).astype(dtype)
    x[1, 2, 3, 17] = NAN

    def make(fuse):
        image = fc.Input(4, 5, 18)
        return fc.Graph(image, clip()(fc.Conv2d(18, 18, 1)(image) + image), fuse=fuse)

    same(make, x, dtype)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("channels", [3, 17])
@pytest.mark.parametrize("fixed", [False, True])
def test_normalization_and_clip_pass_a_nan(dtype, clip, adds, channels, fixed):
    x = np.random.default_rng(4).normal(size=(3, 4, 5, channels)).astype(dtype)
    x[1, 2, 3, channels - 1] = NAN

    def make(fuse):
        image, layer = fc.Input(4, 5, channels), fc.BatchNorm2d(channels).train(not fixed)
        norm = layer(image)
        return fc.Graph(image, clip()(norm + image if adds else norm), fuse=fuse)

    dx = same(make, x, dtype)[0]
    assert np.isfinite(dx).all() == fixed
    assert dx[1, 2, 3, channels - 1] != 0


@pytest.mark.parametrize("clip", CLIPS)
def test_fixed_normalization_and_clip_between_convolutions(dtype, clip):
    x = np.random.default_rng(5).integers(-2, 3, (3, 4, 5, 16)).astype(dtype)
    x[1, 2, 3, 4] = NAN

    def make(fuse):
        norm = fc.BatchNorm2d(16).train(False)
        layers = [fc.Conv2d(16, 16, 1), norm, clip(), fc.Conv2d(16, 16, 1)]
        return fc.Sequential(*layers, input_shape=(4, 5, 16), fuse=fuse)

    assert np.isfinite(same(make, x, dtype)[0]).all()


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("kind", [fc.MaxPool1d, fc.AdaptiveMaxPool1d])
def test_a_nan_wins_its_windows_and_takes_their_gradient(device, dtype, kind):
    x = np.arange(12, dtype=dtype).reshape(1, 12, 1)
    x[0, [1, 3, 8], 0] = NAN
    layer = kind(3, dtype=dtype, device=device) if kind is fc.MaxPool1d else kind(4, dtype=dtype, device=device)
    y = layer.forward(x)
    np.testing.assert_array_equal(np.isnan(y.ravel()), [True, True, True, False])
    dx = layer.backward(np.array([1, 2, 3, 4], dtype).reshape(1, 4, 1))
    np.testing.assert_array_equal(dx.ravel(), [0, 1, 0, 2, 0, 0, 0, 0, 3, 0, 0, 4])


@pytest.mark.parametrize("channels", [1, 8, 17])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_last_nan_wins_as_in_pytorch(dtype, channels, rank):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    rng = np.random.default_rng(rank)
    x = rng.integers(-3, 4, (2, *(6, 5, 4)[:rank], channels)).astype(dtype)
    x[rng.random(x.shape) < 0.3] = NAN
    for name, arguments in (("MaxPool", (2,)), ("MaxPool", (3, 1, 1)), ("AdaptiveMaxPool", (2,))):
        twin = torch.from_numpy(fc.to_nchw(x)).requires_grad_()
        want, places = getattr(torch.nn, f"{name}{rank}d")(*arguments, return_indices=True)(twin)
        want.sum().backward()
        for device in ("cpu", "reference"):
            layer = getattr(fc, f"{name}{rank}d")(*arguments, return_indices=True, dtype=dtype, device=device)
            y, indices = layer.forward(x)
            np.testing.assert_array_equal(fc.to_nchw(y), want.detach().numpy())
            np.testing.assert_array_equal(fc.to_nchw(indices), places.numpy())
            np.testing.assert_array_equal(fc.to_nchw(layer.backward(np.ones_like(y))), twin.grad.numpy())


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 4), (12, 12, 40)])
def test_fused_pooling_of_several_nans(dtype, shape):
    x = np.random.default_rng(6).integers(-2, 3, (3, *shape)).astype(dtype)
    x[np.random.default_rng(7).random(x.shape) < 0.02] = NAN

    def make(fuse):
        layers = [fc.Conv2d(shape[-1], 20, 3, padding=1, algorithm="direct"), fc.ReLU(), fc.MaxPool2d(2)]
        return fc.Sequential(*layers, input_shape=shape, fuse=fuse)

    # The gradient of the filters alone differs: where fused, pixels that won nothing, NaN or not, are not visited.
    same(make, x, dtype, slice(1))
