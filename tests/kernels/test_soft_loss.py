"""Cross-entropy from probabilities of the classes: rooms against each other, labels, differences, threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

TOLERANCE = {"float32": 1e-6, "float64": 1e-13}
SMOOTHING = (0.0, 0.1, 1.0)


def case(seed, N, K, dtype):
    """Return logits, probabilities of which many are 0, and weights of which some are."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, (N, K)) * rng.random((N, K)) / 2
    return rng.normal(0, 3, (N, K)).astype(dtype), targets.astype(dtype), rng.integers(0, 4, K) / 2


def both(room, fill, logits, targets, weights, smoothing, scale):
    """Return losses, probabilities and dlogits of one room."""
    kernels, shape, dtype = room.loss, logits.shape, logits.dtype
    rule = targets, weights, smoothing
    kinds = ["float64", dtype]
    losses, softmax = fill(kernels.soft_cross_entropy_forward, logits, *rule, shapes=[shape[:1], shape], dtype=kinds)
    dlogits = fill(kernels.soft_cross_entropy_backward, softmax, *rule, np.array([scale]), shapes=[shape], dtype=dtype)
    return losses, softmax, dlogits


@given(seed=st.integers(0, 9), N=st.integers(0, 300), K=st.integers(1, 40), smoothing=st.sampled_from(SMOOTHING))
def test_rooms_agree(reference, cpu, fill, dtype, seed, N, K, smoothing):
    arrays = case(seed, N, K, dtype)
    got = both(cpu, fill, *arrays, smoothing, 0.25)
    want = both(reference, fill, *arrays, smoothing, 0.25)
    near = TOLERANCE[dtype.name]
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got[1], want[1], rtol=near)
    np.testing.assert_allclose(got[2], want[2], rtol=near, atol=4 * near)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_probabilities_of_one_class_are_its_label(room, fill, dtype, smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (37, 11)).astype(dtype), rng.integers(0, 11, 37)
    targets, weights = np.eye(11, dtype=dtype)[labels], rng.integers(0, 4, 11) / 2
    losses, softmax, dlogits = both(room, fill, logits, targets, weights, smoothing, 0.5)
    rule = labels, np.append(weights, 0.0), smoothing
    want, same = fill(
        room.loss.softmax_cross_entropy_forward, logits, *rule, shapes=[(37,), (37, 11)], dtype=["float64", dtype]
    )
    np.testing.assert_allclose(losses, want, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(softmax, same)
    rule = *rule, np.array([0.5])
    gradient = fill(room.loss.softmax_cross_entropy_backward, same, *rule, shapes=[(37, 11)], dtype=dtype)
    np.testing.assert_allclose(dlogits, gradient, rtol=TOLERANCE[dtype.name], atol=4 * TOLERANCE[dtype.name])


def test_gradient_is_the_finite_difference(room, fill, differences):
    logits, targets, weights = case(2, 4, 6, "float64")
    dlogits = both(room, fill, logits, targets, weights, 0.3, 1 / 4)[2]

    def loss():
        losses, softmax = np.empty(4), np.empty_like(logits)
        room.loss.soft_cross_entropy_forward(logits, targets, weights, 0.3, losses, softmax)
        return losses.mean()

    np.testing.assert_allclose(dlogits, differences(loss, logits, 1e-5), rtol=1e-6, atol=1e-9)


def test_large_logits_and_impossible_classes(room, fill, dtype):
    logits = np.array([[1e4, -1e4, 0], [-np.inf, 0, 0], [-1e4, -1e4, -1e4]], dtype)
    targets = np.array([[0.5, 0.25, 0.25], [0, 0.5, 0.5], [1, 0, 0]], dtype)
    losses, softmax, dlogits = both(room, fill, logits, targets, np.ones(3), 0.0, 1.0)
    np.testing.assert_allclose(losses, [7.5e3, np.log(2), np.log(3)], rtol=1e-14)
    np.testing.assert_allclose(softmax, [[1, 0, 0], [0, 0.5, 0.5], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(dlogits, softmax - targets, rtol=1e-6, atol=1e-7)


def test_nan_shows_in_the_loss_of_its_image_alone(room, fill, dtype):
    for column in range(3):
        logits = np.zeros((2, 3), dtype)
        logits[0, column] = np.nan
        losses, *_ = both(room, fill, logits, np.full((2, 3), 1 / 3, dtype), np.ones(3), 0.0, 1.0)
        assert np.isnan(losses[0])
        assert losses[1] == pytest.approx(np.log(3), rel=1e-6)


@given(seed=st.integers(0, 9), N=st.integers(0, 300), K=st.integers(1, 40))
def test_arg_max_is_the_first(cpu, reference, fill, integers, dtype, seed, N, K):
    values = integers(seed, (N, K), dtype, K)  # small whole numbers: many rows have several largest
    got, want = (fill(room.loss.arg_max, values, shapes=[(N,)], dtype="int64") for room in (cpu, reference))
    np.testing.assert_array_equal(got, want)


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    arrays = case(3, 5170, 23, "float32")

    def run():
        results = [*both(cpu, fill, *arrays, 0.1, 0.5)]
        results.append(fill(cpu.loss.arg_max, arrays[0], shapes=[(5170,)], dtype="int64"))
        return [a.tobytes() for a in results]

    assert with_threads(1, run) == with_threads(2, run)
