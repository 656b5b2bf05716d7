"""Local response and contrast: rooms against the reference, finite differences, flat images, threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

BOUNDS = {"float32": 1e-5, "float64": 1e-13}
RESPONSES = [  # M, C, before, after, mu
    (7, 1, 0, 0, 0.75), (5, 3, 3, 3, 0.5), (40, 11, 2, 2, 0.75), (9, 8, 2, 1, 1.0), (300, 64, 4, 0, 0.6),
    (2, 5000, 1, 1, 2.0), (0, 4, 1, 1, 0.75),
]  # fmt: skip
CONTRASTS = [((2, 7, 9, 3), 5), ((1, 1, 1, 1), 3), ((3, 2, 12, 17), 9), ((1, 40, 41, 1), 9), ((0, 4, 4, 2), 3)]


def draw(seed, *shapes, dtype="float64"):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def table(size, taps):
    offset = np.arange(taps) - taps // 2
    at = np.arange(size)[:, None] + offset
    weights = np.where((at >= 0) & (at < size), np.exp(-(offset**2) / 4.0), 0)
    return weights / weights.sum(1, keepdims=True)


def contrast(room, fill, x, dy, taps, subtract=True, divide=True):
    how = (table(x.shape[1], taps), table(x.shape[2], taps), subtract, divide, 1e-5)
    y, deviation = fill(room.local_norm.local_contrast_forward, x, *how, shapes=[x.shape, x.shape[:3]], dtype=x.dtype)
    back = (y, deviation, dy, *how)
    return y, deviation, fill(room.local_norm.local_contrast_backward_input, *back, shapes=[x.shape], dtype=x.dtype)


@pytest.mark.parametrize(("M", "C", "before", "after", "mu"), RESPONSES)
def test_response_against_the_reference(cpu, reference, fill, dtype, M, C, before, after, mu):
    x, dy = draw(0, (M, C), (M, C), dtype=dtype)
    how, found = (before, after, 1.3, 0.4, mu), []
    for room in (cpu, reference):
        kernels = room.local_norm
        y = fill(kernels.local_response_forward, x, *how, shapes=[(M, C)], dtype=dtype)
        dx = fill(kernels.local_response_backward_input, x, dy, *how, shapes=[(M, C)], dtype=dtype)
        found.append((y, dx))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=BOUNDS[dtype.name], atol=BOUNDS[dtype.name])


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 25), st.integers(0, 25), st.floats(0.1, 3))
def test_random_responses(cpu, reference, fill, M, C, before, after, mu):
    x, dy = draw(1, (M, C), (M, C))
    how, found = (before, after, 0.7, 0.2, mu), []
    for room in (cpu, reference):
        kernels = room.local_norm
        y = fill(kernels.local_response_forward, x, *how, shapes=[(M, C)], dtype="float64")
        dx = fill(kernels.local_response_backward_input, x, dy, *how, shapes=[(M, C)], dtype="float64")
        found.append((y, dx))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mu", [0.75, 0.5, 1.0, 0.6])
def test_response_to_zero_nan_and_infinity(room, fill, dtype, mu):
    x = np.array([[0.0, 1.0, 0.0], [np.nan, 1.0, 2.0], [np.inf, 1.0, 1.0]], dtype)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        kernel, how = room.local_norm.local_response_forward, (0, 0, 0.0, 1.0, mu)
        y = fill(kernel, x, *how, shapes=[x.shape], dtype=dtype)
    assert np.isnan([y[0, 0], y[1, 0], y[2, 0]]).all()  # 0 / 0, NaN, infinity / infinity
    np.testing.assert_allclose(y[:, 1], 1, rtol=1e-6)
    np.testing.assert_allclose(y[1, 2], 2 / 4**mu, rtol=1e-6)


@pytest.mark.parametrize(("shape", "taps"), CONTRASTS, ids=str)
@pytest.mark.parametrize(("subtract", "divide"), [(True, True), (True, False), (False, True)])
def test_contrast_against_the_reference(cpu, reference, fill, dtype, shape, taps, subtract, divide):
    x, dy = draw(2, shape, shape, dtype=dtype)
    got = contrast(cpu, fill, x, dy, taps, subtract, divide)
    want = contrast(reference, fill, x, dy, taps, subtract, divide)
    for ours, theirs in zip(got, want, strict=True):
        scale = max(np.abs(theirs).max(initial=0), 1)
        assert np.all(np.abs(ours - theirs) <= 10 * BOUNDS[dtype.name] * scale)


def test_contrast_gradient_is_a_finite_difference(reference, differences):
    (x, dy), how = draw(3, (1, 4, 5, 2), (1, 4, 5, 2)), (table(4, 3), table(5, 3), True, True, 1e-5)
    y, deviation, dx = np.empty_like(x), np.empty(x.shape[:3]), np.empty_like(x)

    def loss():
        reference.local_norm.local_contrast_forward(x, *how, y, deviation)
        return np.sum(y * dy)

    loss()
    reference.local_norm.local_contrast_backward_input(y.copy(), deviation.copy(), dy, *how, dx)
    np.testing.assert_allclose(dx, differences(loss, x), atol=1e-7)


def test_a_flat_image_gives_zero(room, fill, dtype):
    x = np.full((1, 6, 7, 3), 2.0, dtype)
    y, _, dx = contrast(room, fill, x, np.ones_like(x), 5)
    np.testing.assert_allclose(y, 0, atol=0.2 if dtype == np.float32 else 1e-9)  # eps = 1e-5 divides the rounding
    assert np.isfinite(dx).all()


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    x, dy = draw(4, (5, 30, 31, 7), (5, 30, 31, 7), dtype="float32")
    rows = x.reshape(-1, 7)

    def run():
        y = fill(
            cpu.local_norm.local_response_forward, rows, 2, 2, 1.0, 0.1, 0.75, shapes=[rows.shape], dtype="float32"
        )
        return [a.tobytes() for a in (y, *contrast(cpu, fill, x, dy, 5))]

    assert with_threads(1, run) == with_threads(2, run)
