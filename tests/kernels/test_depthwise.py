"""Convolutions of many small groups, lane by lane: exact sums, edges, choice, threads, another vector width."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe
from sweeps import crossed, examples, selected

from fastcnn.kernels.cpu.convolution.depthwise import forward as depthwise
from fastcnn.kernels.cpu.convolution.depthwise.forward import bands_of, meetings, segments_of, serves
from fastcnn.kernels.cpu.runtime.cpu_info import CacheSizes
from fastcnn.kernels.cpu.simd import streaming

ONE = (1, 1, 1)
SAME = ((0, 0), (1, 1), (1, 1))


def passes(conv, fill, geometry, N, channels, relu, arrays):
    """Return y, dx and dw of one room."""
    _, K, groups = channels
    x, w, b, dy = arrays
    problem = describe(x, dy, w, geometry.stride, geometry.padding, geometry.dilation, groups)
    y = fill(conv.conv_forward, x, w, b, problem, relu, shapes=[(N, *geometry.output, K)], dtype=x.dtype)
    dx = fill(conv.conv_backward_input, dy, w, problem, shapes=[x.shape], dtype=x.dtype)
    return y, dx, fill(conv.conv_backward_weight, x, dy, problem, shapes=[w.shape], dtype=x.dtype)


def whole_numbers(integers, seed, geometry, N, channels, dtype):
    """Return x, w, b and dy of small whole numbers."""
    C, K, groups = channels
    to = ((N, *geometry.image, C), (*geometry.window, C // groups, K), (K,), (N, *geometry.output, K))
    return [integers(seed + i, shape, dtype) for i, shape in enumerate(to)]


def assert_exact(reference, cpu, fill, integers, geometry, N, channels, dtype, seed=0, relu=False):
    arrays = whole_numbers(integers, seed, geometry, N, channels, dtype)
    got, want = (passes(room.conv, fill, geometry, N, channels, relu, arrays) for room in (cpu, reference))
    for name, mine, exact in zip(("y", "dx", "dw"), got, want, strict=True):
        np.testing.assert_array_equal(mine, exact, name)


@st.composite
def small_groups(draw):
    """Draw (C, K, groups): depthwise, multiplied and grouped; channel counts that fill vectors and that do not."""
    inner, outer = draw(st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 5), (2, 2), (4, 4), (8, 8),
                                         (3, 3), (2, 4), (4, 2), (12, 12), (16, 4), (16, 16), (5, 24)]))  # fmt: skip
    groups = draw(st.sampled_from([2, 3, 8, 16, 17, 32, 35]))
    return groups * inner, groups * outer, groups


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(1, 2), channels=small_groups(), relu=st.booleans())
@examples(40)
def test_any_shape_is_exact(reference, cpu, fill, integers, draw_geometry, dtype, data, seed, N, channels, relu):
    geometry = data.draw(draw_geometry())
    assert_exact(reference, cpu, fill, integers, geometry, N, channels, dtype, seed, relu)


@pytest.mark.parametrize(("size", "stride"), crossed([1, 3, 5, 7, 11], [1, 2, 3]))
def test_rows_of_several_tiles_are_exact(reference, cpu, fill, integers, fit, size, stride):
    """Long rows: tiles at both edges, and runs of equal ones between them, of filters up to 11x11."""
    half = size // 2
    geometry = fit((1, 12, 61), (1, size, size), (1, stride, stride), ((0, 0), (half, half), (half, half)), ONE)
    assert_exact(reference, cpu, fill, integers, geometry, 2, (24, 24, 24), "float32")


@pytest.mark.parametrize("C", selected([2, 3, 15, 16, 17, 31, 32, 48, 100], 3, 16, 17, 100))
def test_any_channel_count_is_exact(reference, cpu, fill, integers, fit, dtype, C):
    geometry = fit((1, 6, 9), (1, 3, 3), ONE, SAME, ONE)
    assert_exact(reference, cpu, fill, integers, geometry, 2, (C, C, C), dtype)


def test_long_filters_and_rows_without_taps(reference, cpu, fill, integers, fit):
    """A signal's filter with more taps than sums fit registers; strides over the filter leave outputs without taps."""
    line = fit((1, 1, 90), (1, 1, 41), (1, 1, 2), ((0, 0), (0, 0), (20, 20)), ONE)
    assert_exact(reference, cpu, fill, integers, line, 2, (20, 20, 20), "float32")
    gaps = fit((1, 9, 20), (1, 1, 2), (1, 4, 5), ((0, 0), (0, 3), (2, 2)), ONE)
    assert_exact(reference, cpu, fill, integers, gaps, 1, (18, 18, 18), "float32")


def test_work_for_several_threads_is_exact(reference, cpu, fill, integers, fit):
    geometry = fit((1, 40, 40), (1, 3, 3), (1, 2, 2), SAME, ONE)
    assert_exact(reference, cpu, fill, integers, geometry, 6, (128, 128, 128), "float32", relu=True)
    volume = fit((9, 12, 30), (3, 3, 3), (2, 1, 2), ((1, 1), (1, 1), (1, 1)), ONE)
    assert_exact(reference, cpu, fill, integers, volume, 2, (64, 64, 16), "float32")


@pytest.mark.parametrize("C", [32, 40])
@pytest.mark.parametrize("stride", [ONE, (1, 2, 2)])
def test_stores_past_the_caches_are_exact(reference, cpu, integers, fit, monkeypatch, C, stride):
    """Large arrays: whole vectors are stored past the caches, and others through them; rows are fetched ahead."""
    for module in (depthwise, streaming):
        monkeypatch.setattr(module, "cache_bytes", lambda: CacheSizes(1, 1, 1))
    monkeypatch.setattr(depthwise, "FETCH_BYTES", 0)
    monkeypatch.setattr(depthwise, "plan_lanewise", depthwise.plan_lanewise.__wrapped__)
    geometry = fit((1, 13, 18), (1, 3, 3), stride, SAME, ONE)
    x, w, b, dy = whole_numbers(integers, 0, geometry, 2, (C, C, C), "float32")
    problem = describe(x, dy, w, stride, SAME, ONE, C)
    for run, shape in (("conv_forward", dy.shape), ("conv_backward_input", x.shape)):
        given = (x, w, b, problem, True) if run == "conv_forward" else (dy, w, problem)
        want = np.empty(shape, "float32")
        room = np.empty(want.size + 16, "float32")
        got = room[-room.ctypes.data % 64 // 4 :][: want.size].reshape(shape)  # whole cache lines
        getattr(cpu.conv, run)(*given, got)
        getattr(reference.conv, run)(*given, want)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("transposed", [False, True])
def test_bands_of_rows_meet_what_their_rows_meet(transposed):
    """A band's pattern, cut to the rows that exist, is what `meetings` says of each row."""
    for high, taps, stride, before, dilation, size in ((4, 3, 1, 1, 1, 7), (2, 5, 2, 2, 1, 9), (4, 3, 2, 1, 2, 8)):
        pattern, bands = bands_of(10, high, taps, stride, before, dilation, size, transposed)
        want = meetings(10, taps, stride, before, dilation, size, transposed)
        for p, met in enumerate(want):
            first, low, last = bands[p // high]
            assert met == tuple((tap, first + row) for tap, row in pattern[p % high] if low <= row <= last)


def test_passes_are_adjoint(cpu, fill, fit):
    """<conv x, dy> = <x, conv' dy> = <w, dw> in float64."""
    geometry, channels = fit((1, 20, 33), (1, 5, 3), (1, 2, 1), ((0, 0), (2, 2), (1, 1)), (1, 1, 2)), (36, 72, 36)
    rng = np.random.default_rng(3)
    to = ((3, *geometry.image, 36), (1, 5, 3, 1, 72), (3, *geometry.output, 72))
    x, w, dy = (rng.normal(size=shape) for shape in to)
    y, dx, dw = passes(cpu.conv, fill, geometry, 3, channels, False, (x, w, None, dy))
    products = [float(np.vdot(y, dy)), float(np.vdot(x, dx)), float(np.vdot(w, dw))]
    np.testing.assert_allclose(products, products[0], rtol=1e-11)


def test_small_groups_go_lane_by_lane(cpu):
    def choose(C, K, groups, algorithm="auto", pass_name="forward"):
        problem = describe((2, 1, 9, 9, C), (2, 1, 9, 9, K), (1, 3, 3), ONE, SAME, ONE, groups)
        return cpu.conv.algorithm_of(pass_name, problem, np.dtype("float32"), algorithm)

    assert choose(64, 64, 64) == choose(64, 128, 64) == choose(64, 64, 64, "direct") == "depthwise"
    assert choose(64, 64, 1) != "depthwise"
    assert choose(512, 512, 8, "direct") == "direct"
    assert not serves(1, 1, 1, 16), "one group is the tile's"
    with pytest.raises(ValueError, match="'depthwise' takes groups of few channels"):
        choose(64, 64, 1, "depthwise")


def test_a_row_is_cut_into_edges_and_equal_tiles():
    segments = segments_of(meetings(56, 3, 1, 1, 1, 56, False), 14, 1)
    assert [(s.first, s.column, s.tiles, s.step) for s in segments] == [(0, 0, 1, 0), (14, 13, 2, 14), (42, 41, 1, 0)]
    assert sum(len(s.outputs) * s.tiles for s in segments) == 56


def test_thread_count_changes_no_bit(cpu, fill, fit, with_threads):
    geometry, channels = fit((1, 30, 29), (1, 3, 3), ONE, SAME, ONE), (72, 72, 24)
    rng = np.random.default_rng(0)
    x, w, dy = (
        rng.normal(size=s).astype("float32") for s in ((6, 1, 30, 29, 72), (1, 3, 3, 3, 72), (6, 1, 30, 29, 72))
    )
    run = lambda: passes(cpu.conv, fill, geometry, 6, channels, True, (x, w, w[0, 0, 0, 0], dy))  # noqa: E731
    for one, two in zip(with_threads(1, run), with_threads(2, run), strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.skipif(os.environ.get("NUMBA_CPU_NAME") is not None, reason="this run is for another CPU already")
@pytest.mark.parametrize("sweeps", selected(["their selections", "whole"], "their selections"))
def test_shorter_vectors_are_exact(sweeps):
    """The same on AVX2: 8 lanes and 16 registers."""
    names, marked = "any_channel_count", "not exhaustive"
    if sweeps == "whole":
        names, marked = f"{names} or long_filters or several_tiles", ""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", names, "-m", marked, __file__],
        env={**os.environ, "NUMBA_CPU_NAME": "haswell"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-2000:]
