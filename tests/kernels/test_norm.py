"""Normalization: rooms against the reference and differences, cancellation, NaN, the gradient's bound, threads."""

from math import prod

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastcnn.kernels.cpu.runtime.cpu_info import CacheSizes
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.cpu.simd import streaming
from fastcnn.kernels.cpu.simd.tile import lanes_of

EPS = 1e-5
CLOSE = {"float32": 2e-6, "float64": 1e-13}
SHAPES = [  # (N, L, C), groups
    ((1, 2, 1), 1), ((1, 12, 3), 3), ((3, 5, 8), 2), ((2, 1, 6), 3), ((9, 4, 5), 5), ((1, 700, 2), 2),
    ((1, 70, 700), 700), ((2, 130, 257), 1), ((17, 33, 64), 8), ((1, 4099, 17), 17), ((0, 4, 3), 3), ((2, 0, 4), 2),
    ((1, 0, 3), 3),
]  # fmt: skip
ROWS = [(1, 2), (3, 1), (7, 5), (33, 64), (5, 4097), (2, 13_000), (300, 33), (40, 500), (0, 3)]


def arrays(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    gamma, beta = (rng.standard_normal(shape[-1]).astype(dtype) for _ in range(2))
    return x, dy, gamma, beta


def group_passes(room, fill, shape, groups, dtype, x, dy, gamma, beta, constant=False):
    statistics = [(shape[0], groups)] * 2
    y, mean, variance = fill(
        room.norm.group_norm_forward, x, gamma, beta, groups, EPS,
        shapes=[shape, *statistics], dtype=[dtype, "float64", "float64"],
    )  # fmt: skip
    given = (x, dy, gamma, mean, variance, groups, EPS, constant)
    return (y, mean, variance, *fill(room.norm.group_norm_backward, *given, shapes=[shape, shape[-1:], shape[-1:]],
                                     dtype=dtype))  # fmt: skip


def row_passes(room, fill, shape, dtype, x, dy, gamma, beta):
    y, mean, variance = fill(
        room.norm.layer_norm_forward, x, gamma, beta, EPS,
        shapes=[shape, shape[:1], shape[:1]], dtype=[dtype, "float64", "float64"],
    )  # fmt: skip
    given = (x, dy, gamma, mean, variance, EPS)
    back = fill(room.norm.layer_norm_backward, *given, shapes=[shape, shape[1:], shape[1:]], dtype=dtype)
    return (y, mean, variance, *back)


def assert_all_close(got, want, dy, gamma, dtype):
    """Compare y, mean, variance, dx, dgamma, dbeta, each by its largest value; dx by its largest term.

    The gradient of two values is all but nothing, the difference of terms as large as gamma * dy / deviation.
    """
    term = np.abs(dy).max(initial=0) * np.abs(gamma).max(initial=0) / np.sqrt(want[2].min(initial=1) + EPS)
    for i, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        scale = max(np.abs(theirs).max(initial=0), 1e-3, term if i == 3 else 0)
        assert np.all(np.abs(ours - theirs) <= 4 * CLOSE[np.dtype(dtype).name] * scale)


@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_groups_against_the_reference(cpu, reference, fill, dtype, shape, groups, constant):
    given = arrays(0, shape, dtype)
    got = group_passes(cpu, fill, shape, groups, dtype, *given, constant)
    assert_all_close(
        got, group_passes(reference, fill, shape, groups, dtype, *given, constant), given[1], given[2], dtype
    )


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_rows_against_the_reference(cpu, reference, fill, dtype, shape):
    given = arrays(1, shape, dtype)
    got = row_passes(cpu, fill, shape, dtype, *given)
    assert_all_close(got, row_passes(reference, fill, shape, dtype, *given), given[1], given[2], dtype)


@pytest.mark.parametrize("shape", [(6, 5), (700, 3), (0, 4), (40, 700)], ids=str)
def test_given_statistics(room, fill, dtype, shape):
    x, _, gamma, beta = arrays(2, shape, dtype)
    mean, variance = np.linspace(-1, 1, shape[1]), np.linspace(0.5, 2, shape[1])
    y = fill(room.norm.fixed_norm_forward, x, gamma, beta, mean, variance, EPS, shapes=[shape], dtype=dtype)
    want = (x - mean) / np.sqrt(variance + EPS) * gamma + beta
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=4 * CLOSE[dtype.name])


@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 40), st.data())
def test_random_groups(cpu, reference, fill, images, pixels, channels, data):
    groups = data.draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    shape = (images, pixels, channels)
    given = arrays(3, shape, "float64")
    got = group_passes(cpu, fill, shape, groups, "float64", *given)
    want = group_passes(reference, fill, shape, groups, "float64", *given)
    # One pixel of one channel has no deviation: xhat is rounding over sqrt(eps).
    tolerance = 1e-10 if pixels * channels // groups < 3 else 1e-12
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=100 * tolerance)


@given(st.integers(1, 30), st.integers(1, 90))
def test_random_rows(cpu, reference, fill, rows, features):
    given = arrays(4, (rows, features), "float64")
    got = row_passes(cpu, fill, (rows, features), "float64", *given)
    want = row_passes(reference, fill, (rows, features), "float64", *given)
    tolerance = 1e-10 if features < 3 else 1e-12
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=100 * tolerance)


def test_gradients_are_finite_differences(reference, differences):
    shape, groups = (2, 3, 4), 2
    x, dy, gamma, beta = arrays(5, shape, "float64")
    y, mean, variance = np.empty(shape), np.empty((2, groups)), np.empty((2, groups))

    def loss():
        reference.norm.group_norm_forward(x, gamma, beta, groups, EPS, y, mean, variance)
        return np.sum(y * dy)

    loss()
    dx, dgamma, dbeta = np.empty(shape), np.empty(4), np.empty(4)
    back = (x, dy, gamma, mean.copy(), variance.copy(), groups, EPS, False, dx, dgamma, dbeta)
    reference.norm.group_norm_backward(*back)
    for gradient, by in ((dx, x), (dgamma, gamma), (dbeta, beta)):
        np.testing.assert_allclose(gradient, differences(loss, by), atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 5000, 8), (1, 1000, 100), (20, 300, 16)], ids=str)
def test_nothing_cancels_where_the_mean_is_large(cpu, reference, fill, shape):
    """Mean 1e4, deviation 1e-2, in float32, whose numbers there are 1e-3 apart: below 1e-3 of float64 on the same."""
    x, dy, gamma, beta = arrays(6, shape, "float32")
    x = (1e4 + 1e-2 * x).astype("float32")
    got = group_passes(cpu, fill, shape, shape[2], "float32", x, dy, gamma, beta)
    wide = [a.astype("float64") for a in (x, dy, gamma, beta)]
    want = group_passes(reference, fill, shape, shape[2], "float64", *wide)
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    rows = (shape[1], shape[2])
    x2, dy2 = x[0], dy[0]
    got = row_passes(cpu, fill, rows, "float32", x2, dy2, gamma, beta)
    want = row_passes(reference, fill, rows, "float64", *(a.astype("float64") for a in (x2, dy2, gamma, beta)))
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_one_large_first_pixel_spoils_nothing(cpu, reference, fill):
    shape = (1, 3000, 4)
    x, dy, gamma, beta = arrays(7, shape, "float32")
    x[0, 0] = 1e5
    got = group_passes(cpu, fill, shape, 4, "float32", x, dy, gamma, beta)
    want = group_passes(reference, fill, shape, 4, "float32", x, dy, gamma, beta)
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_a_sample_far_from_the_mean_spoils_nothing(cpu, reference, fill, dtype):
    """The rough mean is that of the first pixels, or of a row's first elements: let these alone be large."""
    rows, features, tolerance = 40, 300, 1e-5 if dtype == np.float32 else 1e-13
    x, dy, gamma, beta = arrays(11, (rows, features), dtype)
    for shape, at in (((rows, features), np.s_[:, :30]), ((1, rows, features), np.s_[:, :5])):
        large = x.reshape(shape).copy()
        large[at] += 1e5
        passes = row_passes if len(shape) == 2 else group_passes
        how = (shape,) if len(shape) == 2 else (shape, features)
        given = large, dy.reshape(shape), gamma, beta
        got = passes(cpu, fill, *how, dtype, *given)
        want = passes(reference, fill, *how, "float64", *(a.astype("float64") for a in given))
        for ours, theirs in zip(got, want, strict=True):
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize(("shape", "groups"), [((2, 70, 64), 8), ((1, 700, 3), 3), ((9, 33, 32), 32)], ids=str)
def test_storing_past_the_caches_changes_no_bit(cpu, dtype, monkeypatch, shape, groups):
    given, rows = arrays(12, shape, dtype), (shape[0] * shape[1], shape[2])
    by_row = *(a.reshape(rows) for a in given[:2]), *given[2:]
    mean, variance = np.linspace(-1, 1, shape[2]), np.linspace(0.5, 2, shape[2])

    def fill(kernel, *inputs, shapes, dtype):
        kinds = dtype if isinstance(dtype, list) else [dtype] * len(shapes)
        made = [aligned_empty(prod(size), np.dtype(kind)) for size, kind in zip(shapes, kinds, strict=True)]
        for a in made:
            a.fill(np.nan)
        outputs = [a.reshape(size) for a, size in zip(made, shapes, strict=True)]
        kernel(*inputs, *outputs)
        return outputs

    def run():
        fixed = fill(
            cpu.norm.fixed_norm_forward, by_row[0], *given[2:], mean, variance, EPS, shapes=[rows], dtype=dtype
        )
        found = *fixed, *group_passes(cpu, fill, shape, groups, dtype, *given)
        found = *found, *row_passes(cpu, fill, rows, dtype, *by_row)
        return [a.tobytes() for a in found]

    through = run()
    monkeypatch.setattr(streaming, "cache_bytes", lambda: CacheSizes(0, 0, 0))
    assert streaming.streams(aligned_empty(64, dtype), lanes=lanes_of(np.dtype(dtype).itemsize), row=64)
    assert run() == through


def test_nan_and_infinity_stay_in_their_channel(room, fill, dtype):
    x, dy, gamma, beta = arrays(8, (1, 600, 3), dtype)
    x[0, 300, 1], x[0, 5, 2] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        y, mean, variance, *_ = group_passes(room, fill, (1, 600, 3), 3, dtype, x, dy, gamma, beta)
    assert np.isfinite(y[..., 0]).all()
    assert np.isnan(y[..., 1]).all()
    assert np.isnan(variance[0, 1:]).all()
    assert not np.isfinite(mean[0, 1:]).any()


def test_a_constant_channel_gives_its_bias(room, fill, dtype):
    _, dy, gamma, beta = arrays(9, (2, 50, 4), dtype)
    x = np.full((2, 50, 4), 3.7, dtype)
    y, _, variance, *_ = group_passes(room, fill, (2, 50, 4), 4, dtype, x, dy, gamma, beta)
    np.testing.assert_allclose(y, np.broadcast_to(beta, y.shape), atol=1e-4)
    np.testing.assert_allclose(variance, 0, atol=1e-10)


@given(st.integers(2, 60), st.floats(0.1, 5), st.integers(0, 1000))
@example(2, 1.0, 0)
def test_the_gradients_bound(cpu, fill, count, deviation, seed):
    """Santurkar and others 2018, theorem 4.1: per channel

    |g_bn|^2 <= gamma^2 / var * (|g|^2 - <1, g>^2 / m - <g, xhat>^2 / m)
    """
    shape = (1, count, 3)
    x, dy, gamma, beta = arrays(seed, shape, "float64")
    x *= deviation
    _, mean, variance, dx, _, _ = group_passes(cpu, fill, shape, 3, "float64", x, dy, gamma, beta)
    g, xhat = dy[0], (x[0] - mean) / np.sqrt(variance + EPS)
    inner = np.square(g).sum(0) - g.sum(0) ** 2 / count - (g * xhat).sum(0) ** 2 / count
    bound = gamma**2 / variance[0] * inner
    # eps leaves |xhat|^2 a little below m; rounding is told by |g|^2.
    slack = gamma**2 / variance[0] * np.square(g).sum(0) * (EPS / variance[0] + 1e-12)
    assert np.all(np.square(dx[0]).sum(0) <= bound + slack)
    assert np.all(np.square(dx[0]).sum(0) >= 0.9 * bound * (variance[0] / (variance[0] + EPS)) ** 2 - slack)


def test_running_statistics(room):
    mean, variance = np.array([[3.0, 4.0], [5.0, 8.0]]), np.array([[2.0, 4.0], [4.0, 8.0]])
    for momentum, weight in ((0.25, 0.25), (None, 1 / 3)):
        batches, running_mean, running_var = np.array([2.0]), np.array([1.0, 2.0]), np.array([1.0, 1.0])
        room.norm.update_running(mean, variance, 4, momentum, batches, running_mean, running_var)
        assert batches == 3
        rest = 1 - weight
        np.testing.assert_allclose(running_mean, [rest * 1 + weight * 4, rest * 2 + weight * 6])
        np.testing.assert_allclose(running_var, [rest + weight * 3 * 4 / 3, rest + weight * 6 * 4 / 3])


@pytest.mark.parametrize(("shape", "groups"), [((1, 20_000, 16), 16), ((5, 900, 64), 8), ((40, 200, 32), 32)], ids=str)
def test_thread_count_changes_no_bit(cpu, fill, with_threads, shape, groups):
    given = arrays(10, shape, "float32")
    rows = (shape[0] * shape[1], shape[2])

    def run():
        found = group_passes(cpu, fill, shape, groups, "float32", *given)
        by_row = row_passes(cpu, fill, rows, "float32", *(a.reshape(rows) for a in given[:2]), *given[2:])
        return [a.tobytes() for a in (*found, *by_row)]

    assert with_threads(1, run) == with_threads(2, run)
