"""The fully connected layer: rooms against each other, against PyTorch, adjoints, threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe

SIZES = st.one_of(st.integers(1, 100), st.sampled_from([127, 128, 257, 400, 1031]))


def passes(linear, fill, relu, x, w, b, dy):
    """Return y, dx, dw, db of one room."""
    dtype = x.dtype
    return {
        "y": fill(linear.linear_forward, x, w, b, relu, shapes=[dy.shape], dtype=dtype),
        "dx": fill(linear.linear_backward_input, dy, w, shapes=[x.shape], dtype=dtype),
        "dw": fill(linear.linear_backward_weight, x, dy, shapes=[w.shape], dtype=dtype),
        "db": fill(linear.linear_backward_bias, dy, shapes=[dy.shape[1:]], dtype=dtype),
    }


@given(
    N=st.integers(0, 40),
    F=SIZES,
    K=SIZES,
    seed=st.integers(0, 9),
    bias=st.booleans(),
    relu=st.booleans(),
)
def test_rooms_agree_exactly(reference, cpu, fill, integers, dtype, N, F, K, seed, bias, relu):
    x, w, dy = (integers(seed, s, dtype) for s in ((N, F), (F, K), (N, K)))
    b = integers(seed, (K,), dtype) if bias else None
    got = passes(cpu.linear, fill, relu, x, w, b, dy)
    want = passes(reference.linear, fill, relu, x, w, b, dy)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.parametrize(
    ("N", "F", "K"),
    [(1, 700, 1300), (2, 1100, 65), (3, 40, 9001), (5, 501, 4097), (37, 1300, 700), (128, 300, 1100), (129, 70, 300)],
)
def test_matrices_of_several_blocks_are_exact(reference, cpu, fill, integers, dtype, N, F, K):
    x, w, b, dy = (integers(3, s, dtype) for s in ((N, F), (F, K), (K,), (N, K)))
    got = passes(cpu.linear, fill, True, x, w, b, dy)
    for name, value in passes(reference.linear, fill, True, x, w, b, dy).items():
        np.testing.assert_array_equal(got[name], value, name)


def test_any_channel_count_is_exact(reference, cpu, fill, integers, dtype):
    for K in range(1, 101):
        x, w, dy = (integers(K, s, dtype) for s in ((7, 101 - K), (101 - K, K), (7, K)))
        got = passes(cpu.linear, fill, False, x, w, None, dy)
        want = passes(reference.linear, fill, False, x, w, None, dy)
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value, f"{name}, K = {K}")


def test_reference_matches_pytorch(reference, fill):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.normal(size=s) for s in ((5, 37), (37, 11), (11,), (5, 11)))
    got = passes(reference.linear, fill, False, x, w, b, dy)
    xt, wt, bt = (torch.tensor(a, requires_grad=True) for a in (x, w.T.copy(), b))
    yt = torch.nn.functional.linear(xt, wt, bt)
    yt.backward(torch.tensor(dy))
    want = {"y": yt.detach(), "dx": xt.grad, "dw": wt.grad.T, "db": bt.grad}
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-10, atol=1e-10, err_msg=name)


def test_backward_is_the_adjoint_of_forward(room, fill, integers):
    """<dy, y> = <dx, x> = <dw, w>, exactly, on whole numbers."""
    x, w, dy = (integers(1, s) for s in ((6, 53), (53, 19), (6, 19)))
    got = passes(room.linear, fill, False, x, w, None, dy)
    assert np.vdot(dy, got["y"]) == np.vdot(got["dx"], x) == np.vdot(got["dw"], w)


def test_gradients_are_finite_differences(room, fill, differences):
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.normal(size=s) for s in ((3, 7), (7, 5), (5,), (3, 5)))
    got = passes(room.linear, fill, False, x, w, b, dy)

    def loss():
        y = np.empty_like(dy)
        room.linear.linear_forward(x, w, b, False, y)
        return np.vdot(dy, y)

    for array, name in ((x, "dx"), (w, "dw"), (b, "db")):
        want = differences(loss, array, step=1.0)
        np.testing.assert_allclose(got[name], want, rtol=1e-10, atol=1e-10, err_msg=name)


def test_relu_passes_nan(room, fill):
    for K in (1, 100):
        x, w = np.array([[1.0], [-2.0], [np.nan]]), np.ones((1, K))
        y = fill(room.linear.linear_forward, x, w, None, True, shapes=[(3, K)], dtype=x.dtype)
        np.testing.assert_array_equal(y, np.repeat([[1.0], [0.0], [np.nan]], K, axis=1))


@pytest.mark.parametrize("N", [1, 4, 130])
def test_thread_count_changes_no_bit(cpu, fill, with_threads, N):
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.normal(size=s).astype("float32") for s in ((N, 801), (801, 333), (333,), (N, 333)))
    one, two = (with_threads(n, lambda: passes(cpu.linear, fill, True, x, w, b, dy)) for n in (1, 2))
    for name, value in one.items():
        assert value.tobytes() == two[name].tobytes(), name


@pytest.mark.parametrize("M", [1, 2, 3, 4])
@pytest.mark.parametrize(("F", "K"), [(400, 120), (37, 1), (5, 300), (900, 130)])
def test_outer_products_have_the_bits_of_the_tile(cpu, dtype, M, F, K):
    rng = np.random.default_rng([M, F, K])
    x, dy = (rng.standard_normal((M, size)).astype(dtype) for size in (F, K))
    x[0, 0] = -0.0
    by_tile, by_rows = (np.full((F, K), np.nan, dtype) for _ in range(2))
    rows, to, one = x.reshape(1, 1, M, 1, F), dy.reshape(1, 1, M, 1, K), (1, 1, 1)
    problem = describe(rows, to, one, one, ((0, 0),) * 3, one)
    cpu.conv.conv_backward_weight(rows, to, problem, by_tile.reshape(1, 1, 1, F, K))
    cpu.linear.linear_backward_weight(x, dy, by_rows)
    assert by_rows.tobytes() == by_tile.tobytes()
