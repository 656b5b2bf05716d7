"""ReLU: rooms against the definition, signs of zero, NaN, in place, threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sweeps import examples

from fastcnn.kernels.cpu.elementwise.functions import PAIRS
from fastcnn.kernels.cpu.runtime.cpu_info import CacheSizes
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.cpu.simd import streaming
from fastcnn.kernels.reference import activation as definition

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
    np.testing.assert_array_equal(dx, np.repeat(np.array([1, 0, 0, 0, 0, 1, 1], dtype), copies))


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


NUMBERS = {"leaky_relu": (0.2,), "elu": (0.7,), "softplus": (3.0, 20.0), "soft_abs": (3.0,)}
FROM_OUTPUT = {"relu", "relu6", "sigmoid", "tanh"}
KINDS = tuple(PAIRS)
INF, NAN = np.inf, np.nan
LN2 = np.log(2)
# x, then y and dy / dx by kind: limits, and no overflow on the way
FAR = (-INF, -3e38, -1e4, 1e4, 3e38, INF)
LIKE_RELU = (0, 0, 0, 1e4, 3e38, INF), (0, 0, 0, 1, 1, 1)  # all others
LIMITS = {
    "relu6": ((0, 0, 0, 6, 6, 6), (0,) * 6),
    "leaky_relu": ((-INF, -6e37, -2e3, 1e4, 3e38, INF), (0.2, 0.2, 0.2, 1, 1, 1)),
    "elu": ((-0.7, -0.7, -0.7, 1e4, 3e38, INF), (0, 0, 0, 1, 1, 1)),
    "sigmoid": ((0, 0, 0, 1, 1, 1), (0,) * 6),
    "tanh": ((-1, -1, -1, 1, 1, 1), (0,) * 6),
    "abs": ((INF, 3e38, 1e4, 1e4, 3e38, INF), (-1, -1, -1, 1, 1, 1)),
    "soft_abs": ((INF, 3e38, 1e4 - LN2 / 1.5, 1e4 - LN2 / 1.5, 3e38, INF), (-1, -1, -1, 1, 1, 1)),
}
SLOPE_AT_ZERO = {"relu": 0, "relu6": 0, "leaky_relu": 0.2, "elu": 0.7}  # of functions that bend there


def both(module, kind, x, dy, numbers=None):
    """Return y and dx of an activation."""
    y, dx, numbers = np.full_like(x, NAN), np.full_like(x, NAN), NUMBERS.get(kind, ()) if numbers is None else numbers
    with np.errstate(all="ignore"):
        getattr(module, f"{kind}_forward")(x, *numbers, y)
        getattr(module, f"{kind}_backward_input")(y if kind in FROM_OUTPUT else x, dy, *numbers, dx)
    return y, dx


def at_zero(kind):
    """Return y and dy / dx at 0: the derivative from both sides by finite differences, in float64."""
    h = 1e-5
    (left, y, right), _ = both(definition, kind, np.array([-h, 0, h]), np.ones(3))
    return y, SLOPE_AT_ZERO.get(kind, (right - left) / (2 * h))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copies", [1, 37])
def test_limits_and_zero(room, kind, dtype, copies):
    x = np.repeat(np.array((*FAR, -0.0, 0.0), dtype), copies)
    y, dx = both(room.activation, kind, x, np.ones_like(x))
    for got, far, near in zip((y, dx), LIMITS.get(kind, LIKE_RELU), at_zero(kind), strict=True):
        want = np.repeat(np.array((*far, near, near), dtype), copies)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_passes_alone(room, kind, dtype):
    x = np.linspace(-3, 3, 41).astype(dtype)
    x[7] = NAN
    y, dx = both(room.activation, kind, x, np.ones_like(x))
    assert list(np.flatnonzero(np.isnan(y))) == [7]
    assert set(np.flatnonzero(np.isnan(dx))) <= {7}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0,), (1,), (7, 5), (3, 4, 5), (2, 70_001)], ids=str)
def test_every_size_and_in_place(cpu, reference, kind, dtype, shape):
    x, dy = np.random.default_rng(0).normal(0, 4, (2, *shape)).astype(dtype)
    wanted = both(reference.activation, kind, x, dy)
    for got, want in zip(both(cpu.activation, kind, x, dy), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=40 * np.finfo(dtype).eps)
    y, dx, numbers = x.copy(), dy.copy(), NUMBERS.get(kind, ())
    getattr(cpu.activation, f"{kind}_forward")(y, *numbers, y)
    getattr(cpu.activation, f"{kind}_backward_input")(y if kind in FROM_OUTPUT else x, dx, *numbers, dx)
    for got, want in zip((y, dx), both(cpu.activation, kind, x, dy), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", [*KINDS, "softmax", "log_softmax"])
@examples(60)
@given(data=st.data())
def test_any_shape_and_any_numbers(cpu, reference, kind, data):
    shape = data.draw(array_shapes(min_dims=1, max_dims=4, max_side=21))
    numbers = st.floats(-100, 100, width=32) | st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1e4, -1e4])
    x, dy = (data.draw(arrays(np.float64, shape, elements=e)) for e in (numbers, st.floats(-3, 3, width=32)))
    passes = softmaxes if kind.endswith("softmax") else both
    for got, want in zip(passes(cpu.activation, kind, x, dy), passes(reference.activation, kind, x, dy), strict=True):
        scale = np.abs(want[np.isfinite(want)]).max(initial=1)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_good_to_a_few_units_in_the_last_place(cpu, reference, kind):
    sign = np.random.default_rng(0).choice([-1, 1], 20_000)
    x = (sign * 10 ** np.random.default_rng(1).uniform(-6, 1.2, 20_000)).astype("float32")
    numbers = {"softplus": (2.0, 20.0), "soft_abs": (2.0,)}.get(kind)  # k x is exact
    exact, _ = both(reference.activation, kind, x.astype("float64"), np.ones(x.shape), numbers)
    y, _ = both(cpu.activation, kind, x, np.ones_like(x), numbers)
    normal = np.abs(exact) > 1e-36  # kernels take what is below the smallest normal number as 0
    error = np.abs(y - exact)[normal] / np.spacing(np.abs(exact[normal]).astype("float32"))
    # In the tail of GELU's approximation, exp(-u), the four roundings of u, half a unit each, cost u times as much.
    exponent = np.maximum(0, -np.log(np.abs(exact / x)[normal])) if kind == "gelu_tanh" else 0
    assert (error < 5 + 4 * exponent).all()
    assert np.sqrt(np.mean((error / (1 + exponent)) ** 2)) < 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_depends_on_threads(cpu, kind, with_threads):
    x, dy = np.random.default_rng(0).normal(0, 3, (2, 100_003)).astype("float32")

    def run():
        return [a.tobytes() for a in both(cpu.activation, kind, x, dy)]

    assert with_threads(1, run) == with_threads(2, run)


def softmaxes(module, kind, x, dy):
    y, dx = np.full_like(x, NAN), np.full_like(x, NAN)
    with np.errstate(all="ignore"):
        getattr(module, f"{kind}_forward")(x, y)
        getattr(module, f"{kind}_backward_input")(y, dy, dx)
    return y, dx


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "shape", [(0, 3), (5, 1), (7, 2), (3, 10), (2, 3, 21), (4, 64), (3, 131), (700, 100), (2, 5000)]
)
def test_softmax_against_the_reference(cpu, reference, fill, kind, dtype, shape):
    x, dy = np.random.default_rng(0).normal(0, 4, (2, *shape)).astype(dtype)
    y = fill(getattr(cpu.activation, f"{kind}_forward"), x, shapes=[shape], dtype=dtype)
    dx = fill(getattr(cpu.activation, f"{kind}_backward_input"), y, dy, shapes=[shape], dtype=dtype)
    wanted = softmaxes(reference.activation, kind, x.astype("float64"), dy.astype("float64")) if x.size else (y, dx)
    for got, want in zip((y, dx), wanted, strict=True):
        largest = np.abs(want).max(initial=1)
        np.testing.assert_allclose(got, want, rtol=0, atol=20 * np.finfo(dtype).eps * largest)


@pytest.mark.parametrize("C", [3, 200])
def test_softmax_far_from_zero(room, dtype, C):
    x = np.zeros((4, C), dtype)
    x[0], x[1, 1], x[2, 1], x[3, 1] = -1e4, 1e4, -INF, NAN
    y, _ = softmaxes(room.activation, "softmax", x, np.ones_like(x))
    log, _ = softmaxes(room.activation, "log_softmax", x, np.ones_like(x))
    even, one = np.full(C, 1 / C), np.eye(C)[1]
    np.testing.assert_allclose(y[:3], [even, one, (1 - one) / (C - 1)], rtol=1e-6)
    np.testing.assert_allclose(log[0], -np.log(C), rtol=1e-6)
    np.testing.assert_array_equal(log[1], 1e4 * (one - 1))
    assert log[2, 1] == -INF
    assert np.isnan(y[3]).all()
    assert np.isnan(log[3]).all()


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
@pytest.mark.parametrize("C", [10, 300])
def test_no_bit_of_softmax_depends_on_threads(cpu, kind, C, with_threads):
    x, dy = np.random.default_rng(0).normal(0, 3, (2, 900, C)).astype("float32")

    def run():
        return [a.tobytes() for a in softmaxes(cpu.activation, kind, x, dy)]

    assert with_threads(1, run) == with_threads(2, run)


@pytest.mark.parametrize(
    "shape", [(0, 3), (1, 1), (5, 1), (4, 5, 3), (2, 3, 4, 64), (3, 2500), (70_000, 1), (900, 130)]
)
def test_gain_is_exact(room, fill, integers, dtype, shape):
    x, dy, g = integers(0, shape, dtype), integers(1, shape, dtype), integers(2, shape[-1:], dtype)
    y = fill(room.activation.gain_forward, x, g, shapes=[shape], dtype=dtype)
    dx = fill(room.activation.gain_backward_input, g, dy, shapes=[shape], dtype=dtype)
    dg = fill(room.activation.gain_backward_weight, x, dy, shapes=[g.shape], dtype=dtype)
    np.testing.assert_array_equal(y, x * g)
    np.testing.assert_array_equal(dx, dy * g)
    np.testing.assert_array_equal(dg, (x * dy).reshape(-1, g.size).sum(axis=0))


def test_no_bit_of_gains_gradient_depends_on_threads(cpu, with_threads):
    x, dy = np.random.default_rng(0).normal(size=(2, 20_000, 12)).astype("float32")

    def run():
        dg = np.empty(12, "float32")
        cpu.activation.gain_backward_weight(x, dy, dg)
        return dg.tobytes()

    assert with_threads(1, run) == with_threads(2, run)


def square(x):
    return x * x


def twice(x):
    return x + x


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (300, 301)], ids=str)
def test_users_functions(room, fill, integers, dtype, shape):
    x, dy = integers(0, shape, dtype), integers(1, shape, dtype)

    def kernel(name, function):
        return lambda *arrays: getattr(room.activation, name)(*arrays[:-1], function, arrays[-1])

    y = fill(kernel("elementwise_forward", square), x, shapes=[shape], dtype=dtype)
    dx = fill(kernel("elementwise_backward_input", twice), x, dy, shapes=[shape], dtype=dtype)
    np.testing.assert_array_equal(y, x * x)
    np.testing.assert_array_equal(dx, 2 * x * dy)


@pytest.mark.parametrize("wrong", [lambda x: None, lambda x: x.no_such, lambda x, y: x, lambda: 1.0])
def test_a_users_wrong_function_is_told(room, wrong):
    with pytest.raises(ValueError, match=r"df .*one float32"):
        room.activation.elementwise_check(square, wrong, np.dtype("float32"))


@pytest.mark.parametrize("size", [1, 255, 256 * 7, 70_070])
@pytest.mark.parametrize("lead", [0, 3])  # elements of y on the cache line that it begins on
def test_outputs_past_the_caches(cpu, monkeypatch, integers, dtype, lead, size):
    monkeypatch.setattr(streaming, "cache_bytes", lambda: CacheSizes(0, 0, 0))
    x, dy = integers(0, (size,), dtype), integers(1, (size,), dtype)
    room = aligned_empty(lead + size + 1, np.dtype(dtype))
    room.fill(np.nan)
    y = room[lead:-1]
    cpu.activation.relu_forward(x, y)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    cpu.activation.abs_backward_input(x, dy, y)
    np.testing.assert_array_equal(y, np.sign(x) * dy)
    for channels in (1, 7, 1001):
        if size % channels == 0:
            gains, shape = integers(2, (channels,), dtype), (-1, channels)
            cpu.activation.gain_forward(x.reshape(shape), gains, y.reshape(shape))
            np.testing.assert_array_equal(y.reshape(shape), gains * x.reshape(shape))
    assert np.isnan([*room[:lead], room[-1]]).all()
    cpu.activation.relu_forward(x, x)
    np.testing.assert_array_equal(x, np.maximum(integers(0, (size,), dtype), 0))


@pytest.mark.parametrize(
    "shape", [(0, 3), (1, 1), (5, 7, 3), (2, 40, 41, 20), (130, 501), (7, 3000), (3000, 64)], ids=str
)
@pytest.mark.parametrize(("kernel", "numbers"), [("relu", ()), ("relu6", ()), ("leaky_relu", (0.1,))])
def test_gradient_with_sums_is_both_passes(room, with_threads, dtype, shape, kernel, numbers):
    """The same bits as the gradient, then its sums, for any number of threads."""
    rng = np.random.default_rng(0)
    kept, dy = (rng.normal(size=shape, scale=4).astype(dtype) for _ in range(2))
    want, sums = np.empty_like(dy), np.full(shape[-1], np.nan, dtype)
    getattr(room.activation, f"{kernel}_backward_input")(kept, dy, *numbers, want)
    room.linear.linear_backward_bias(want.reshape(-1, shape[-1]), sums)
    for threads in (1, 2):
        dx, db = dy.copy(), np.full(shape[-1], np.nan, dtype)
        with_threads(threads, lambda dx=dx, db=db: room.activation.backward_with_sums(kernel, kept, dx, numbers, db))
        assert dx.tobytes() == want.tobytes()
        assert db.tobytes() == sums.tobytes()
