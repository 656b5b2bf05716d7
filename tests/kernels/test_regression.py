"""Losses of differences: rooms against each other, exact sums, PyTorch's slopes at the corners, threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
SIZES = [1, 63, 64, 65, 16_384, 16_385, 200_003]


def passes(room, fill, y, t, beta=None, scale=0.5):
    """Return the total and the gradient of the squared error, or of the smooth L1 if there is a beta."""
    name, rule = ("squared_error", ()) if beta is None else ("smooth_l1", (beta,))
    forward, backward = (getattr(room.loss, f"{name}_{way}") for way in ("forward", "backward"))
    total = fill(forward, y, t, *rule, shapes=[(1,)], dtype="float64")
    return total, fill(backward, y, t, *rule, np.array([scale]), shapes=[y.shape], dtype=y.dtype)


@pytest.mark.parametrize("beta", [None, 0.0, 1.0, 2.0])
@given(seed=st.integers(0, 9), shape=SHAPES)
def test_rooms_agree_exactly_on_whole_numbers(reference, cpu, fill, integers, dtype, beta, seed, shape):
    y, t = integers(seed, shape, dtype), integers(seed + 100, shape, dtype)
    got, want = passes(cpu, fill, y, t, beta), passes(reference, fill, y, t, beta)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("beta", [None, 0.0, 0.7])
@pytest.mark.parametrize("size", SIZES)
def test_rooms_agree(reference, cpu, fill, dtype, beta, size):
    y, t = np.random.default_rng(size).normal(size=(2, size)).astype(dtype)
    got, want = passes(cpu, fill, y, t, beta), passes(reference, fill, y, t, beta)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-13)
    near = {"float32": 1e-6, "float64": 1e-14}[dtype.name]
    np.testing.assert_allclose(got[1], want[1], rtol=near, atol=near)


def test_corners(room, fill, dtype):
    """At 0 the slope is 0, at beta both pieces agree."""
    y, t = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], dtype), np.zeros(7, dtype)
    total, dy = passes(room, fill, y, t, 0.0, 1.0)
    assert total[0] == 7
    np.testing.assert_array_equal(dy, [-1, -1, -1, 0, 1, 1, 1])
    total, dy = passes(room, fill, y, t, 1.0, 1.0)
    assert total[0] == 2 * (1.5 + 0.5 + 0.125)
    np.testing.assert_array_equal(dy, [-1, -1, -0.5, 0, 0.5, 1, 1])


@pytest.mark.parametrize("beta", [None, 0.0, 1.0])
def test_nan_shows_in_the_loss_and_its_own_gradient(room, fill, dtype, beta):
    y, t = np.ones(40, dtype), np.zeros(40, dtype)
    y[37] = np.nan
    total, dy = passes(room, fill, y, t, beta)
    assert np.isnan(total[0])
    assert np.isnan(dy[37])
    assert np.isfinite(np.delete(dy, 37)).all()


def test_sums_are_in_double_precision(room, fill):
    """In single precision the sum of 2^25 and ones would stay 2^25."""
    y = np.ones(1000, np.float32)
    y[0] = 2.0**13
    total, _ = passes(room, fill, y, np.zeros_like(y))
    assert total[0] == 2.0**26 + 999


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    y, t = np.random.default_rng(0).normal(size=(2, 200_003)).astype("float32")

    def run():
        return [a.tobytes() for beta in (None, 1.0) for a in passes(cpu, fill, y, t, beta)]

    assert with_threads(1, run) == with_threads(2, run)
