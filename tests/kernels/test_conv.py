"""All passes of convolution: rooms against each other, PyTorch, adjoints, differences, threads."""

from functools import partial
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe
from sweeps import crossed, examples, selected

from fastcnn.kernels.cpu.runtime.cpu_info import CacheSizes
from fastcnn.kernels.cpu.runtime.workspace import aligned_empty
from fastcnn.kernels.cpu.simd import streaming
from fastcnn.kernels.cpu.simd.streaming import streams


def shapes(geometry, N, C, K, groups):
    """Return the shapes of x, w and y."""
    x = (N, *geometry.image, C)
    return x, (*geometry.window, C // groups, K), (N, *geometry.output, K)


def passes(conv, fill, geometry, groups, relu, x, w, b, dy):
    """Return y, dx, dw, db of one room."""
    problem = describe(x, dy, w, geometry.stride, geometry.padding, geometry.dilation, groups)
    dtype, direct = x.dtype, partial(partial, algorithm="direct")  # the others round
    y = fill(direct(conv.conv_forward), x, w, b, problem, relu, shapes=[dy.shape], dtype=dtype)
    dx = fill(direct(conv.conv_backward_input), dy, w, problem, shapes=[x.shape], dtype=dtype)
    dw = fill(direct(conv.conv_backward_weight), x, dy, problem, shapes=[w.shape], dtype=dtype)
    db = fill(conv.conv_backward_bias, dy, shapes=[dy.shape[-1:]], dtype=dtype)
    return {"y": y, "dx": dx, "dw": dw, "db": db}


@st.composite
def channels(draw):
    """Draw input channels, output channels and groups, depthwise and primes among them."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 7]))
    inner = draw(st.integers(1, 100 if groups == 1 else 24))
    outer = draw(st.integers(1, 100 if groups == 1 else 24))
    return groups * inner, groups * outer, groups


@examples(60)
@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(0, 3), sizes=channels())
def test_rooms_agree_exactly(reference, cpu, fill, integers, draw_geometry, dtype, data, seed, N, sizes):
    geometry, (C, K, groups) = data.draw(draw_geometry()), sizes
    to_x, to_w, to_y = shapes(geometry, N, C, K, groups)
    x, w, dy = (integers(seed + i, s, dtype) for i, s in enumerate((to_x, to_w, to_y)))
    b = integers(seed, (K,), dtype) if data.draw(st.booleans(), "bias") else None
    relu = data.draw(st.booleans(), "relu")
    got = passes(cpu.conv, fill, geometry, groups, relu, x, w, b, dy)
    want = passes(reference.conv, fill, geometry, groups, relu, x, w, b, dy)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, name)


CHANNEL_COUNTS = (*range(1, 36), 47, 53, 63, 64, 65, 79, 97, 100)


@pytest.mark.parametrize("C", selected(CHANNEL_COUNTS, 1, 2, 3, 7, 8, 13, 16, 17, 24, 31, 33, 64, 65, 97, 100))
def test_any_channel_count_is_exact(reference, cpu, fill, integers, fit, dtype, C):
    geometry = fit((1, 5, 6), (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1)), (1, 1, 1))
    K = 101 - C
    x, w, dy = (integers(C, s, dtype) for s in shapes(geometry, 2, C, K, 1))
    b = integers(C, (K,), dtype)
    got = passes(cpu.conv, fill, geometry, 1, False, x, w, b, dy)
    want = passes(reference.conv, fill, geometry, 1, False, x, w, b, dy)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("strides", [(1, 1, 1), (1, 2, 3)])
def test_outputs_stored_past_the_caches_are_exact(reference, cpu, integers, fit, monkeypatch, dtype, groups, strides):
    """Arrays larger than the caches are stored so where their channels fill whole vectors."""
    monkeypatch.setattr(streaming, "cache_bytes", lambda: CacheSizes(0, 0, 0))

    def fill(kernel, *inputs, shapes, dtype):
        (shape,) = shapes
        out = aligned_empty(prod(shape), np.dtype(dtype)).reshape(shape)
        assert streams(out, lanes=4)
        out.fill(np.nan)
        kernel(*inputs, out)
        return out

    for C, K in ((32, 64), (64, 32), (40, 33)):
        geometry = fit((1, 9, 8), (1, 3, 3), strides, ((0, 0), (1, 1), (1, 1)), (1, 1, 1))
        x, w, dy = (integers(C, s, dtype) for s in shapes(geometry, 2, C * groups, K * groups, groups))
        b = integers(C, (K * groups,), dtype)
        got = passes(cpu.conv, fill, geometry, groups, True, x, w, b, dy)
        want = passes(reference.conv, fill, geometry, groups, True, x, w, b, dy)
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value, name)


LARGE = {
    "lenet": ((1, 28, 28), (1, 5, 5), (1, 1, 1), 0, 1, 6, 1),
    "strided": ((1, 29, 31), (1, 7, 7), (1, 2, 2), 3, 3, 17, 1),
    "pointwise": ((1, 14, 14), (1, 1, 1), (1, 1, 1), 0, 70, 40, 1),
    "grouped": ((1, 13, 15), (1, 3, 3), (1, 1, 1), 1, 24, 36, 3),
    "volume": ((6, 7, 9), (3, 3, 3), (2, 1, 1), 1, 5, 19, 1),
    "wide filter": ((1, 9, 40), (1, 3, 17), (1, 1, 3), 8, 4, 33, 1),
}


@pytest.mark.parametrize("name", LARGE)
def test_layers_of_networks_are_exact(reference, cpu, fill, integers, fit, name):
    image, window, stride, pad, C, K, groups = LARGE[name]
    padding = tuple((pad, pad) if taps > 1 else (0, 0) for taps in window)
    geometry = fit(image, window, stride, padding, (1, 1, 1))
    x, w, dy = (integers(1, s, "float32") for s in shapes(geometry, 9, C, K, groups))
    b = integers(2, (K,), "float32")
    got = passes(cpu.conv, fill, geometry, groups, True, x, w, b, dy)
    want = passes(reference.conv, fill, geometry, groups, True, x, w, b, dy)
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, key)


EXTREME = {  # image, window, stride, padding, dilation
    "one pixel": ((1, 1), (1, 1), 1, 0, 1),
    "one pixel under a filter": ((1, 1), (5, 5), 1, 2, 1),
    "filter larger than the image": ((2, 3), (9, 11), 1, 5, 1),
    "stride past the image": ((40, 40), (3, 3), 64, 1, 1),
    "large stride": ((60, 70), (2, 3), 17, 1, 1),
    "outputs that meet padding alone": ((3, 3), (2, 2), 9, 9, 1),
    "taps far apart": ((50, 50), (3, 3), 1, 20, 20),
}


EXTREME_CHANNELS = ((1, 1, 1), (16, 1, 1), (1, 32, 1), (16, 16, 16), (3, 21, 3), (2, 14, 2))


@pytest.mark.parametrize(("name", "channels"), crossed(EXTREME, EXTREME_CHANNELS))
def test_extreme_windows_are_exact(reference, cpu, fill, integers, fit, name, channels):
    image, window, stride, pad, dilation = EXTREME[name]
    pads = ((0, 0), (pad, pad), (pad, pad))
    geometry = fit((1, *image), (1, *window), (1, stride, stride), pads, (1, dilation, dilation))
    C, K, groups = channels
    x, w, dy = (integers(3, s, "float32") for s in shapes(geometry, 1, C, K, groups))
    b = integers(4, (K,), "float32")
    got = passes(cpu.conv, fill, geometry, groups, False, x, w, b, dy)
    want = passes(reference.conv, fill, geometry, groups, False, x, w, b, dy)
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, key)


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(1, 2), sizes=channels())
@examples(40)
def test_reference_matches_pytorch(reference, fill, draw_geometry, pytorch_passes, data, seed, N, sizes):
    geometry, (C, K, groups) = data.draw(draw_geometry()), sizes
    rng = np.random.default_rng(seed)
    x, w, dy = (rng.normal(size=s) for s in shapes(geometry, N, C, K, groups))
    b = rng.normal(size=K)
    got = passes(reference.conv, fill, geometry, groups, False, x, w, b, dy)

    def convolution(torch, x, w, b):
        padded = torch.nn.functional.pad(x, [amount for pair in reversed(geometry.padding) for amount in pair])
        return torch.nn.functional.conv3d(padded, w, b, geometry.stride, dilation=geometry.dilation, groups=groups)

    want = pytorch_passes(convolution, x, w, b, dy)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


@given(data=st.data(), seed=st.integers(0, 9), sizes=channels())
@examples(30)
def test_backward_is_the_adjoint_of_forward(room, fill, integers, draw_geometry, data, seed, sizes):
    """<dy, y> = <dx, x> = <dw, w>, exactly, on whole numbers."""
    geometry, (C, K, groups) = data.draw(draw_geometry()), sizes
    to_x, to_w, to_y = shapes(geometry, 2, C, K, groups)
    x, w, dy = (integers(seed + i, s) for i, s in enumerate((to_x, to_w, to_y)))
    got = passes(room.conv, fill, geometry, groups, False, x, w, None, dy)
    product = np.vdot(dy, got["y"])
    assert product == np.vdot(got["dx"], x) == np.vdot(got["dw"], w)


def test_gradients_are_finite_differences(room, fill, differences, fit):
    geometry = fit((2, 5, 4), (2, 3, 2), (1, 2, 1), ((0, 1), (2, 0), (1, 1)), (1, 1, 2))
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=s) for s in shapes(geometry, 2, 4, 6, 2))
    b = rng.normal(size=6)
    problem = describe(x, dy, w, geometry.stride, geometry.padding, geometry.dilation, 2)
    got = passes(room.conv, fill, geometry, 2, False, x, w, b, dy)

    def loss():
        y = np.empty_like(dy)
        room.conv.conv_forward(x, w, b, problem, False, y)
        return np.vdot(dy, y)

    for array, name in ((x, "dx"), (w, "dw"), (b, "db")):
        # The loss is linear in each array: a long step loses nothing and rounds less.
        want = differences(loss, array, step=1.0)
        np.testing.assert_allclose(got[name], want, rtol=1e-10, atol=1e-10, err_msg=name)


def test_relu_cuts_after_the_bias_and_passes_nan(room, fill):
    x = np.array([1.0, -2.0, np.nan]).reshape(1, 1, 1, 3, 1)
    problem = describe(x, x, (1, 1, 1), (1, 1, 1), ((0, 0),) * 3, (1, 1, 1))
    y = fill(
        room.conv.conv_forward,
        *(x, np.ones((1, 1, 1, 1, 1)), np.array([1.0]), problem, True),
        shapes=[x.shape],
        dtype=x.dtype,
    )
    np.testing.assert_array_equal(y.ravel(), [2.0, 0.0, np.nan])


@pytest.mark.parametrize("name", LARGE)
def test_thread_count_changes_no_bit(cpu, fill, with_threads, fit, name):
    image, window, stride, pad, C, K, groups = LARGE[name]
    padding = tuple((pad, pad) if taps > 1 else (0, 0) for taps in window)
    geometry = fit(image, window, stride, padding, (1, 1, 1))
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=s).astype("float32") for s in shapes(geometry, 17, C, K, groups))
    b = rng.normal(size=K).astype("float32")
    runs = [with_threads(n, lambda: passes(cpu.conv, fill, geometry, groups, True, x, w, b, dy)) for n in (1, 2)]
    for key, value in runs[0].items():
        assert value.tobytes() == runs[1][key].tobytes(), key


@pytest.mark.parametrize(
    ("image", "taps", "stride", "pad", "dilation", "C", "K"),
    [
        ((1, 7, 7), (1, 3, 3), (1, 1, 1), 1, (1, 1, 1), 150, 300),
        ((1, 9, 8), (1, 3, 2), (1, 2, 2), 2, (1, 2, 1), 70, 90),
        ((3, 4, 5), (2, 3, 3), (1, 1, 2), 1, (1, 1, 1), 40, 70),
        ((1, 5, 5), (1, 1, 1), (1, 2, 2), 0, (1, 1, 1), 300, 1100),
        ((1, 4, 4), (1, 4, 4), (1, 1, 1), 0, (1, 1, 1), 130, 65),
        ((1, 3, 3), (1, 3, 3), (1, 1, 1), 0, (1, 1, 1), 37, 501),
    ],
)
def test_few_pixels_are_rows_of_a_product(
    reference, cpu, fill, integers, dtype, image, taps, stride, pad, dilation, C, K
):
    from fastcnn.kernels.cpu.convolution import small_output

    pads = tuple((pad, max(0, pad - 1)) if size > 1 else (0, 0) for size in taps)
    sizes = ((image[i] + sum(pads[i]) - dilation[i] * (taps[i] - 1) - 1) // stride[i] + 1 for i in range(3))
    x, w, b = (integers(i, s, dtype) for i, s in enumerate(((2, *image, C), (*taps, C, K), (K,))))
    shape = (2, *sizes, K)
    problem = describe(x, shape, w, stride, pads, dilation)
    assert small_output.suits(problem)
    got = fill(cpu.conv.conv_forward, x, w, b, problem, True, shapes=[shape], dtype=dtype)
    want = fill(reference.conv.conv_forward, x, w, b, problem, True, shapes=[shape], dtype=dtype)
    np.testing.assert_array_equal(got, want)


ADDED = {"sum": (-np.inf, np.inf), "sum, relu": (0, np.inf), "sum, relu6": (0, 6), "sum, clip": (-1, 2)}


@pytest.mark.parametrize("function", ["relu", "relu6", *ADDED])
@pytest.mark.parametrize(("algorithm", "image", "N", "C", "K", "groups"), [
    ("auto", 1, 2, 90, 70, 1), ("direct", 12, 3, 20, 35, 1), ("direct", 12, 2, 3, 5, 1), ("direct", 12, 2, 40, 2, 1),
    ("auto", 5, 1, 40, 50, 1),
    ("depthwise", 12, 2, 19, 19, 19), ("scatter", 12, 2, 20, 35, 1), ("winograd", 12, 2, 20, 35, 1),
])  # fmt: skip
def test_adds_and_clips_as_it_stores(reference, cpu, integers, dtype, function, algorithm, image, N, C, K, groups):
    if algorithm == "winograd" and dtype != "float32":
        pytest.skip("for float32")
    x, w, b = (integers(i, s, dtype) for i, s in enumerate(((N, 1, image, image, C), (1, 3, 3, C // groups, K), (K,))))
    x[0, 0, 0, 0, 0] = np.nan
    added, found = integers(5, (N, 1, image, image, K), dtype), []
    for room, used in ((cpu, algorithm), (reference, "direct")):
        y = np.empty((N, 1, image, image, K), dtype)
        problem = describe(x, y, w, (1, 1, 1), ((0, 0), (1, 1), (1, 1)), (1, 1, 1), groups)
        if function in ADDED:
            epilogue = room.activation.add_epilogue(added, y, ADDED[function])
        else:
            epilogue = room.activation.epilogue(function, (), y.dtype)
        room.conv.conv_forward(x, w, b, problem, epilogue, y, used)
        found.append(y)
    told = ~np.isnan(found[1])
    assert (np.isnan(found[0]) >= ~told).all()
    told &= ~np.isnan(found[0])
    np.testing.assert_allclose(found[0][told], found[1][told], atol=1e-3 if algorithm == "winograd" else 0)
    most = found[1][told].max()
    assert most == ADDED.get(function, (0, 6))[1] or (most > 6 and not function.endswith(("6", "clip")))
