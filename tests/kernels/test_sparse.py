"""Shrinkage against brute force and the reference, and the steps of conjugate gradients; threads, NaN, edges."""

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOMS = ("reference", "cpu")
EXPONENTS = (1.0, 1 / 2, 2 / 3)
SIZES = [(0, 3), (1, 1), (2, 5), (3, 257), (1, (1 << 15) + 1), (2, 70_001)]
OF_Z = {"float32": 3e-7, "float64": 1e-14}  # of |z|: a few rounding errors (the reference has more of them)


@pytest.fixture(params=ROOMS)
def sparse(request):
    return import_module(f"fastcnn.kernels.{request.param}.sparse")


@pytest.fixture
def cpu_sparse():
    return import_module("fastcnn.kernels.cpu.sparse")


@pytest.fixture
def plain():
    return import_module("fastcnn.kernels.reference.sparse")


def cost(x, z, beta, p):
    return beta / 2 * (z - x) ** 2 + np.abs(x) ** p


def shrunk(room, fill, z, beta, p):
    return fill(
        lambda z, x, penalty: room.shrink(z, beta, p, x, penalty),
        z, shapes=[z.shape, z.shape[:1]], dtype=[z.dtype, np.dtype("float64")],
    )  # fmt: skip


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("beta", [0.05, 1.0, 300.0])
def test_no_point_of_a_fine_grid_costs_less(sparse, fill, dtype, p, beta):
    scale = beta ** (-1 / (2 - p))
    z = (scale * np.linspace(-4, 4, 161)).reshape(1, -1).astype(dtype)
    x, _ = shrunk(sparse, fill, z, beta, p)
    grid = scale * np.linspace(-4.2, 4.2, 20_001)
    z64 = z.astype(np.float64)
    best = cost(grid[:, None], z64, beta, p).min(axis=0)
    reached = cost(x.astype(np.float64), z64, beta, p)
    assert np.all(reached <= best * (1 + OF_Z[dtype.name]))
    nearest = grid[cost(grid[:, None], z64, beta, p).argmin(axis=0)]
    clear = np.abs(reached - cost(0, z64, beta, p)) > 1e-3 * scale**p  # at the threshold, 0 costs as much
    np.testing.assert_allclose(x[0][clear[0]], nearest[clear[0]], atol=2e-3 * scale)


@pytest.mark.parametrize("p", EXPONENTS)
def test_the_derivative_vanishes_where_x_is_not_0(sparse, fill, dtype, p):
    z = np.random.default_rng(0).normal(0, 5, (2, 3000)).astype(dtype)
    x, penalty = shrunk(sparse, fill, z, 0.7, p)
    kept = x != 0
    assert 0.2 < kept.mean() < 0.99
    z64, x64 = z[kept].astype(np.float64), np.abs(x[kept].astype(np.float64))
    np.testing.assert_array_equal(np.sign(x[kept]), np.sign(z64))
    slope = 0.7 * (x64 - np.abs(z64)) + p * x64 ** (p - 1)
    assert np.all(np.abs(slope) <= OF_Z[dtype.name] * np.abs(z64))
    sums = (np.abs(x.astype(np.float64)) ** p).sum(axis=1)
    np.testing.assert_allclose(penalty, sums, rtol=1e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize(
    ("p", "threshold", "x"), [(1.0, 1.0, 0.0), (1 / 2, 1.5, 1.0), (2 / 3, 2 * (2 / 3) ** 0.75, (2 / 3) ** 0.75)]
)
@pytest.mark.parametrize("beta", [1.0, 40.0])
def test_the_thresholds_and_jumps(sparse, fill, dtype, p, threshold, x, beta):
    """Xu et al. 2012 for 1/2, Cao et al. 2013 for 2/3: at the threshold x jumps from 0 to half or two thirds of it."""
    scale = beta ** (-1 / (2 - p))
    z = np.array([[threshold * (1 - 1e-5), threshold * (1 + 1e-5)]]) * scale
    below, above = shrunk(sparse, fill, np.concatenate([z, -z], axis=1).astype(dtype), beta, p)[0][0].reshape(2, 2).T
    np.testing.assert_array_equal(below, 0)
    np.testing.assert_allclose(above, [x * scale, -x * scale], rtol=1e-4, atol=3e-5 * scale)


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("p", EXPONENTS)
def test_the_rooms_agree(cpu_sparse, plain, fill, dtype, shape, p):
    rng = np.random.default_rng(1)
    z = (rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 4, shape)).astype(dtype)
    x, penalty = shrunk(cpu_sparse, fill, z, 2.5, p)
    wanted, sums = shrunk(plain, fill, z, 2.5, p)
    assert np.all(np.abs(x - wanted) <= OF_Z[dtype.name] * np.abs(z))
    np.testing.assert_allclose(penalty, sums, rtol=1e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("p", EXPONENTS)
def test_zeros_nan_and_large_numbers(sparse, fill, dtype, p):
    z = np.array([[0.0, -0.0, 1e-30, np.nan, 1e12, -1e12]], dtype)
    x, penalty = shrunk(sparse, fill, z, 1.0, p)
    np.testing.assert_array_equal(x[0, :4], [0, 0, 0, np.nan])
    np.testing.assert_allclose(x[0, 4:], z[0, 4:], rtol=1e-6)
    assert np.isnan(penalty[0])


@given(
    seed=st.integers(0, 99), N=st.integers(0, 3), M=st.integers(1, 700), lam=st.sampled_from([0.5, 3.0]),
    beta=st.sampled_from([0.25, 2.0]),
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ROOMS)
def test_the_steps_of_conjugate_gradients(integers, name, dtype, seed, N, M, lam, beta):
    """Small whole numbers and halves are exact in any order: the definition, to the last bit."""
    room = import_module(f"fastcnn.kernels.{name}.sparse")
    x, z, r, q = (integers(seed + i, (N, M), dtype) for i in range(4))
    sums, d = np.full(N, np.nan), np.full((N, M), np.nan, dtype)
    want = (lam * r + beta * (x - z)).astype(dtype)
    assert room.conjugate_start(x, z, lam, beta, r, d, sums) is None
    np.testing.assert_array_equal(r, want)
    np.testing.assert_array_equal(d, want)
    np.testing.assert_array_equal(sums, (want.astype(float) ** 2).sum(axis=1))
    want = (lam * q + beta * d).astype(dtype)
    room.conjugate_product(d, lam, beta, q, sums)
    np.testing.assert_array_equal(q, want)
    np.testing.assert_array_equal(sums, (want.astype(float) * d).sum(axis=1))
    alpha = np.arange(N) - 0.5
    after = z + alpha[:, None] * d, r - alpha[:, None] * q
    room.conjugate_step(alpha, d, q, z, r, sums)
    np.testing.assert_array_equal(z, after[0])
    np.testing.assert_array_equal(r, after[1])
    np.testing.assert_array_equal(sums, (after[1] ** 2).sum(axis=1))
    want = r + alpha[:, None] * d
    room.conjugate_direction(alpha, r, d)
    np.testing.assert_array_equal(d, want)
    room.squared_distance(x, z, sums)
    np.testing.assert_array_equal(sums, ((x.astype(float) - z) ** 2).sum(axis=1))


def test_blocks_and_images_of_several_tasks(cpu_sparse, plain, integers):
    shape = (2, (1 << 16) + 3)
    a, b = integers(0, shape, "float32"), integers(1, shape, "float32")
    ours, theirs = np.empty(2), np.empty(2)
    cpu_sparse.squared_distance(a, b, ours)
    plain.squared_distance(a, b, theirs)
    np.testing.assert_array_equal(ours, theirs)
    d, wanted = b.copy(), b.copy()
    cpu_sparse.conjugate_direction(np.array([0.5, 2.0]), a, d)
    plain.conjugate_direction(np.array([0.5, 2.0]), a, wanted)
    np.testing.assert_array_equal(d, wanted)


@pytest.mark.parametrize("p", EXPONENTS)
def test_thread_count_changes_no_bit(cpu_sparse, with_threads, dtype, p):
    z = np.random.default_rng(0).normal(size=(3, 100_001)).astype(dtype)

    def run():
        x, r, d = np.empty_like(z), z[::-1].copy(), np.empty_like(z)
        penalty, squares = np.empty(3), np.empty(3)
        cpu_sparse.shrink(z, 3.0, p, x, penalty)
        cpu_sparse.conjugate_start(x, z, 0.3, 0.7, r, d, squares)
        return [array.tobytes() for array in (x, r, d, penalty, squares)]

    assert with_threads(1, run) == with_threads(2, run)
