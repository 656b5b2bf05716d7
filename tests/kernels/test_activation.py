"""ReLU: rooms against the definition, signs of zero, NaN, in place, threads."""

import numpy as np
import pytest

SIZES = [(0,), (1,), (0, 3), (7, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5), (40, 41, 42), (3, 1 << 17)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_definition(room, fill, integers, dtype, shape):
    x, dy = integers(0, shape, dtype), integers(1, shape, dtype)
    y = fill(room.activation.relu_forward, x, shapes=[shape], dtype=dtype)
    np.testing.assert_array_equal(y, np.where(x > 0, x, 0))
    dx = fill(room.activation.relu_backward_input, y, dy, shapes=[shape], dtype=dtype)
    np.testing.assert_array_equal(dx, np.where(x > 0, dy, 0))


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_in_place(room, integers, dtype, shape):
    x, dy = integers(0, shape, dtype), integers(1, shape, dtype)
    y, dx = x.copy(), dy.copy()
    room.activation.relu_forward(y, y)
    np.testing.assert_array_equal(y, np.where(x > 0, x, 0))
    room.activation.relu_backward_input(y, dx, dx)
    np.testing.assert_array_equal(dx, np.where(x > 0, dy, 0))


@pytest.mark.parametrize("copies", [1, 16, 37])
def test_zero_infinity_and_nan(room, fill, dtype, copies):
    x = np.repeat(np.array([np.nan, -np.inf, -1.0, -0.0, 0.0, 1.0, np.inf], dtype), copies)
    y = fill(room.activation.relu_forward, x, shapes=[x.shape], dtype=dtype)
    want = np.repeat(np.array([np.nan, 0.0, 0.0, 0.0, 0.0, 1.0, np.inf], dtype), copies)
    np.testing.assert_array_equal(y, want)
    ones = np.ones_like(x)
    dx = fill(room.activation.relu_backward_input, x, ones, shapes=[x.shape], dtype=dtype)
    np.testing.assert_array_equal(dx, np.repeat(np.array([0, 0, 0, 0, 0, 1, 1], dtype), copies))


def test_gradient_of_a_cut_element_is_zero_even_where_dy_is_nan(room, fill, dtype):
    y, dy = np.array([0.0, 1.0], dtype), np.array([np.nan, np.nan], dtype)
    dx = fill(room.activation.relu_backward_input, y, dy, shapes=[(2,)], dtype=dtype)
    np.testing.assert_array_equal(dx, [0.0, np.nan])


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    x, dy = np.random.default_rng(0).normal(size=(2, 300_001)).astype("float32")

    def run():
        y = fill(cpu.activation.relu_forward, x, shapes=[x.shape], dtype=x.dtype)
        dx = fill(cpu.activation.relu_backward_input, y, dy, shapes=[x.shape], dtype=x.dtype)
        return y.tobytes(), dx.tobytes()

    assert with_threads(1, run) == with_threads(2, run)
