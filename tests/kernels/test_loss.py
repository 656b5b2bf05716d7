"""Losses of classifiers: rooms against each other and PyTorch, large logits, differences, threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


def both(loss, fill, logits, labels, scale, weights=None, smoothing=0.0):
    """Return losses, probabilities and dlogits of one room."""
    shape, dtype = logits.shape, logits.dtype
    weights = np.append(np.ones(shape[1]), 0.0) if weights is None else weights
    losses, probabilities = fill(
        loss.softmax_cross_entropy_forward,
        *(logits, labels, weights, smoothing),
        shapes=[shape[:1], shape],
        dtype=["float64", dtype],
    )
    dlogits = fill(
        loss.softmax_cross_entropy_backward,
        *(probabilities, labels, weights, smoothing, np.array([scale])),
        shapes=[shape],
        dtype=dtype,
    )
    return losses, probabilities, dlogits


def case(seed, N, K, dtype, size=3.0):
    """Return random logits and labels."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, size, (N, K)).astype(dtype), rng.integers(0, K, N)


@given(seed=st.integers(0, 9), N=st.integers(0, 300), K=st.integers(1, 40))
def test_rooms_agree(reference, cpu, fill, dtype, seed, N, K):
    logits, labels = case(seed, N, K, dtype)
    got = both(cpu.loss, fill, logits, labels, 1 / max(N, 1))
    want = both(reference.loss, fill, logits, labels, 1 / max(N, 1))
    near = TOLERANCE[dtype.name]
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(got[1], want[1], rtol=near)
    np.testing.assert_allclose(got[2], want[2], rtol=near, atol=near / max(N, 1))


def test_reference_matches_pytorch(reference, fill):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    logits, labels = case(0, 37, 11, "float64")
    losses, probabilities, dlogits = both(reference.loss, fill, logits, labels, 1 / 37)
    xt = torch.tensor(logits, requires_grad=True)
    want = torch.nn.functional.cross_entropy(xt, torch.tensor(labels), reduction="none")
    want.mean().backward()
    np.testing.assert_allclose(losses, want.detach().numpy(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(probabilities, xt.detach().softmax(1).numpy(), rtol=1e-10)
    np.testing.assert_allclose(dlogits, xt.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_large_logits_lose_nothing(room, fill, dtype, size):
    """At +-1e4 the loss is the difference of the two largest logits, and the gradient is finite."""
    logits = np.array([[size, -size, 0], [-size, size, 0], [size, size, size]], dtype)
    losses, probabilities, dlogits = both(room.loss, fill, logits, np.array([0, 0, 2]), 1.0)
    want = np.array([np.log1p(np.exp(-size) + np.exp(-2 * size)), 0, np.log(3)])
    want[1] = 2 * size + want[0]
    np.testing.assert_allclose(losses, want, rtol=1e-12, atol=1e-15)
    assert np.isfinite(probabilities).all()
    near = TOLERANCE[dtype.name]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=near)
    np.testing.assert_allclose(dlogits.sum(axis=1), 0, atol=near)


def test_a_constant_added_to_a_row_changes_no_bit(room, fill, dtype):
    logits, labels = case(1, 9, 5, dtype)
    logits = np.round(logits * 16) / 16
    plain = both(room.loss, fill, logits, labels, 1.0)
    moved = both(room.loss, fill, logits + dtype.type(1024), labels, 1.0)
    for one, other in zip(plain, moved, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nan_shows_in_the_loss_of_its_image_alone(cpu, fill, dtype):
    for column in range(3):
        logits = np.zeros((2, 3), dtype)
        logits[0, column] = np.nan
        losses, *_ = both(cpu.loss, fill, logits, np.array([1, 1]), 1.0)
        assert np.isnan(losses[0])
        assert losses[1] == pytest.approx(np.log(3))


def test_gradient_is_the_finite_difference(room, fill, differences):
    logits, labels = case(2, 4, 6, "float64")
    dlogits = both(room.loss, fill, logits, labels, 1 / 4)[2]

    def loss():
        losses, probabilities = np.empty(4), np.empty_like(logits)
        room.loss.softmax_cross_entropy_forward(logits, labels, np.append(np.ones(6), 0.0), 0.0, losses, probabilities)
        return losses.mean()

    np.testing.assert_allclose(dlogits, differences(loss, logits, 1e-5), rtol=1e-6, atol=1e-9)


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    logits, labels = case(3, 517, 101, "float32")

    def run():
        return [a.tobytes() for a in both(cpu.loss, fill, logits, labels, 1 / 517)]

    assert with_threads(1, run) == with_threads(2, run)


def weighted(seed, N, K, dtype):
    """Return scores, labels of which about one in K + 1 belongs to no class, and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    weights = np.append(rng.integers(0, 4, K) / 2, 0.0)
    return rng.normal(0, 3, (N, K)).astype(dtype), rng.integers(0, K + 1, N), weights


@given(seed=st.integers(0, 9), N=st.integers(0, 300), K=st.integers(1, 40), smoothing=st.sampled_from([0.0, 0.1, 1.0]))
def test_rooms_agree_on_weights_and_smoothing(reference, cpu, fill, dtype, seed, N, K, smoothing):
    logits, labels, weights = weighted(seed, N, K, dtype)
    got = both(cpu.loss, fill, logits, labels, 0.25, weights, smoothing)
    want = both(reference.loss, fill, logits, labels, 0.25, weights, smoothing)
    near = TOLERANCE[dtype.name]
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got[2], want[2], rtol=near, atol=4 * near)
    ignored = labels == K
    assert not got[0][ignored].any()
    assert not got[2][ignored].any()


@given(seed=st.integers(0, 9), N=st.integers(0, 300), K=st.integers(1, 40), p=st.sampled_from([1, 2]))
def test_rooms_agree_on_hinge_and_nll(reference, cpu, fill, dtype, seed, N, K, p):
    scores, labels, weights = weighted(seed, N, K, dtype)
    near = TOLERANCE[dtype.name]
    classes = np.minimum(labels, K - 1)
    for name, before, given_labels in (("nll", (), labels), ("hinge", (p, 0.5), classes)):
        got, want = [], []
        for room, results in ((cpu, got), (reference, want)):
            forward, backward = (getattr(room.loss, f"{name}_{way}") for way in ("forward", "backward"))
            rule = (given_labels, weights, *before)
            results.append(fill(forward, scores, *rule, shapes=[(N,)], dtype="float64"))
            read = () if name == "nll" else (scores,)
            results.append(fill(backward, *read, *rule, np.array([0.25]), shapes=[(N, K)], dtype=dtype))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(got[1], want[1], rtol=near, atol=4 * near)


@given(seed=st.integers(0, 9), N=st.integers(0, 300), K=st.integers(1, 40))
def test_rooms_agree_on_binary_cross_entropy(reference, cpu, fill, dtype, seed, N, K):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(0, 8, (N, K)).astype(dtype), rng.choice([0, 0.25, 1], (N, K)).astype(dtype)
    weights = rng.integers(0, 4, K) / 2
    got, want = (
        (
            fill(room.loss.binary_cross_entropy_forward, x, t, weights, shapes=[(1,)], dtype="float64"),
            fill(room.loss.binary_cross_entropy_backward, x, t, weights, np.array([0.5]), shapes=[(N, K)], dtype=dtype),
        )
        for room in (cpu, reference)
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got[1], want[1], rtol=TOLERANCE[dtype.name], atol=1e-30)


def test_binary_cross_entropy_loses_nothing_far_out(room, fill, dtype):
    x = np.array([[1e4, -1e4, 1e4, -1e4, 0, 30, -30]], dtype)
    t = np.array([[1, 0, 0, 1, 1, 1, 0]], dtype)
    ones = np.ones(7)
    total = fill(room.loss.binary_cross_entropy_forward, x, t, ones, shapes=[(1,)], dtype="float64")
    assert total[0] == pytest.approx(2e4 + np.log(2) + 2 * np.log1p(np.exp(-30)), rel=1e-15)
    alone = fill(room.loss.binary_cross_entropy_forward, x[:, 5:], t[:, 5:], ones[:2], shapes=[(1,)], dtype="float64")
    assert alone[0] == pytest.approx(2 * np.log1p(np.exp(-30)), rel=1e-14)
    dx = fill(room.loss.binary_cross_entropy_backward, x, t, ones, ones[:1], shapes=[(1, 7)], dtype=dtype)
    small = np.exp(-30) / (1 + np.exp(-30))
    np.testing.assert_allclose(dx, [[0, 0, 1, -1, -0.5, -small, small]], rtol=TOLERANCE[dtype.name])


def test_nan_and_infinity_pass(room, fill, dtype):
    x = np.array([[np.nan, 1.0], [np.inf, 0.0]], dtype)
    ones = np.ones(2)
    for row in (0, 1):
        t = np.zeros((1, 2), dtype)
        total = fill(room.loss.binary_cross_entropy_forward, x[row : row + 1], t, ones, shapes=[(1,)], dtype="float64")
        assert not np.isfinite(total[0])
    # A logit of -infinity is a class that cannot be.
    logits = np.array([[-np.inf, 0.0, 0.0]], dtype)
    losses, probabilities, dlogits = both(room.loss, fill, logits, np.array([1]), 1.0)
    np.testing.assert_allclose(losses, np.log(2))
    np.testing.assert_allclose(probabilities, [[0, 0.5, 0.5]])
    np.testing.assert_allclose(dlogits, [[0, -0.5, 0.5]])


@given(seed=st.integers(0, 9), N=st.integers(0, 300), K=st.integers(1, 12))
def test_first_largest_is_the_argmax(cpu, fill, integers, dtype, seed, N, K):
    scores = integers(seed, (N, K), dtype)  # small whole numbers: many rows have several largest
    scores[::7, ::3] = np.nan
    labels = np.random.default_rng(seed).integers(0, K + 1, N)
    hits = fill(cpu.loss.first_largest, scores, labels, shapes=[(N,)], dtype="int8")
    number = ~np.isnan(scores[np.arange(N), np.minimum(labels, K - 1)])
    np.testing.assert_array_equal(hits, (scores.argmax(axis=1) == labels) & number)


def test_thread_count_changes_no_bit_of_the_others(cpu, fill, with_threads):
    x, labels, weights = weighted(3, 5170, 23, "float32")
    classes, t = np.minimum(labels, 22), (x > 0).astype("float32")

    def run():
        loss, results = cpu.loss, both(cpu.loss, fill, x, labels, 0.5, weights, 0.1)
        results += (fill(loss.hinge_forward, x, classes, weights, 2, 1.0, shapes=[(5170,)], dtype="float64"),)
        results += (fill(loss.binary_cross_entropy_forward, x, t, weights[:23], shapes=[(1,)], dtype="float64"),)
        return [a.tobytes() for a in results]

    assert with_threads(1, run) == with_threads(2, run)
