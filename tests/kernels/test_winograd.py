"""Winograd's convolution: its error by norm, its edges, its choice by shape, launch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe
from sweeps import examples

from fastcnn.kernels.cpu.convolution.winograd import forward as winograd
from fastcnn.kernels.cpu.convolution.winograd.backward_weight import MIN_CHUNKS, plan_chunks
from fastcnn.kernels.cpu.convolution.winograd.forward import ERROR_BOUND, plan_patches
from fastcnn.kernels.cpu.runtime import launch
from fastcnn.kernels.cpu.simd.tile import tiles

ONE = (1, 1, 1)


def rms(a):
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))


def problem(seed, N, H, W, C, K, pads, taps=3, groups=1, D=1):
    """Return x, w, b, dy in float64 and how the convolution is padded; C and K are those of a group."""
    (top, bottom), (left, right) = pads
    rng = np.random.default_rng(seed)
    to_y = (N, D, H + top + bottom - taps + 1, W + left + right - taps + 1, groups * K)
    shapes = ((N, D, H, W, groups * C), (1, taps, taps, C, groups * K), (groups * K,), to_y)
    return [rng.normal(size=shape) for shape in shapes], (ONE, ((0, 0), *pads), ONE, groups)


def check(cpu, fill, arrays, how, relu=False, exact_room=None):
    """Hold every pass against direct sums in float64."""
    got = passes(cpu.conv, fill, arrays, how, relu, "float32", "winograd")
    want = passes((exact_room or cpu).conv, fill, arrays, how, relu, "float64", "direct")
    for name, mine, exact in zip(("y", "dx", "dw"), got, want, strict=True):
        assert rms(mine - exact) <= ERROR_BOUND * rms(exact), name


def passes(conv, fill, arrays, how, relu, dtype, algorithm):
    """Return y, dx and dw of one room and dtype."""
    x, w, b, dy = (a.astype(dtype) for a in arrays)
    described = describe(x, dy, w, *how)
    forward = lambda *inputs: conv.conv_forward(*inputs, algorithm)  # noqa: E731
    backward = lambda *inputs: conv.conv_backward_input(*inputs, algorithm)  # noqa: E731
    y = fill(forward, x, w, b, described, relu, shapes=[dy.shape], dtype=dtype)
    weight = lambda *inputs: conv.conv_backward_weight(*inputs, algorithm)  # noqa: E731
    dx = fill(backward, dy, w, described, shapes=[x.shape], dtype=dtype)
    return y, dx, fill(weight, x, dy, described, shapes=[w.shape], dtype=dtype)


@given(
    seed=st.integers(0, 9),
    N=st.integers(1, 3),
    H=st.integers(5, 19),
    W=st.integers(5, 19),
    C=st.integers(1, 70),
    K=st.integers(1, 70),
    pads=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    taps=st.sampled_from((3, 5)),
    groups=st.integers(1, 3),
    relu=st.booleans(),
)
@examples(100)
def test_error_is_bounded_on_any_shape(reference, cpu, fill, seed, N, H, W, C, K, pads, taps, groups, relu):
    check(cpu, fill, *problem(seed, N, H, W, C, K, pads, taps, groups), relu, reference)


@pytest.mark.parametrize("taps", [3, 5])
def test_every_slice_of_a_volume_is_an_image(reference, cpu, fill, taps):
    check(cpu, fill, *problem(8, 2, 9, 12, 20, 24, ((1, 1), (1, 0)), taps, D=3), True, reference)


@pytest.mark.parametrize(("taps", "groups"), [(3, 1), (5, 1), (3, 2)])
def test_filters_that_outgrow_the_caches_are_taken_in_groups_and_chunks(cpu, fill, monkeypatch, taps, groups):
    """Several groups of patches, several chunks of output channels."""
    plan_patches.cache_clear()
    for name, value in (("FUSED_WEIGHTS", 1), ("WEIGHT_BYTES", 1 << 18), ("GROUP_BYTES", 1 << 18)):
        monkeypatch.setattr(winograd, name, value)
    plan = plan_patches(3, 11, 10, 40, 90, 7 - taps, False, tiles(np.float32).lanes, 4)
    assert (plan.fused, plan.blocks > 1, plan.chunk < 90) == (False, True, True)
    check(cpu, fill, *problem(5, 3, 11, 10, 40, 90, ((taps // 2,) * 2,) * 2, taps, groups), True)
    plan_patches.cache_clear()


@pytest.mark.parametrize(("C", "K", "taps", "groups"), [(16, 16, 3, 1), (9, 45, 3, 1), (20, 7, 5, 1), (27, 33, 3, 2)])
def test_few_channels_are_summed_in_chunks(cpu, fill, C, K, taps, groups):
    """Several chunks of several blocks; the same bits with one thread."""
    arrays, how = problem(4, 13, 31, 37, C, K, ((taps // 2,) * 2, (1, 0)), taps, groups)
    plan = plan_chunks(13, *arrays[3].shape[2:4], C, K, 7 - taps, tiles(np.float32).lanes, 4)
    assert MIN_CHUNKS <= plan.chunks < 13 * plan.down * plan.across // plan.block
    check(cpu, fill, arrays, how)
    several, before = passes(cpu.conv, fill, arrays, how, False, "float32", "winograd"), launch.thread_count()
    try:
        launch.set_thread_count(1)
        alone = passes(cpu.conv, fill, arrays, how, False, "float32", "winograd")
    finally:
        launch.set_thread_count(before)
    for mine, one in zip(several, alone, strict=True):
        np.testing.assert_array_equal(mine, one)


def test_weight_gradient_of_many_patches_stays_bounded(cpu, fill):
    """Several groups of patches: each is summed by itself."""
    check(cpu, fill, *problem(7, 3, 112, 112, 96, 100, ((1, 1), (1, 1))))


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
    check(cpu, fill, *problem(3, 2, 10, 9, 75, 101, ((1, 1), (1, 1))), True)


def test_auto_takes_the_faster_way_and_direct_stays_exact(cpu, reference, fill, integers):
    shape, filters, how = (4, 1, 56, 56, 32), (1, 3, 3, 32, 48), (ONE, ((0, 0), (1, 1), (1, 1)), ONE, 1)
    target = (*shape[:4], 48)

    def choose(name, a, b, dtype, *algorithm):
        return cpu.conv.algorithm_of(name, describe(a, b, filters, *how), np.dtype(dtype), *algorithm)

    assert choose("forward", shape, target, "float32") == "winograd"
    assert choose("backward_input", shape, target, "float32") == "winograd"
    assert choose("backward_weight", shape, target, "float32") == "winograd"
    assert choose("forward", shape, target, "float64") == "direct"
    assert choose("forward", shape, target, "float32", "direct") == "direct"
    assert choose("forward", (1, 1, 4, 4, 32), (1, 1, 4, 4, 48), "float32") == "direct"
    few = (64, 1, 32, 32, 8)
    assert [choose(name, few, few, "float32") for name in ("forward", "backward_weight")] == ["winograd"] * 2
    x, w = integers(0, shape, "float32"), integers(1, filters, "float32")
    forward = lambda *inputs: cpu.conv.conv_forward(*inputs, "direct")  # noqa: E731
    y = fill(forward, x, w, None, describe(x, target, w, *how), False, shapes=[target], dtype="float32")
    want = fill(
        reference.conv.conv_forward, x, w, None, describe(x, target, w, *how), False, shapes=[target], dtype="float32"
    )
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(
    ("filters", "stride", "dtype"),
    [((1, 3, 3), (1, 2, 2), "float32"), ((1, 7, 7), ONE, "float32"), ((1, 3, 3), ONE, "float64")],
)
def test_what_winograd_does_not_take_is_refused(cpu, filters, stride, dtype):
    shape = (1, 1, 9, 9, 16)
    problem = describe(shape, shape, filters, stride, ((0, 0), (1, 1), (1, 1)), ONE)
    with pytest.raises(ValueError, match="3x3 and 5x5 filters at stride 1"):
        cpu.conv.algorithm_of("forward", problem, np.dtype(dtype), "winograd")
    with pytest.raises(ValueError, match="'fft' was given: choose one of auto, direct, depthwise, scatter, winograd"):
        cpu.conv.algorithm_of("forward", problem, np.dtype(dtype), "fft")


def test_thread_count_changes_no_bit(cpu, fill, with_threads):
    arrays, how = problem(0, 5, 30, 29, 33, 50, ((1, 1), (1, 1)))
    run = lambda: passes(cpu.conv, fill, arrays, how, True, "float32", "winograd")  # noqa: E731
    for one, two in zip(with_threads(1, run), with_threads(2, run), strict=True):
        assert one.tobytes() == two.tobytes()
