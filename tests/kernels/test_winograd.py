"""Winograd's convolution: its error by norm, its edges, its choice by shape, threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcnn.kernels.cpu.winograd import ERROR_BOUND

ONE = (1, 1, 1)


def rms(a):
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))


def problem(seed, N, H, W, C, K, pads):
    """Return x, w, b, dy in float64 and how the convolution is padded."""
    (top, bottom), (left, right) = pads
    rng = np.random.default_rng(seed)
    to_y = (N, 1, H + top + bottom - 2, W + left + right - 2, K)
    shapes = ((N, 1, H, W, C), (1, 3, 3, C, K), (K,), to_y)
    return [rng.normal(size=shape) for shape in shapes], (ONE, ((0, 0), *pads), ONE, 1)


def passes(conv, fill, arrays, how, relu, dtype, algorithm):
    """Return y, dx and dw of one room and dtype."""
    x, w, b, dy = (a.astype(dtype) for a in arrays)
    forward = lambda *inputs: conv.conv_forward(*inputs, algorithm)  # noqa: E731
    backward = lambda *inputs: conv.conv_backward_input(*inputs, algorithm)  # noqa: E731
    y = fill(forward, x, w, b, *how, relu, shapes=[dy.shape], dtype=dtype)
    weight = lambda *inputs: conv.conv_backward_weight(*inputs, algorithm)  # noqa: E731
    dx = fill(backward, dy, w, *how, shapes=[x.shape], dtype=dtype)
    return y, dx, fill(weight, x, dy, *how, shapes=[w.shape], dtype=dtype)


@given(
    seed=st.integers(0, 9),
    N=st.integers(1, 3),
    H=st.integers(3, 19),
    W=st.integers(3, 19),
    C=st.integers(1, 70),
    K=st.integers(1, 70),
    pads=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    relu=st.booleans(),
)
@settings(max_examples=80)
def test_error_is_bounded_on_any_shape(reference, cpu, fill, seed, N, H, W, C, K, pads, relu):
    arrays, how = problem(seed, N, H, W, C, K, pads)
    got = passes(cpu.conv, fill, arrays, how, relu, "float32", "winograd")
    want = passes(reference.conv, fill, arrays, how, relu, "float64", "direct")
    for name, mine, exact in zip(("y", "dx", "dw"), got, want, strict=True):
        assert rms(mine - exact) <= ERROR_BOUND * rms(exact), name


def test_weight_gradient_of_many_patches_stays_bounded(cpu, fill):
    """Several groups of patches: each is summed by itself."""
    arrays, how = problem(7, 3, 112, 112, 96, 100, ((1, 1), (1, 1)))
    got = passes(cpu.conv, fill, arrays, how, False, "float32", "winograd")
    want = passes(cpu.conv, fill, arrays, how, False, "float64", "direct")
    for name, mine, exact in zip(("y", "dx", "dw"), got, want, strict=True):
        assert rms(mine - exact) <= ERROR_BOUND * rms(exact), name


@pytest.mark.parametrize("C", [1, 64, 256, 1024])
def test_error_stays_bounded_with_many_channels(cpu, fill, C):
    arrays, how = problem(C, 1, 12, 12, C, 32, ((1, 1), (1, 1)))
    got = passes(cpu.conv, fill, arrays, how, False, "float32", "winograd")
    want = passes(cpu.conv, fill, arrays, how, False, "float64", "direct")
    direct = passes(cpu.conv, fill, arrays, how, False, "float32", "direct")
    for mine, plain, exact in zip(got, direct, want, strict=True):
        assert rms(mine - exact) <= ERROR_BOUND * rms(exact)
        assert rms(plain - exact) < rms(mine - exact), "direct sums are the more exact ones"


def test_large_filters_are_turned_and_cut_into_panels(cpu, fill):
    """More than two panels of output channels, and channel counts that fill no vector."""
    arrays, how = problem(3, 2, 10, 9, 75, 101, ((1, 1), (1, 1)))
    got = passes(cpu.conv, fill, arrays, how, True, "float32", "winograd")
    want = passes(cpu.conv, fill, arrays, how, True, "float64", "direct")
    for mine, exact in zip(got, want, strict=True):
        assert rms(mine - exact) <= ERROR_BOUND * rms(exact)


def test_auto_takes_the_faster_way_and_direct_stays_exact(cpu, reference, fill, integers):
    shape, filters, how = (4, 1, 56, 56, 32), (1, 3, 3, 32, 48), (ONE, ((0, 0), (1, 1), (1, 1)), ONE, 1)
    target = (*shape[:4], 48)

    def choose(name, a, b, dtype, *algorithm):
        return cpu.conv.algorithm_of(name, a, b, (1, 3, 3), *how, np.dtype(dtype), *algorithm)

    assert choose("forward", shape, target, "float32") == "winograd"
    assert choose("backward_input", target, shape, "float32") == "winograd"
    assert choose("backward_weight", shape, target, "float32") == "winograd"
    assert choose("forward", shape, target, "float64") == "direct"
    assert choose("forward", shape, target, "float32", "direct") == "direct"
    assert choose("forward", (1, 1, 4, 4, 32), (1, 1, 4, 4, 48), "float32") == "direct"
    x, w = integers(0, shape, "float32"), integers(1, filters, "float32")
    forward = lambda *inputs: cpu.conv.conv_forward(*inputs, "direct")  # noqa: E731
    y = fill(forward, x, w, None, *how, False, shapes=[target], dtype="float32")
    want = fill(reference.conv.conv_forward, x, w, None, *how, False, shapes=[target], dtype="float32")
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(
    ("filters", "stride", "dtype"),
    [((1, 3, 3), (1, 2, 2), "float32"), ((1, 5, 5), ONE, "float32"), ((1, 3, 3), ONE, "float64")],
)
def test_what_winograd_does_not_take_is_refused(cpu, filters, stride, dtype):
    shape, how = (1, 1, 9, 9, 16), (stride, ((0, 0), (1, 1), (1, 1)), ONE, 1, np.dtype(dtype))
    with pytest.raises(ValueError, match="3x3 and 5x5 filters at stride 1"):
        cpu.conv.algorithm_of("forward", shape, shape, filters, *how, "winograd")
    with pytest.raises(ValueError, match="'fft' was given: choose one of auto, direct, winograd"):
        cpu.conv.algorithm_of("forward", shape, shape, filters, *how, "fft")


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    arrays, how = problem(0, 5, 30, 29, 33, 50, ((1, 1), (1, 1)))
    run = lambda: passes(cpu.conv, fill, arrays, how, True, "float32", "winograd")  # noqa: E731
    for one, two in zip(with_threads(1, run), with_threads(2, run), strict=True):
        assert one.tobytes() == two.tobytes()
