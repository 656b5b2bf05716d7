"""Pooling layers by themselves and in graphs: PyTorch's sizes and arguments, refusals, indices, saved networks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcnn as fc

REFERENCE = {"device": "reference"}


@pytest.mark.parametrize(
    ("layer", "shape", "output"),
    [
        (fc.LPPool2d(2, 3, stride=2), (7, 9, 3), (3, 4, 3)),
        (fc.LPPool1d(1, 2, ceil_mode=True), (7, 3), (4, 3)),
        (fc.GaussianPool2d(3, 2, 1), (7, 9, 3), (4, 5, 3)),
        (fc.AdaptiveAvgPool2d((None, 7)), (28, 30, 4), (28, 7, 4)),
        (fc.AdaptiveMaxPool3d(2), (5, 6, 7, 4), (2, 2, 2, 4)),
        (fc.AdaptiveAvgPool1d(9), (4, 2), (9, 2)),
        (fc.GlobalAvgPool(), (7, 7, 2048), (2048,)),
        (fc.GlobalMaxPool(), (3, 4, 5, 6, 2), (2,)),
        (fc.MaxUnpool2d(3, stride=2, padding=1), None, None),
        (fc.Upsample(scale_factor=1.5), (5, 7, 3), (7, 10, 3)),
        (fc.Upsample((4, 9), mode="bilinear"), (5, 7, 3), (4, 9, 3)),
        (fc.Subsample(2), (7, 8, 3), (3, 3, 3)),
        (fc.Subsample(0), (7, 3), (7, 3)),
    ],
    ids=repr,
)
def test_output_shape(layer, shape, output):
    if shape is None:
        assert layer.output_shape((5, 6, 3), (5, 6, 3)) == (9, 11, 3)
    else:
        assert layer.output_shape(shape) == output


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fc.LPPool2d(float("inf"), 2), "finite number >= 1"),
        (lambda: fc.LPPool2d(0.5, 2), "finite number >= 1"),
        (lambda: fc.LPPool2d(True, 2), "norm_type=True"),
        (lambda: fc.GaussianPool2d(3, sigma=0), "sigma=0"),
        (lambda: fc.GaussianPool2d(3, sigma=(1.0, 2.0, 3.0)), "2 numbers"),
        (lambda: fc.AdaptiveAvgPool2d((1, 2, 3)), "2 of them"),
        (lambda: fc.AdaptiveAvgPool2d(0), "output_size=0"),
        (lambda: fc.AdaptiveMaxPool2d(2, return_indices=True)(fc.Input(4, 4, 1)), "leave return_indices out"),
        (lambda: fc.GlobalAvgPool().output_shape((5,)), "at least one axis of pixels"),
        (lambda: fc.Upsample(), "neither size nor scale_factor"),
        (lambda: fc.Upsample(4, 2.0), "both size and scale_factor"),
        (lambda: fc.Upsample(4, mode="cubic"), "choose one of"),
        (lambda: fc.Upsample(4, align_corners=True), "align_corners=True"),
        (lambda: fc.Upsample(scale_factor=-1.0), "scale_factor=-1.0"),
        (lambda: fc.Upsample(4, mode="bilinear").output_shape((4, 3)), "mode='bilinear'"),
        (lambda: fc.Upsample(scale_factor=0.1).output_shape((4, 4, 3)), "reduced to nothing"),
        (lambda: fc.Upsample(scale_factor=(2, 2, 2)).output_shape((4, 4, 3)), "as many scale factors"),
        (lambda: fc.Subsample(-1), "skip=-1"),
        (lambda: fc.MaxUnpool2d(2).output_shape((2, 2, 3), (2, 2, 4)), "indices of shape"),
        (lambda: fc.MaxUnpool2d(2, output_size=(9, 4)).output_shape((2, 2, 3), (2, 2, 3)), "less than a stride"),
        (lambda: fc.MaxUnpool2d(2).forward(np.ones((1, 2, 2, 1)), np.ones((1, 2, 2, 1))), "whole numbers"),
        (lambda: fc.MaxUnpool2d(2).forward(np.ones((1, 2, 2, 1)), np.full((1, 2, 2, 1), 99)), "give output_size"),
        (lambda: fc.MaxUnpool2d(2).output_shape((2500, 2500, 1), (2500, 2500, 1)), "dtype='float64'"),
    ],
)
def test_refused_in_a_sentence(make, sentence):
    with pytest.raises(fc.FastcnnError) as caught:
        make()
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_subsampling_is_a_stride():
    x = np.random.default_rng(0).standard_normal((2, 7, 8, 3))
    layer = fc.Subsample(2, **REFERENCE)
    np.testing.assert_array_equal(layer.forward(x), x[:, ::3, ::3])
    one = fc.MaxPool2d(1, stride=3, **REFERENCE)
    np.testing.assert_array_equal(layer.forward(x), one.forward(x))


@pytest.mark.parametrize("device", ["cpu", "reference"])
@given(
    seed=st.integers(0, 9), size=st.integers(3, 9), window=st.integers(1, 3), stride=st.integers(1, 3),
    pad=st.integers(0, 1), ceil_mode=st.booleans(), dilation=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=40)
def test_indices_are_pytorchs(device, seed, size, window, stride, pad, ceil_mode, dilation):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    pad = min(pad, window // 2)
    x = np.random.default_rng(seed).standard_normal((2, size + 2, size + 3, 5))
    layer = fc.MaxPool2d(window, stride, pad, dilation, True, ceil_mode, device=device)
    y, indices = layer.forward(x)
    want = torch.nn.functional.max_pool2d(
        torch.tensor(x).movedim(-1, 1), window, stride, pad, dilation, ceil_mode, return_indices=True
    )
    np.testing.assert_array_equal(y, want[0].movedim(1, -1).numpy())
    np.testing.assert_array_equal(indices, want[1].movedim(1, -1).numpy())
    assert indices.dtype == np.int64


def test_adaptive_indices_are_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    x = np.random.default_rng(0).standard_normal((2, 7, 9, 5))
    _, indices = fc.AdaptiveMaxPool2d((3, 4), return_indices=True).forward(x)
    want = torch.nn.functional.adaptive_max_pool2d(torch.tensor(x).movedim(-1, 1), (3, 4), return_indices=True)
    np.testing.assert_array_equal(indices, want[1].movedim(1, -1).numpy())


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_unpooling_to_a_size(device):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    x = np.random.default_rng(0).standard_normal((2, 7, 9, 5)).astype("float32")
    y, indices = fc.MaxPool2d(2, return_indices=True, device=device).forward(x)
    layer = fc.MaxUnpool2d(2, device=device)
    got = layer.forward(y, indices, output_size=(7, 9))
    xt, at = torch.nn.functional.max_pool2d(torch.tensor(x).movedim(-1, 1), 2, return_indices=True)
    want = torch.nn.functional.max_unpool2d(xt, at, 2, output_size=(7, 9))
    np.testing.assert_array_equal(got, want.movedim(1, -1).numpy())
    assert layer.forward(y, indices % 48, output_size=(6, 8)).shape == (2, 6, 8, 5)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_graph_that_unpools(device, tmp_path):
    """Indices flow from the pooling to the unpooling, and the gradient passes them by; the network can be saved."""
    x = fc.Input(8, 6, 3)
    h = fc.ReLU()(fc.Conv2d(3, 4, 3, padding=1)(x))
    small, at = fc.MaxPool2d(2, return_indices=True, name="half")(h)
    net = fc.Graph(x, fc.MaxUnpool2d(2)(fc.Conv2d(4, 4, 1)(small), at)).astype("float64").to(device)
    images = np.random.default_rng(0).standard_normal((3, 8, 6, 3))
    y = net.forward(images)
    assert y.shape == (3, 8, 6, 4)
    assert (np.count_nonzero(y.reshape(3, 4, 2, 3, 2, 4), axis=(2, 4)) <= 1).all()
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = net.backward(dy)
    step, direction = 1e-6, np.random.default_rng(2).standard_normal(images.shape)
    ends = [np.vdot(dy, net.forward(images + sign * step * direction)) for sign in (1, -1)]
    assert abs((ends[0] - ends[1]) / (2 * step) - np.vdot(dx, direction)) < 1e-6
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(
        fc.load(tmp_path / "net.safetensors", device=device).predict(images), net.predict(images)
    )


def test_pools_are_saved_with_their_arguments(tmp_path):
    net = fc.Sequential(
        fc.Upsample(scale_factor=(2, 1.5), mode="bilinear", align_corners=False), fc.GaussianPool2d(3, 1, 1, sigma=0.5),
        fc.LPPool2d(3, (2, 1)), fc.AdaptiveMaxPool2d((None, 4)), fc.Subsample(1), fc.AdaptiveAvgPool2d(2),
        fc.GlobalMaxPool(), input_shape=(8, 8, 3),
    ).to("reference")  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors", device="reference")
    assert [repr(layer) for layer in again] == [repr(layer) for layer in net]
    np.testing.assert_array_equal(again.predict(x), net.predict(x))


def test_an_empty_batch_passes():
    for layer in (fc.LPPool2d(2, 2), fc.GlobalAvgPool(), fc.AdaptiveMaxPool2d(2), fc.Upsample(scale_factor=2)):
        y = layer.forward(np.zeros((0, 4, 4, 3), "float32"))
        assert layer.backward(y).shape == (0, 4, 4, 3)
