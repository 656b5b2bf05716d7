"""Upsample against PyTorch: which pixels are nearest, for any size and scale factor, and weights between pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import examples

import fastcnn as fc

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")

FACTORS = st.one_of(
    st.sampled_from([1.1, 0.3, 2.7, 1 / 3, 1.5, 0.9, 2.0, 1.0, 2.1, 0.1, 3.0]), st.floats(0.2, 4),
    st.fractions("1/5", 4, max_denominator=30).map(float),
)  # fmt: skip
LINEAR = ("linear", "bilinear", "trilinear")


def interpolate(x, **how):
    return torch.nn.functional.interpolate(torch.from_numpy(fc.to_nchw(x)).contiguous(), **how)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_factor_of_little_more_than_one(device, rank):
    x = np.arange(5, dtype="float32").reshape(1, 5, *[1] * (rank - 1), 1)
    y = fc.Upsample(scale_factor=(1.1,) + (1.0,) * (rank - 1), device=device).forward(x)
    assert y.ravel().tolist() == [0, 0, 1, 2, 3]


@examples(200)
@given(rank=st.integers(1, 3), dtype=st.sampled_from(["float32", "float64"]), data=st.data())
def test_nearest_pixels_as_pytorch(rank, dtype, data):
    sizes = tuple(data.draw(st.integers(1, 200 if rank == 1 else 100 if axis == 0 else 4)) for axis in range(rank))
    factors = tuple(data.draw(FACTORS.filter(lambda f, size=size: int(size * f) > 0)) for size in sizes)
    x = np.arange(np.prod(sizes), dtype=dtype).reshape(1, *sizes, 1)
    want = interpolate(x, scale_factor=factors, mode="nearest").numpy()
    for device in ("cpu", "reference"):
        layer = fc.Upsample(scale_factor=factors, dtype=dtype, device=device)
        np.testing.assert_array_equal(fc.to_nchw(layer.forward(x)), want)
        gradient = layer.backward(np.ones((1, *want.shape[2:], 1), dtype))
        np.testing.assert_array_equal(gradient.ravel(), np.bincount(want.astype(int).ravel(), minlength=x.size))


@given(rank=st.integers(1, 3), dtype=st.sampled_from(["float32", "float64"]), data=st.data())
def test_nearest_pixels_of_a_given_size_as_pytorch(rank, dtype, data):
    sizes = tuple(data.draw(st.integers(1, 90 if axis == 0 else 4)) for axis in range(rank))
    output = tuple(data.draw(st.integers(1, 200 if axis == 0 else 6)) for axis in range(rank))
    x = np.arange(np.prod(sizes), dtype=dtype).reshape(1, *sizes, 1)
    want = interpolate(x, size=output, mode="nearest").numpy()
    for device in ("cpu", "reference"):
        y = fc.Upsample(output, dtype=dtype, device=device).forward(x)
        np.testing.assert_array_equal(fc.to_nchw(y), want)


@settings(max_examples=80)
@given(rank=st.integers(1, 3), by_size=st.booleans(), corners=st.booleans(), data=st.data())
def test_linear_modes_as_pytorch(rank, by_size, corners, data):
    sizes = tuple(data.draw(st.integers(1, 9)) for _ in range(rank))
    if by_size:
        how = {"size": tuple(data.draw(st.integers(1, 20)) for _ in sizes)}
    else:
        how = {"scale_factor": tuple(data.draw(FACTORS.filter(lambda f, n=n: int(n * f) > 0)) for n in sizes)}
    how |= {"mode": LINEAR[rank - 1], "align_corners": corners}
    x = np.random.default_rng(0).normal(size=(2, *sizes, 3))
    twin = torch.from_numpy(fc.to_nchw(x)).requires_grad_()
    want = torch.nn.functional.interpolate(twin, **how)
    dy = np.random.default_rng(1).normal(size=(2, *want.shape[2:], 3))
    want.backward(torch.from_numpy(fc.to_nchw(dy)))
    for device in ("cpu", "reference"):
        for dtype, close in (("float64", 1e-12), ("float32", 1e-5)):
            layer = fc.Upsample(**how, dtype=dtype, device=device)
            y, dx = layer.forward(x.astype(dtype)), layer.backward(dy.astype(dtype))
            np.testing.assert_allclose(fc.to_nchw(y), want.detach().numpy(), atol=close, rtol=close)
            np.testing.assert_allclose(fc.to_nchw(dx), twin.grad.numpy(), atol=4 * close, rtol=close)
