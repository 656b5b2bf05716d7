"""Softmax cross-entropy: rooms against each other and PyTorch, large logits, differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


def both(loss, fill, logits, labels, scale):
    """Return losses, probabilities and dlogits of one room."""
    shape, dtype = logits.shape, logits.dtype
    losses, probabilities = fill(
        loss.softmax_cross_entropy_forward,
        *(logits, labels),
        shapes=[shape[:1], shape],
        dtype=["float64", dtype],
    )
    dlogits = fill(
        loss.softmax_cross_entropy_backward,
        *(probabilities, labels, scale),
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
        room.loss.softmax_cross_entropy_forward(logits, labels, losses, probabilities)
        return losses.mean()

    np.testing.assert_allclose(dlogits, differences(loss, logits, 1e-5), rtol=1e-6, atol=1e-9)


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    logits, labels = case(3, 517, 101, "float32")

    def run():
        return [a.tobytes() for a in both(cpu.loss, fill, logits, labels, 1 / 517)]

    assert with_threads(1, run) == with_threads(2, run)
