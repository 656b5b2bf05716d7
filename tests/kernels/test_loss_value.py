"""From rows to a loss: exact sums, their error, weights of labels, divisors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.sampled_from([0, 1, 7, 8, 9, 127, 128, 129, 136, 137, 1000, 4099, 100_003])


@given(seed=st.integers(0, 9), size=SIZES)
def test_sums_of_whole_numbers_are_exact(room, fill, integers, seed, size):
    values = integers(seed, (size,))
    assert fill(room.loss.sum_values, values, shapes=[(1,)], dtype="float64")[0] == values.sum()


def test_errors_of_sums_grow_with_the_logarithm_of_their_number(room, fill):
    values = np.full(10_000_001, 0.1)
    total = fill(room.loss.sum_values, values, shapes=[(1,)], dtype="float64")[0]
    assert total == pytest.approx(1_000_000.1, rel=1e-15)  # one after the other: 2e-10


def test_infinity_and_nan_show_in_a_sum(room, fill):
    for bad in (np.inf, np.nan):
        for place in (0, 200, 299):
            values = np.ones(300)
            values[place] = bad
            total = fill(room.loss.sum_values, values, shapes=[(1,)], dtype="float64")[0]
            assert total == bad or np.isnan(total) == np.isnan(bad)


def test_weights_of_labels_are_picked(room, fill):
    weights, labels = np.array([0.5, 2.0, 0.0]), np.array([1, 0, 2, 1])
    picked = fill(room.loss.pick, weights, labels, shapes=[(4,)], dtype="float64")
    np.testing.assert_array_equal(picked, [2, 0.5, 0, 2])


@pytest.mark.parametrize(
    ("sums", "is_mean", "scale", "loss"),
    [((6, 4), True, 0.125, 0.75), ((6, 4), False, 0.5, 3), ((0, 0), True, 0.5, 0), ((np.inf, 2), True, 0.25, np.inf)],
)
def test_a_mean_divides_by_what_counts(room, fill, sums, is_mean, scale, loss):
    rule = np.array(sums, float), is_mean, 0.5
    got = fill(room.loss.weigh, *rule, shapes=[(1,), (1,)], dtype="float64")
    assert (got[0][0], got[1][0]) == (scale, loss)


@given(seed=st.integers(0, 9), size=SIZES)
def test_hits_and_known_labels_are_counted(room, fill, seed, size):
    rng = np.random.default_rng(seed)
    hits, labels = rng.integers(2, size=size).astype(np.int8), rng.integers(4, size=size)
    counts = fill(room.loss.count_hits, hits, labels, 3, shapes=[(2,)], dtype="float64")
    np.testing.assert_array_equal(counts, [hits.sum(), (labels < 3).sum()])


def test_signs_are_counted_where_they_fit_their_targets(room, fill):
    y, t = np.array([[1.0, -1, 0, np.nan], [2, -3, 1e-30, 5]]), np.array([[1.0, 0, 0, 0], [0.4, 1, 0.6, np.nan]])
    counts = fill(room.loss.count_signs, y, t, shapes=[(2,)], dtype="float64")
    np.testing.assert_array_equal(counts, [5, 8])
