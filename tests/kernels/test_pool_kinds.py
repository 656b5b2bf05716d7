"""Norms, weighted means, adaptive windows, positions, unpooling and interpolation: rooms, differences, threads."""

import importlib
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CHANNELS = st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 100]))
NEAR = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(scope="session")
def rooms():
    """Return (reference, cpu), each with its modules of pooling and resampling."""
    return [
        SimpleNamespace(
            **{name: importlib.import_module(f"fastcnn.kernels.{room}.{name}") for name in ("pool", "resample")}
        )
        for room in ("reference", "cpu")
    ]


def close(got, want, dtype):
    bound = NEAR[np.dtype(dtype).name]
    np.testing.assert_allclose(got, want, rtol=bound, atol=bound * max(1, np.abs(want).max(initial=0)))


@st.composite
def adaptive_sizes(draw):
    """Draw (image, output) in 1, 2 or 3 dimensions: outputs may be fewer or more than pixels, or divide them."""
    rank = draw(st.integers(1, 3))
    image = (1,) * (3 - rank) + tuple(draw(st.integers(1, 9)) for _ in range(rank))
    output = tuple(draw(st.one_of(st.integers(1, 10), st.just(size))) for size in image)
    return image, (1,) * (3 - rank) + output[3 - rank :]


def adaptive_maximum(pool, fill, x, dy):
    """Return y, winner, dx and positions."""
    y, winner = fill(pool.adaptive_max_pool_forward, x, shapes=[dy.shape] * 2, dtype=[x.dtype, np.int32])
    dx = fill(pool.adaptive_max_pool_backward_input, dy, winner, shapes=[x.shape], dtype=x.dtype)
    at = fill(pool.adaptive_max_pool_positions, winner, x.shape[1:4], shapes=[dy.shape], dtype=[np.int64])
    return y, winner, dx, at


def adaptive_mean(pool, fill, x, dy):
    """Return y and dx."""
    y = fill(pool.adaptive_avg_pool_forward, x, shapes=[dy.shape], dtype=x.dtype)
    return y, fill(pool.adaptive_avg_pool_backward_input, dy, shapes=[x.shape], dtype=x.dtype)


@given(sizes=adaptive_sizes(), seed=st.integers(0, 9), N=st.integers(0, 3), C=CHANNELS, holes=st.booleans())
@settings(max_examples=100)
def test_adaptive_rooms_agree(rooms, fill, integers, dtype, sizes, seed, N, C, holes):
    image, output = sizes
    x, dy = integers(seed, (N, *image, C), dtype), integers(seed + 1, (N, *output, C), dtype)
    spoiled = x.copy()
    if holes:
        random = np.random.default_rng(seed).random(x.shape)
        spoiled[random < 0.3], spoiled[random > 0.9] = -np.inf, np.nan
    want, got = (adaptive_maximum(room.pool, fill, spoiled, dy) for room in rooms)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    want, got = (adaptive_mean(room.pool, fill, x, dy) for room in rooms)
    for one, other in zip(got, want, strict=True):
        close(one, other, dtype)


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(0, 2), C=CHANNELS)
@settings(max_examples=60)
def test_positions_find_the_maxima(rooms, fill, integers, draw_geometry, data, seed, N, C):
    g = data.draw(draw_geometry())
    x = integers(seed, (N, *g.image, C))
    how = (g.window, g.stride, g.padding, g.dilation)
    shape = (N, *g.output, C)
    y, winner = fill(rooms[1].pool.max_pool_forward, x, *how, shapes=[shape] * 2, dtype=[x.dtype, np.int32])
    want, got = (
        fill(room.pool.max_pool_positions, winner, *how, g.image, shapes=[shape], dtype=[np.int64]) for room in rooms
    )
    np.testing.assert_array_equal(got, want)
    seen = np.isfinite(y)  # windows that lie in the padding alone are minus infinity, and nowhere
    pixels, places = x.reshape(N, prod(g.image), C), np.where(seen, got, 0).reshape(N, prod(g.output), C)
    flat = np.take_along_axis(pixels, places, 1)
    np.testing.assert_array_equal(flat.reshape(shape)[seen], y[seen])


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(0, 2), C=CHANNELS, power=st.sampled_from([1, 2, 3, 1.5]))
@settings(max_examples=60)
def test_norm_rooms_agree(rooms, fill, integers, draw_geometry, dtype, data, seed, N, C, power):
    g = data.draw(draw_geometry(dilated=False))
    outputs = tuple(
        max(1, (size - taps) // step + 1) for size, taps, step in zip(g.image, g.window, g.stride, strict=True)
    )
    x, dy = integers(seed, (N, *g.image, C), dtype, 1), integers(seed + 1, (N, *outputs, C), dtype)
    results = []
    for room in rooms:
        y = fill(room.pool.lp_pool_forward, x, power, g.window, g.stride, shapes=[dy.shape], dtype=x.dtype)
        back = room.pool.lp_pool_backward_input
        results.append((y, fill(back, x, y, dy, power, g.window, g.stride, shapes=[x.shape], dtype=x.dtype)))
    for one, other in zip(*results[::-1], strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_gradient_of_a_norm_that_is_zero_is_zero(room, fill, power):
    x = np.zeros((1, 1, 2, 2, 3))
    y = fill(room.pool.lp_pool_forward, x, power, (1, 2, 2), (1, 2, 2), shapes=[(1, 1, 1, 1, 3)], dtype=x.dtype)
    args = (x, y, np.ones_like(y), power, (1, 2, 2), (1, 2, 2))
    dx = fill(room.pool.lp_pool_backward_input, *args, shapes=[x.shape], dtype=x.dtype)
    assert not y.any()
    assert not dx.any()


def test_a_power_does_not_overflow_where_the_pixels_are_tiny(room, fill):
    """dx = dy sign(x) (|x| / y)^2 is of order 1, and y^-2 alone would be infinite in float32."""
    x = np.full((1, 1, 1, 2, 1), 1e-13, "float32")
    x[..., 1, :] *= -1
    rule = 3.0, (1, 1, 2), (1, 1, 2)
    y = fill(room.pool.lp_pool_forward, x.astype("float64"), *rule, shapes=[(1, 1, 1, 1, 1)], dtype="float64")
    args = x, y.astype("float32"), np.ones((1, 1, 1, 1, 1), "float32"), *rule
    dx = fill(room.pool.lp_pool_backward_input, *args, shapes=[x.shape], dtype=x.dtype)
    np.testing.assert_allclose(dx.ravel(), [2 ** (-2 / 3), -(2 ** (-2 / 3))], rtol=1e-5)


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(0, 2), C=CHANNELS)
@settings(max_examples=60)
def test_gaussian_rooms_agree_and_keep_an_even_image(rooms, fill, draw_geometry, dtype, data, seed, N, C):
    g = data.draw(draw_geometry(dilated=False))
    sigma = data.draw(st.tuples(*[st.floats(0.3, 4)] * 3))
    random = np.random.default_rng(seed)
    x, dy = (random.standard_normal((N, *size, C)).astype(dtype) for size in (g.image, g.output))
    rule = (g.window, g.stride, g.padding, sigma)
    results = []
    for room in rooms:
        y = fill(room.pool.gaussian_pool_forward, x, *rule, shapes=[dy.shape], dtype=x.dtype)
        dx = fill(room.pool.gaussian_pool_backward_input, dy, *rule, shapes=[x.shape], dtype=x.dtype)
        results.append((y, dx))
        even = fill(room.pool.gaussian_pool_forward, np.ones_like(x), *rule, shapes=[dy.shape], dtype=x.dtype)
        assert np.all((np.abs(even - 1) < 1e-5) | (even == 0))  # 0: a window in the padding alone
    for one, other in zip(*results[::-1], strict=True):
        close(one, other, dtype)


@given(
    sizes=adaptive_sizes(), seed=st.integers(0, 9), N=st.integers(0, 2), C=CHANNELS, corners=st.booleans(),
    mode=st.sampled_from(["nearest", "linear"]), scale=st.sampled_from([0.0, 1.7, 2.0]),
)  # fmt: skip
@settings(max_examples=80)
def test_interpolation_rooms_agree(rooms, fill, dtype, sizes, seed, N, C, corners, mode, scale):
    image, output = sizes
    if scale:
        output = tuple(max(1, int(size * scale)) for size in image)
    how = ((mode, corners and mode == "linear", scale),) * 3
    random = np.random.default_rng(seed)
    x, dy = (random.standard_normal((N, *size, C)).astype(dtype) for size in (image, output))
    results = []
    for room in rooms:
        y = fill(room.resample.upsample_forward, x, how, shapes=[dy.shape], dtype=x.dtype)
        dx = fill(room.resample.upsample_backward_input, dy, how, shapes=[x.shape], dtype=x.dtype)
        results.append((y, dx))
        bound = 1e-4 if dtype == np.float32 else 1e-10
        assert abs(np.vdot(dy, y) - np.vdot(dx, x)) <= bound * max(1, np.abs(dy).sum())
    for one, other in zip(*results[::-1], strict=True):
        close(one, other, dtype)


@given(seed=st.integers(0, 99), N=st.integers(0, 9), C=st.integers(1, 40), size=st.integers(1, 30))
@settings(max_examples=60)
def test_unpooling_rooms_agree(rooms, fill, integers, dtype, seed, N, C, size):
    """Positions met twice, and such as lie outside, which are left out."""
    pixels = 7
    x, dy = integers(seed, (N, 1, 1, pixels, C), dtype), integers(seed, (N, 1, 1, size, C), dtype)
    at = np.random.default_rng(seed).integers(-1, size + 1, x.shape).astype(dtype)
    results = []
    for room in rooms:
        y = fill(room.resample.max_unpool_forward, x, at, shapes=[dy.shape], dtype=x.dtype)
        results.append((y, fill(room.resample.max_unpool_backward_input, dy, at, shapes=[x.shape], dtype=x.dtype)))
    for one, other in zip(*results[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_thread_count_changes_no_bit(cpu, rooms, fill, with_threads):
    random = np.random.default_rng(0)
    x, y = (random.standard_normal(shape).astype("float32") for shape in ((3, 1, 45, 50, 37), (3, 1, 22, 25, 37)))
    at = random.integers(0, 45 * 50, y.shape).astype("float32")
    pool, resample = rooms[1].pool, rooms[1].resample
    window, stride, pads, how = (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)), (("linear", False, 0.0),) * 3

    def run():
        norm = fill(pool.lp_pool_forward, x, 2, (1, 3, 2), stride, shapes=[y.shape], dtype=x.dtype)
        return [
            norm,
            fill(pool.lp_pool_backward_input, x, norm, y, 2, (1, 3, 2), stride, shapes=[x.shape], dtype=x.dtype),
            fill(pool.gaussian_pool_forward, x, window, stride, pads, (1.0, 0.7, 0.7), shapes=[y.shape], dtype=x.dtype),
            fill(pool.adaptive_avg_pool_forward, x, shapes=[(3, 1, 7, 6, 37)], dtype=x.dtype),
            fill(pool.adaptive_avg_pool_forward, x[:1], shapes=[(1, 1, 1, 1, 37)], dtype=x.dtype),
            fill(resample.upsample_backward_input, x, how, shapes=[y.shape], dtype=x.dtype),
            fill(resample.max_unpool_forward, y, at, shapes=[x.shape], dtype=x.dtype),
            fill(resample.max_unpool_backward_input, x, at, shapes=[y.shape], dtype=x.dtype),
        ]

    for one, two in zip(with_threads(1, run), with_threads(2, run), strict=True):
        assert one.tobytes() == two.tobytes()


def test_many_channels_of_few_rows_are_cut_into_tasks(rooms, fill, integers):
    """One image, one window: the tasks are parts of the channels, the last of them narrower than a vector."""
    x, dy = integers(0, (1, 1, 7, 7, 2053), "float32"), integers(1, (1, 1, 1, 1, 2053), "float32") * 49
    want, got = (adaptive_maximum(room.pool, fill, x, dy) for room in rooms)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    want, got = (adaptive_mean(room.pool, fill, x, dy) for room in rooms)
    close(got[0], want[0], "float32")
    np.testing.assert_array_equal(got[1], want[1])


def test_maxima_beside_both_infinities(rooms, fill):
    """Their sum is no number, as that of a NaN: the maximum must not be taken for one."""
    x = np.zeros((1, 1, 2, 2, 20), "float32")
    x[0, 0, 0, 0], x[0, 0, 1, 1] = np.inf, -np.inf
    for room in rooms:
        y, winner, *_ = adaptive_maximum(room.pool, fill, x, np.ones((1, 1, 1, 1, 20), "float32"))
        assert np.all(y == np.inf)
        assert not winner.any()
