"""Pooling: rooms against each other, against PyTorch, adjoints, differences, NaN, ties, threads."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

ONE, NONE = (1, 1, 1), ((0, 0),) * 3
CHANNELS = st.one_of(st.integers(1, 40), st.sampled_from([53, 64, 97, 100]))


def winner_dtype(window):
    """Return the number type of tap indices: the smallest that holds them."""
    return np.uint8 if np.prod(window) <= 256 else np.int32


def maximum(pool, fill, x, geometry, dy):
    """Return y, winner and dx of one room's maximum."""
    how = (geometry.window, geometry.stride, geometry.padding, geometry.dilation)
    kinds = [x.dtype, winner_dtype(geometry.window)]
    y, winner = fill(pool.max_pool_forward, x, *how, shapes=[dy.shape] * 2, dtype=kinds)
    dx = fill(pool.max_pool_backward_input, dy, winner, *how, shapes=[x.shape], dtype=x.dtype)
    return y, winner, dx


def mean(pool, fill, x, geometry, count_include_pad, divisor, dy):
    """Return y and dx of one room's mean."""
    how = (geometry.window, geometry.stride, geometry.padding, count_include_pad, divisor)
    y = fill(pool.avg_pool_forward, x, *how, shapes=[dy.shape], dtype=x.dtype)
    dx = fill(pool.avg_pool_backward_input, dy, *how, shapes=[x.shape], dtype=x.dtype)
    return y, dx


@st.composite
def overhanging(draw, strategy):
    """Draw a geometry with one output more than fits on some axes, as ceil_mode makes them."""
    geometry = draw(strategy)
    more = draw(st.tuples(*[st.integers(0, 1)] * 3))
    return geometry._replace(output=tuple(map(sum, zip(geometry.output, more, strict=True))))


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(0, 3), C=CHANNELS)
@settings(max_examples=150)
def test_maximum_rooms_agree_exactly(reference, cpu, fill, integers, draw_geometry, dtype, data, seed, N, C):
    geometry = data.draw(overhanging(draw_geometry()))
    x = integers(seed, (N, *geometry.image, C), dtype)
    holes = np.random.default_rng(seed).random(x.shape)
    if data.draw(st.booleans(), "holes"):
        x[holes < 0.3] = -np.inf
        x[holes > 0.9] = np.nan
    dy = integers(seed, (N, *geometry.output, C), dtype)
    got = maximum(cpu.pool, fill, x, geometry, dy)
    want = maximum(reference.pool, fill, x, geometry, dy)
    for name, one, other in zip(("y", "winner", "dx"), got, want, strict=True):
        np.testing.assert_array_equal(one, other, name)


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(0, 3), C=CHANNELS)
@settings(max_examples=150)
def test_mean_rooms_agree_exactly(reference, cpu, fill, integers, draw_geometry, dtype, data, seed, N, C):
    geometry = data.draw(overhanging(draw_geometry(dilated=False)))
    padded, divisor = data.draw(st.booleans(), "padded"), data.draw(st.integers(0, 5), "divisor")
    x = integers(seed, (N, *geometry.image, C), dtype)
    counts = reference.pool.divisors(
        *(geometry.image, geometry.output, geometry.window, geometry.stride, geometry.padding),
        padded,
        divisor,
    )
    dy = (integers(seed, (N, *geometry.output, C)) * counts).astype(dtype)  # shares are whole
    got = mean(cpu.pool, fill, x, geometry, padded, divisor, dy)
    want = mean(reference.pool, fill, x, geometry, padded, divisor, dy)
    for name, one, other in zip(("y", "dx"), got, want, strict=True):
        np.testing.assert_array_equal(one, other, name)


LARGE = {
    "lenet": ((1, 28, 28), (1, 2, 2), (1, 2, 2), NONE, 33, 6),
    "resnet stem": ((1, 57, 56), (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)), 3, 64),
    "overlapping": ((1, 31, 33), (1, 3, 3), (1, 1, 1), ((0, 0), (1, 0), (0, 1)), 1, 40),
    "gaps": ((1, 31, 33), (1, 2, 2), (1, 3, 4), NONE, 2, 20),
    "volume": ((9, 14, 15), (2, 3, 2), (2, 2, 1), ((1, 0), (1, 1), (0, 1)), 5, 11),
    "signal": ((1, 1, 5000), (1, 1, 300), (1, 1, 150), NONE, 2, 7),
    "whole image": ((1, 17, 19), (1, 17, 19), ONE, NONE, 20, 33),
}


def large(fit, name):
    """Return a named geometry, its batch size and its channels."""
    image, window, stride, padding, N, C = LARGE[name]
    return fit(image, window, stride, padding, ONE), N, C


@pytest.mark.parametrize("name", LARGE)
def test_large_images_are_exact(reference, cpu, fill, integers, fit, name):
    """Sizes at which the work is shared out among threads."""
    geometry, N, C = large(fit, name)
    x = integers(1, (N, *geometry.image, C), "float32")
    dy = integers(2, (N, *geometry.output, C), "float32")
    got = maximum(cpu.pool, fill, x, geometry, dy)
    want = maximum(reference.pool, fill, x, geometry, dy)
    dy *= np.prod(geometry.window)
    got += mean(cpu.pool, fill, x, geometry, True, 0, dy)
    want += mean(reference.pool, fill, x, geometry, True, 0, dy)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", LARGE)
def test_thread_count_changes_no_bit(cpu, fill, with_threads, fit, name):
    geometry, N, C = large(fit, name)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, *geometry.image, C)).astype("float32")
    dy = rng.normal(size=(N, *geometry.output, C)).astype("float32")

    def run():
        return [
            *maximum(cpu.pool, fill, x, geometry, dy),
            *mean(cpu.pool, fill, x, geometry, False, 0, dy),
        ]

    for one, two in zip(with_threads(1, run), with_threads(2, run), strict=True):
        assert one.tobytes() == two.tobytes()


def torch_size(size, taps, step, pad, dilation, ceil_mode):
    """Return PyTorch's output size: in ceil_mode a window must start inside image or padding."""
    span = size + 2 * pad - dilation * (taps - 1) - 1
    outputs = (span + (step - 1 if ceil_mode else 0)) // step + 1
    return outputs - 1 if ceil_mode and (outputs - 1) * step >= size + pad else outputs


@st.composite
def torch_geometries(draw, fit, dilated):
    """Draw what PyTorch takes: equal padding on both sides, of at most half a window."""
    axes, ceil_mode = [], draw(st.booleans())
    for _ in range(3):
        taps, step = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        apart, pad = draw(st.integers(1, 2)) if dilated else 1, draw(st.integers(0, taps // 2))
        # PyTorch's means refuse a window larger than the image itself, whatever the padding.
        smallest = max(1, apart * (taps - 1) + 1 - 2 * pad) if dilated else taps
        size = draw(st.integers(smallest, smallest + 5))
        axes.append((size, taps, step, (pad, pad), apart))
    geometry = fit(*zip(*axes, strict=True))
    output = tuple(torch_size(n, k, s, p, d, ceil_mode) for n, k, s, (p, _), d in axes)
    return geometry._replace(output=output), ceil_mode


def first_taps(geometry, indices):
    """Turn PyTorch's flat pixel indices (N, C, O, P, Q) into taps of the window."""
    _, H, W = geometry.image
    pixel = np.stack([indices // (H * W), indices // W % H, indices % W], -1)
    start = np.stack(np.meshgrid(*map(np.arange, geometry.output), indexing="ij"), -1)
    start = start * geometry.stride - [before for before, _ in geometry.padding]
    tap = (pixel - start) // geometry.dilation
    return (tap[..., 0] * geometry.window[1] + tap[..., 1]) * geometry.window[2] + tap[..., 2]


@given(data=st.data(), seed=st.integers(0, 9))
def test_reference_maximum_matches_pytorch(reference, fill, fit, data, seed):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    geometry, ceil_mode = data.draw(torch_geometries(fit, True))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *geometry.image, 3))
    dy = rng.normal(size=(2, *geometry.output, 3))
    y, winner, dx = maximum(reference.pool, fill, x, geometry, dy)
    assume(np.isfinite(y).all())  # PyTorch's index of a window without a pixel means nothing
    xt = torch.tensor(x).permute(0, 4, 1, 2, 3).requires_grad_()
    yt, indices = torch.nn.functional.max_pool3d(
        *(xt, geometry.window, geometry.stride, [before for before, _ in geometry.padding]),
        dilation=geometry.dilation,
        ceil_mode=ceil_mode,
        return_indices=True,
    )
    yt.backward(torch.tensor(dy).permute(0, 4, 1, 2, 3))
    np.testing.assert_array_equal(y, yt.detach().permute(0, 2, 3, 4, 1).numpy())
    taps = first_taps(geometry, indices.numpy())
    np.testing.assert_array_equal(winner, np.moveaxis(taps, 1, -1))
    want = xt.grad.permute(0, 2, 3, 4, 1).numpy()
    np.testing.assert_allclose(dx, want, rtol=1e-10, atol=1e-10)


@given(data=st.data(), seed=st.integers(0, 9))
def test_reference_mean_matches_pytorch(reference, fill, fit, data, seed):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    geometry, ceil_mode = data.draw(torch_geometries(fit, False))
    padded, divisor = data.draw(st.booleans(), "padded"), data.draw(st.integers(0, 3), "divisor")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *geometry.image, 3))
    dy = rng.normal(size=(2, *geometry.output, 3))
    y, dx = mean(reference.pool, fill, x, geometry, padded, divisor, dy)
    xt = torch.tensor(x).permute(0, 4, 1, 2, 3).requires_grad_()
    yt = torch.nn.functional.avg_pool3d(
        *(xt, geometry.window, geometry.stride, [before for before, _ in geometry.padding]),
        ceil_mode=ceil_mode,
        count_include_pad=padded,
        divisor_override=divisor or None,
    )
    yt.backward(torch.tensor(dy).permute(0, 4, 1, 2, 3))
    want = yt.detach().permute(0, 2, 3, 4, 1).numpy()
    np.testing.assert_allclose(y, want, rtol=1e-10, atol=1e-10)
    want = xt.grad.permute(0, 2, 3, 4, 1).numpy()
    np.testing.assert_allclose(dx, want, rtol=1e-10, atol=1e-10)


@given(data=st.data(), seed=st.integers(0, 9), padded=st.booleans())
@settings(max_examples=30)
def test_backward_is_the_adjoint_of_forward(room, fill, integers, draw_geometry, data, seed, padded):
    """<dy, y> = <dx, x>, exactly: the mean with a divisor of 1, the maximum for its own winners."""
    geometry = data.draw(draw_geometry(dilated=False))
    x = integers(seed, (2, *geometry.image, 5))
    dy = integers(seed + 1, (2, *geometry.output, 5))
    y, dx = mean(room.pool, fill, x, geometry, padded, 1, dy)
    assert np.vdot(dy, y) == np.vdot(dx, x)
    y, _, dx = maximum(room.pool, fill, x, geometry, dy)
    seen = np.isfinite(y)  # windows that lie in the padding alone are minus infinity
    assert np.vdot(dy[seen], y[seen]) == np.vdot(dx, x)


def test_gradients_are_finite_differences(room, fill, differences, fit):
    geometry = fit((2, 5, 6), (2, 3, 2), (1, 2, 1), ((0, 1), (1, 0), (1, 1)), ONE)
    rng = np.random.default_rng(0)
    shape = (2, *geometry.image, 3)
    x = rng.permutation(np.arange(np.prod(shape), dtype="float64")).reshape(shape)  # no ties
    dy = rng.normal(size=(2, *geometry.output, 3))
    _, _, dx = maximum(room.pool, fill, x, geometry, dy)

    def of_maximum():
        return np.vdot(dy, maximum(room.pool, fill, x, geometry, dy)[0])

    np.testing.assert_allclose(dx, differences(of_maximum, x, 0.25), rtol=1e-9, atol=1e-9)
    _, dx = mean(room.pool, fill, x, geometry, False, 0, dy)

    def of_mean():
        return np.vdot(dy, mean(room.pool, fill, x, geometry, False, 0, dy)[0])

    np.testing.assert_allclose(dx, differences(of_mean, x, 1.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("C", [1, 5, 16, 40])
def test_first_maximum_wins(room, fill, fit, C):
    """Ties, zeros of either sign among them, go to the first tap in the order (t, r, s)."""
    geometry = fit((1, 2, 2), (1, 2, 2), ONE, NONE, ONE)
    for taps in itertools.product([-0.0, 0.0, 1.0], repeat=4):
        x = np.repeat(np.array(taps), C).reshape(1, 1, 2, 2, C)
        y, winner, dx = maximum(room.pool, fill, x, geometry, np.ones((1, 1, 1, 1, C)))
        first = taps.index(max(taps))
        assert (y == max(taps)).all()
        assert (winner == first).all()
        assert (dx.reshape(4, C) == np.eye(4)[:, [first]]).all()


@pytest.mark.parametrize("C", [1, 5, 16, 40])
def test_last_nan_wins(room, fill, fit, C):
    geometry = fit((1, 2, 2), (1, 2, 2), ONE, NONE, ONE)
    for taps in itertools.product([np.nan, -np.inf, np.inf, 1.0], repeat=4):
        x = np.repeat(np.array(taps), C).reshape(1, 1, 2, 2, C)
        y, winner, _ = maximum(room.pool, fill, x, geometry, np.ones((1, 1, 1, 1, C)))
        lost = np.isnan(taps)
        assert np.isnan(y).all() == lost.any()
        assert (winner == (3 - lost[::-1].argmax() if lost.any() else np.argmax(taps))).all()


def test_padding_never_wins(room, fill, fit):
    """An image of minus infinities: the winner is the first pixel that is one."""
    geometry = fit((1, 2, 2), (1, 3, 3), ONE, ((0, 0), (1, 1), (1, 1)), ONE)
    x = np.full((1, 1, 2, 2, 1), -np.inf)
    _, winner, dx = maximum(room.pool, fill, x, geometry, np.ones((1, 1, 2, 2, 1)))
    np.testing.assert_array_equal(winner.ravel(), [4, 3, 1, 0])
    np.testing.assert_array_equal(dx.ravel(), [4, 0, 0, 0])


def test_pixels_outside_every_window_get_no_gradient(room, fill, fit):
    geometry = fit((1, 1, 5), (1, 1, 1), (1, 1, 2), NONE, ONE)
    x, dy = np.zeros((1, 1, 1, 5, 1)), np.ones((1, 1, 1, 3, 1))
    _, _, dx = maximum(room.pool, fill, x, geometry, dy)
    np.testing.assert_array_equal(dx.ravel(), [1, 0, 1, 0, 1])
    _, dx = mean(room.pool, fill, x, geometry, True, 0, dy)
    np.testing.assert_array_equal(dx.ravel(), [1, 0, 1, 0, 1])
