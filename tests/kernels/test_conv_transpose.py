"""Transposed convolution: rooms against each other, PyTorch, the adjoint of convolution, differences, threads."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe
from sweeps import examples

from fastcnn.kernels.cpu.convolution.winograd.forward import ERROR_BOUND


class Spread(NamedTuple):
    """Filters laid from an image on a larger one, on three axes; `output` is what they give."""

    image: tuple[int, int, int]
    window: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int, int]
    output_padding: tuple[int, int, int]

    @property
    def output(self) -> tuple[int, ...]:
        return tuple(
            (size - 1) * step - before - after + apart * (taps - 1) + 1 + extra
            for size, taps, step, (before, after), apart, extra in zip(*self, strict=True)
        )

    @property
    def how(self):
        return self.stride, self.padding, self.dilation


@st.composite
def spreads(draw) -> Spread:
    """Draw filters in 1, 2 or 3 dimensions: strides over them, paddings that take all of a filter's reach."""
    rank = draw(st.integers(1, 3))
    axes = [(1, 1, 1, (0, 0), 1, 0)] * (3 - rank)
    for _ in range(rank):
        size, taps, step, apart = (draw(st.integers(1, most)) for most in (8, 5, 4, 3))
        extra = draw(st.integers(0, max(step, apart) - 1))
        reach = (size - 1) * step + apart * (taps - 1) + extra
        before = draw(st.integers(0, min(4, reach)))
        axes.append((size, taps, step, (before, draw(st.integers(0, min(4, reach - before)))), apart, extra))
    return Spread(*zip(*axes, strict=True))


@st.composite
def channels(draw):
    """Draw input channels, output channels and groups, depthwise and primes among them."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 7]))
    most = 100 if groups == 1 else 9
    return groups * draw(st.integers(1, most)), groups * draw(st.integers(1, most)), groups


def shapes(spread, N, C, K, groups):
    """Return the shapes of x, w and y."""
    return (N, *spread.image, C), (*spread.window, K // groups, C), (N, *spread.output, K)


def passes(conv_transpose, fill, how, relu, x, w, b, dy, algorithm="auto"):
    """Return y, dx, dw, db of one room."""
    problem = describe(dy, x, w, *how)

    def call(function, *inputs, shape):
        return fill(lambda *arrays: function(*arrays, algorithm), *inputs, problem, shapes=[shape], dtype=x.dtype)

    y = fill(
        lambda *arrays: conv_transpose.conv_transpose_forward(*arrays, algorithm),
        *(x, w, b, problem, relu),
        shapes=[dy.shape],
        dtype=x.dtype,
    )
    dx = call(conv_transpose.conv_transpose_backward_input, dy, w, shape=x.shape)
    dw = call(conv_transpose.conv_transpose_backward_weight, x, dy, shape=w.shape)
    db = fill(conv_transpose.conv_transpose_backward_bias, dy, shapes=[dy.shape[-1:]], dtype=x.dtype)
    return {"y": y, "dx": dx, "dw": dw, "db": db}


def check_rooms(reference, cpu, fill, how, relu, arrays):
    got = passes(cpu.conv_transpose, fill, how, relu, *arrays)
    want = passes(reference.conv_transpose, fill, how, relu, *arrays)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, name)


@examples(60)
@given(spread=spreads(), seed=st.integers(0, 9), N=st.integers(0, 3), sizes=channels(), data=st.data())
def test_rooms_agree_exactly(reference, cpu, fill, integers, dtype, spread, seed, N, sizes, data):
    C, K, groups = sizes
    x, w, dy = (integers(seed + i, s, dtype) for i, s in enumerate(shapes(spread, N, C, K, groups)))
    b = integers(seed, (K,), dtype) if data.draw(st.booleans(), "bias") else None
    relu = data.draw(st.booleans(), "relu")
    check_rooms(reference, cpu, fill, (*spread.how, groups), relu, (x, w, b, dy))


NO_PADDING = (0, 0)
LARGE = {
    "doubled": ((1, 14, 13), (1, 4, 4), (1, 2, 2), 1, 0, 40, 24, 1),
    "to three channels": ((1, 16, 17), (1, 5, 5), (1, 2, 2), 2, 1, 33, 3, 1),
    "to few channels at stride 1": ((1, 19, 21), (1, 5, 5), (1, 1, 1), 2, 0, 12, 5, 1),
    "strides over its filter": ((1, 12, 11), (1, 2, 2), (1, 3, 3), 0, 2, 17, 35, 1),
    "depthwise": ((1, 13, 15), (1, 4, 4), (1, 2, 2), 1, 0, 36, 36, 36),
    "volume": ((3, 4, 7), (3, 3, 3), (2, 2, 1), 1, 0, 19, 5, 1),
}


def large(name):
    image, window, stride, pad, extra, C, K, groups = LARGE[name]
    padding = tuple((pad, pad) if taps > 1 else NO_PADDING for taps in window)
    output_padding = tuple(min(extra, step - 1) for step in stride)
    return Spread(image, window, stride, padding, (1, 1, 1), output_padding), C, K, groups


@pytest.mark.parametrize("name", LARGE)
def test_layers_of_networks_are_exact(reference, cpu, fill, integers, name):
    spread, C, K, groups = large(name)
    x, w, dy = (integers(1, s, "float32") for s in shapes(spread, 9, C, K, groups))
    check_rooms(reference, cpu, fill, (*spread.how, groups), True, (x, w, integers(2, (K,), "float32"), dy))


@pytest.mark.parametrize("relu", [False, True])
def test_pixels_that_no_filter_reaches_hold_the_bias(room, fill, relu):
    x, w = np.ones((1, 1, 2, 2, 1)), np.full((1, 1, 1, 3, 1), 10.0)
    b, stride = np.array([1.0, -2.0, 3.0]), (1, 3, 2)
    shape = (1, 1, 6, 4, 3)
    problem = describe(shape, x, w, stride, (NO_PADDING,) * 3, (1, 1, 1))
    forward = room.conv_transpose.conv_transpose_forward
    y = fill(forward, x, w, b, problem, relu, shapes=[shape], dtype=x.dtype)
    want = np.tile(b, (6, 4, 1))
    want[::3, ::2] += 10
    np.testing.assert_array_equal(y[0, 0], np.maximum(want, 0) if relu else want)


@given(spread=spreads(), seed=st.integers(0, 9), N=st.integers(1, 2), sizes=channels())
@examples(40)
def test_reference_matches_pytorch(reference, fill, pytorch_passes, spread, seed, N, sizes):
    C, K, groups = sizes
    rng = np.random.default_rng(seed)
    x, w, dy = (rng.normal(size=s) for s in shapes(spread, N, C, K, groups))
    b = rng.normal(size=K)
    got = passes(reference.conv_transpose, fill, (*spread.how, groups), False, x, w, b, dy)

    def laid(torch, x, w, b):
        how = {"stride": spread.stride, "output_padding": spread.output_padding, "dilation": spread.dilation}
        whole = torch.nn.functional.conv_transpose3d(x, w, b, groups=groups, **how)
        (d0, _), (h0, _), (w0, _) = spread.padding
        D, H, W = spread.output
        return whole[:, :, d0 : d0 + D, h0 : h0 + H, w0 : w0 + W]

    want = pytorch_passes(laid, x, w, b, dy)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


@given(spread=spreads(), seed=st.integers(0, 9), sizes=channels())
@examples(30)
def test_it_is_the_adjoint_of_convolution(room, fill, integers, spread, seed, sizes):
    """<conv(u), x> = <u, conv_transpose(x)> and <dy, y> = <dx, x> = <dw, w>, exactly, on whole numbers."""
    C, K, groups = sizes
    to_x, to_w, to_y = shapes(spread, 2, C, K, groups)
    x, w, dy = (integers(seed + i, s) for i, s in enumerate((to_x, to_w, to_y)))
    how = (*spread.how, groups)
    got = passes(room.conv_transpose, fill, how, False, x, w, None, dy)
    convolved = fill(room.conv.conv_forward, dy, w, None, describe(dy, x, w, *how), False, shapes=[to_x], dtype=x.dtype)
    product = np.vdot(dy, got["y"])
    assert product == np.vdot(convolved, x) == np.vdot(got["dx"], x) == np.vdot(got["dw"], w)


def test_gradients_are_finite_differences(room, fill, differences):
    spread = Spread((2, 3, 4), (2, 3, 2), (1, 2, 3), ((0, 1), (2, 0), (1, 1)), (1, 1, 2), (0, 1, 2))
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=s) for s in shapes(spread, 2, 4, 6, 2))
    b, how = rng.normal(size=6), (*spread.how, 2)
    got = passes(room.conv_transpose, fill, how, False, x, w, b, dy)

    def loss():
        y = np.empty_like(dy)
        room.conv_transpose.conv_transpose_forward(x, w, b, describe(y, x, w, *how), False, y)
        return np.vdot(dy, y)

    for array, name in ((x, "dx"), (w, "dw"), (b, "db")):
        # The loss is linear in each array: a long step loses nothing and rounds less.
        want = differences(loss, array, step=1.0)
        np.testing.assert_allclose(got[name], want, rtol=1e-10, atol=1e-10, err_msg=name)


def rms(a):
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))


@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 0), (0, 2))])
@pytest.mark.parametrize("relu", [False, True])
def test_error_of_winograd_is_bounded(reference, cpu, fill, pads, relu):
    spread = Spread((1, 13, 11), (1, 3, 3), (1, 1, 1), (NO_PADDING, *pads), (1, 1, 1), (0, 0, 0))
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=s) for s in shapes(spread, 2, 37, 20, 1)]
    arrays.insert(2, rng.normal(size=20))
    how = (*spread.how, 1)
    narrow = (a.astype("float32") for a in arrays)
    got = passes(cpu.conv_transpose, fill, how, relu, *narrow, algorithm="winograd")
    want = passes(reference.conv_transpose, fill, how, relu, *arrays)
    for name in ("y", "dx", "dw"):
        assert rms(got[name] - want[name]) <= ERROR_BOUND * rms(want[name]), name


@pytest.mark.parametrize("name", LARGE)
def test_thread_count_changes_no_bit(cpu, fill, with_threads, name):
    spread, C, K, groups = large(name)
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=s).astype("float32") for s in shapes(spread, 17, C, K, groups))
    b, how = rng.normal(size=K).astype("float32"), (*spread.how, groups)
    runs = [with_threads(n, lambda: passes(cpu.conv_transpose, fill, how, True, x, w, b, dy)) for n in (1, 2)]
    for key, value in runs[0].items():
        assert value.tobytes() == runs[1][key].tobytes(), key
