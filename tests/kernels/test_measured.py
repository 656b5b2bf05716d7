"""Convolutions that sum up what they fill: statistics for a normalization after, sums for one before."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe

from fastcnn.kernels.cpu.convolution.select import measured_blocks
from fastcnn.kernels.cpu.normalization import groups_backward
from fastcnn.kernels.cpu.runtime.cpu_info import CacheSizes
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.cpu.simd import streaming

EPS = 1e-5
CLOSE = {"float32": 2e-6, "float64": 1e-13}
ONE, NONE = (1, 1, 1), ((0, 0),) * 3
SAME = ((0, 0), (1, 1), (1, 1))
BOTH = ("forward", "backward_input")
CASES = {  # (x, filter, K, stride, padding, groups), the passes whose kernels sum on any host
    "1x1": (((2, 1, 15, 17, 24), ONE, 100, ONE, NONE, 1), BOTH),
    "winograd": (((2, 1, 30, 30, 64), (1, 3, 3), 70, ONE, SAME, 1), BOTH),
    "winograd, edges": (((1, 1, 13, 9, 20), (1, 3, 3), 17, ONE, SAME, 1), BOTH),
    "depthwise": (((2, 1, 30, 31, 33), (1, 3, 3), 33, ONE, SAME, 33), BOTH),
    "depthwise, strided": (((2, 1, 30, 31, 33), (1, 3, 3), 33, (1, 2, 2), SAME, 33), BOTH),
    "strided": (((2, 1, 56, 56, 32), (1, 3, 3), 64, (1, 2, 2), SAME, 1), BOTH),
    "1x1, strided": (((4, 1, 28, 27, 64), ONE, 128, (1, 2, 2), NONE, 1), ("forward",)),
    "groups": (((2, 1, 12, 12, 48), (1, 3, 3), 96, ONE, SAME, 2), BOTH),
    "few pixels": (((1, 1, 8, 8, 200), (1, 3, 3), 200, ONE, SAME, 1), ()),
    "few channels": (((2, 1, 9, 40, 2), (1, 1, 5), 1, ONE, NONE, 1), ()),
    "signal": (((2, 1, 1, 190, 40), (1, 1, 7), 40, ONE, NONE, 1), BOTH),
    "volume": (((2, 6, 7, 8, 36), (3, 3, 3), 35, ONE, ((1, 1),) * 3, 1), BOTH),
}  # fmt: skip


def stage(case, dtype, make):
    """Return x, w, b, dy, and the problem of their convolution."""
    (to_x, filters, K, stride, padding, groups), _ = CASES[case]
    sizes = zip(to_x[1:4], filters, stride, padding, strict=True)
    to_y = (to_x[0], *((n + sum(pad) - r) // s + 1 for n, r, s, pad in sizes), K)
    shapes = to_x, (*filters, to_x[4] // groups, K), (K,), to_y
    problem = describe(to_x, to_y, shapes[1], stride, padding, ONE, groups)
    return *(make(i, shape, dtype) for i, shape in enumerate(shapes)), problem


def normal(seed, shape, dtype):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def forward(room, fill, x, w, b, problem, shift, to_y):
    kinds = [x.dtype, "float64", "float64"]
    shapes = [to_y, (1, to_y[4]), (1, to_y[4])]
    return fill(room.conv.conv_measured_forward, x, w, b, problem, shift, EPS, shapes=shapes, dtype=kinds)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shift", [0.0, 3.0, 1000.0])
@pytest.mark.parametrize("biased", [False, True])
def test_outputs_stay_and_statistics_are_theirs(cpu, fill, dtype, case, shift, biased):
    x, w, b, dy, problem = stage(case, dtype, normal)
    b = b if biased else None
    shifts = np.full(b.size if biased else dy.shape[4], shift, dtype)
    y, mean, variance = forward(cpu, fill, x, w, b, problem, shifts, dy.shape)
    np.testing.assert_array_equal(y, fill(cpu.conv.conv_forward, x, w, b, problem, 0, shapes=[dy.shape], dtype=dtype))
    pixels = y.astype(np.float64).reshape(-1, y.shape[4])
    assert np.abs(mean - pixels.mean(0)).max() <= CLOSE[dtype.name] * pixels.std()
    np.testing.assert_allclose(variance[0], pixels.var(0), rtol=4 * CLOSE[dtype.name])


@pytest.mark.parametrize("case", CASES)
def test_whole_numbers_give_exact_statistics(cpu, reference, fill, integers, dtype, case):
    x, w, b, dy, problem = stage(case, dtype, lambda *given: integers(*given, largest=1))
    shifts = integers(9, (dy.shape[4],), dtype)
    direct = lambda *given: cpu.conv.conv_measured_forward(*given, algorithm="direct")  # noqa: E731
    shapes, kinds = [dy.shape, (1, dy.shape[4]), (1, dy.shape[4])], [dtype, "float64", "float64"]
    near = 1e9  # beside such an eps no shift is far
    got = fill(direct, x, w, b, problem, shifts, near, shapes=shapes, dtype=kinds)
    want = forward(reference, fill, x, w, b, problem, shifts, dy.shape)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_kernels_sum_where_they_can(case):
    ((to_x, filters, K, stride, padding, groups), passes), dtype = CASES[case], np.dtype("float32")
    sizes = zip(to_x[1:4], filters, stride, padding, strict=True)
    to_y = (to_x[0], *((n + sum(pad) - r) // s + 1 for n, r, s, pad in sizes), K)
    problem = describe(to_x, to_y, filters, stride, padding, ONE, groups)
    assert all(measured_blocks(name, problem, dtype, "auto") for name in passes)


def backward(room, fill, case, dtype, make, bounds, adds):
    x, w, _, dy, problem = stage(case, dtype, make)
    gamma, beta = (normal(seed, x.shape[4:], dtype) for seed in (5, 6))
    pixels = x.astype(np.float64).reshape(-1, x.shape[4])
    norm = (x, gamma, beta, pixels.mean(0)[None], pixels.var(0)[None], EPS, bounds)
    total = make(7, x.shape, dtype) if adds else None
    run = lambda *given: room.conv.conv_measured_backward_input(*given, "auto", total)  # noqa: E731
    shapes, kinds = [x.shape, (2, x.shape[4])], [dtype, "float64"]
    return norm, total, fill(run, dy, w, problem, norm, shapes=shapes, dtype=kinds)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bounds", [(-inf, inf), (0.0, inf), (0.0, 6.0)], ids=str)
@pytest.mark.parametrize("adds", [False, True])
def test_gradients_stay_and_sums_are_theirs(cpu, fill, dtype, case, bounds, adds):
    norm, total, (dx, sums) = backward(cpu, fill, case, dtype, normal, bounds, adds)
    _, w, _, dy, problem = stage(case, dtype, normal)
    plain = fill(cpu.conv.conv_backward_input, dy, w, problem, shapes=[dx.shape], dtype=dtype)
    np.testing.assert_array_equal(dx, plain if total is None else plain + total)
    x, gamma, beta, mean, variance, eps, (low, high) = norm
    made = (x - mean) / np.sqrt(variance + eps) * gamma + beta
    g = np.where((low < made) & (made < high), dx, 0).astype(np.float64)
    near = x - mean.astype(dtype)
    size = np.abs(g).sum(), np.abs(g * near).sum()
    axes = (0, 1, 2, 3)
    assert np.abs(sums[0] - g.sum(axes)).max() <= CLOSE[dtype.name] * size[0] / x.shape[4]
    assert np.abs(sums[1] - (g * near).sum(axes)).max() <= CLOSE[dtype.name] * size[1] / x.shape[4]


@pytest.mark.parametrize("case", ["1x1", "depthwise", "winograd", "few channels"])
def test_rooms_agree_on_the_way_back(cpu, reference, fill, case):
    for bounds in ((-inf, inf), (0.0, 6.0)):
        ours, theirs = (
            backward(room, fill, case, np.dtype("float64"), normal, bounds, True)[2] for room in (cpu, reference)
        )
        for mine, exact in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, exact, rtol=1e-11, atol=1e-11 * np.abs(exact).max())


@pytest.mark.parametrize("room", ["cpu", "reference"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("bounds", [(-inf, inf), (0.0, 6.0)], ids=str)
def test_a_norm_takes_sums_from_elsewhere(request, fill, dtype, room, constant, bounds):
    """What follows from sums follows from those: doubled ones double the gradients of gamma and beta."""
    room, shape = request.getfixturevalue(room), (1, 300, 21)
    x, dy = (normal(seed, shape, dtype) + 3 for seed in range(2))
    gamma, beta = (normal(seed, shape[2:], dtype) for seed in (3, 4))
    pixels = x[0].astype(np.float64)
    mean, variance = pixels.mean(0)[None], pixels.var(0)[None]
    sums = np.empty((2, 21))
    groups_backward.gradient_sums((x, gamma, beta, mean, variance, EPS, bounds), dy, sums)
    how = (gamma, mean, variance, 21, EPS, constant)
    after = beta, None, bounds

    def back(factor):
        given = None if factor is None else factor * sums
        run = lambda *arrays: room.norm.group_norm_backward(*arrays, (*after, given))  # noqa: E731
        return fill(run, x, dy, *how, shapes=[shape, shape[2:], shape[2:]], dtype=dtype)

    plain, once, twice = back(None), back(1.0), back(2.0)
    for mine, exact in zip(once, plain, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=40 * CLOSE[dtype.name], atol=40 * CLOSE[dtype.name])
    for mine, half in zip(twice[1:], once[1:], strict=True):
        np.testing.assert_allclose(mine, 2 * half, rtol=CLOSE[dtype.name])
    assert np.array_equal(twice[0], once[0]) == constant


def test_a_far_shift_reads_the_outputs_after_all(cpu, fill):
    """Around a number 10,000 deviations away, float32 would lose all of the variance."""
    x, w, b, dy, problem = stage("1x1", np.dtype("float32"), normal)
    b = np.full(b.shape, 1e4 * np.sqrt(24), np.float32)
    near, far = (forward(cpu, fill, x, w, b, problem, b * share, dy.shape) for share in (np.float32(1), np.float32(0)))
    for mine, exact in zip(far, near, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-5)


def test_not_a_number_stays_in_its_channel(cpu, fill):
    x, w, b, dy, problem = stage("1x1", np.dtype("float32"), normal)
    w[..., 5] = np.nan
    _, mean, variance = forward(cpu, fill, x, w, b, problem, np.zeros_like(b), dy.shape)
    for found in (mean, variance):
        assert np.isnan(found[0]).nonzero()[0].tolist() == [5]


@pytest.mark.parametrize("room", ["cpu", "reference"])
def test_empty_batch(request, fill, dtype, room):
    room = request.getfixturevalue(room)
    x, w = np.zeros((0, 1, 5, 5, 3), dtype), normal(0, (1, 3, 3, 3, 4), dtype)
    problem = describe(x, (0, 1, 5, 5, 4), w, ONE, SAME, ONE)
    _, mean, variance = forward(room, fill, x, w, None, problem, np.zeros(4, dtype), problem.y)
    assert (mean.tolist(), variance.tolist()) == ([[0.0] * 4], [[0.0] * 4])


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_for_any_number_of_threads(cpu, fill, with_threads, case):
    x, w, b, dy, problem = stage(case, np.dtype("float32"), normal)
    shifts = np.full(dy.shape[4], 0.5, np.float32)
    one, two = (with_threads(n, lambda: forward(cpu, fill, x, w, b, problem, shifts, dy.shape)) for n in (1, 2))
    given = case, np.dtype("float32"), normal, (0.0, 6.0), True
    back = (with_threads(n, lambda: backward(cpu, fill, *given)[2]) for n in (1, 2))
    for mine, theirs in [*zip(one, two, strict=True), *zip(*back, strict=True)]:
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("K", [32, 64])
def test_outputs_that_go_past_the_caches_are_summed_too(cpu, monkeypatch, K):
    monkeypatch.setattr(streaming, "cache_bytes", lambda: CacheSizes(1, 1, 1))
    x, w = normal(0, (2, 1, 8, 9, 24), "float32"), normal(1, (1, 1, 1, 24, K), "float32")
    y = aligned_empty(2 * 72 * K, np.dtype("float32")).reshape(2, 1, 8, 9, K)
    mean, variance = np.empty((1, K)), np.empty((1, K))
    cpu.conv.conv_measured_forward(
        x, w, None, describe(x, y, w, ONE, NONE, ONE), np.zeros(K, "float32"), EPS, y, mean, variance
    )
    pixels = y.astype(np.float64).reshape(-1, K)
    np.testing.assert_allclose(mean[0], pixels.mean(0), atol=1e-5)
    np.testing.assert_allclose(variance[0], pixels.var(0), rtol=1e-5)


@given(
    seed=st.integers(0, 9), N=st.integers(1, 3), H=st.integers(1, 12), W=st.integers(1, 12), C=st.integers(1, 40),
    K=st.integers(1, 70), taps=st.sampled_from((1, 3)), stride=st.integers(1, 3), depthwise=st.booleans(),
)  # fmt: skip
def test_random_shapes(cpu, reference, fill, seed, N, H, W, C, K, taps, stride, depthwise):
    groups, K = (C, C) if depthwise else (1, K)
    pad = taps // 2
    P, Q = ((n + 2 * pad - taps) // stride + 1 for n in (H, W))
    x, w = normal(seed, (N, 1, H, W, C), "float64"), normal(seed, (1, taps, taps, C // groups, K), "float64")
    padding = ((0, 0), (pad, pad), (pad, pad))
    problem = describe(x, (N, 1, P, Q, K), w, (1, stride, stride), padding, ONE, groups)
    got, want = (
        forward(room, fill, x, w, None, problem, normal(seed, (K,), "float64"), (N, 1, P, Q, K))
        for room in (cpu, reference)
    )
    for mine, exact in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-9, atol=1e-11)
