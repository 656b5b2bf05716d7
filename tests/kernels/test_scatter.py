"""Convolution as a scatter: exact sums wherever it is asked for, its choice, and the same bits for any thread count."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import describe

from fastcnn.kernels.cpu.convolution.select import algorithm_of

ONE = (1, 1, 1)


def whole_numbers(integers, seed, geometry, N, channels, dtype):
    """Return x, w, b and dy of small whole numbers."""
    C, K, groups = channels
    to = ((N, *geometry.image, C), (*geometry.window, C // groups, K), (K,), (N, *geometry.output, K))
    return [integers(seed + i, shape, dtype) for i, shape in enumerate(to)]


def assert_exact(reference, cpu, fill, integers, geometry, N, channels, dtype, seed=0, relu=False):
    """Compare the input gradient, the transposed convolution and, at stride 1, the forward pass."""
    x, w, b, dy = whole_numbers(integers, seed, geometry, N, channels, dtype)
    problem = describe(x, dy, w, geometry.stride, geometry.padding, geometry.dilation, channels[2])
    scattered = partial(partial, algorithm="scatter")
    calls = [("conv", "conv_backward_input", (dy, w, problem), x.shape)]
    c = integers(seed, x.shape[-1:], dtype)
    calls.append(("conv_transpose", "conv_transpose_forward", (dy, w, c, problem, relu), x.shape))
    if geometry.stride == ONE:
        calls.append(("conv", "conv_forward", (x, w, b, problem, relu), dy.shape))
    for file, name, inputs, shape in calls:
        mine, exact = (getattr(getattr(room, file), name) for room in (cpu, reference))
        got = fill(scattered(mine), *inputs, shapes=[shape], dtype=dtype)
        np.testing.assert_array_equal(got, fill(exact, *inputs, shapes=[shape], dtype=dtype), name)


@st.composite
def channels(draw):
    """Draw C, K and groups whose groups hold too many channels to be taken lane by lane, few groups mostly."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inner, outer = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return groups * inner, groups * outer, groups


@given(data=st.data(), seed=st.integers(0, 9), N=st.integers(1, 3), sizes=channels(), relu=st.booleans())
def test_any_shape_is_exact(reference, cpu, fill, integers, draw_geometry, dtype, data, seed, N, sizes, relu):
    assert_exact(reference, cpu, fill, integers, data.draw(draw_geometry()), N, sizes, dtype, seed, relu)


LARGE = {  # image, window, stride, padding, dilation, images, channels
    "first layer": ((64, 50), (7, 7), 2, 3, 1, 2, (3, 40, 1)),
    "bands": ((90, 33), (3, 3), 1, 1, 1, 1, (3, 64, 1)),
    "dilated bands": ((80, 20), (5, 3), 1, 4, 2, 1, (8, 16, 1)),
    "filter as large as the image": ((5, 5), (5, 5), 1, 0, 1, 40, (16, 120, 1)),
    "full correlation": ((9, 9), (7, 7), 1, 0, 1, 10, (9, 65, 1)),
    "many products": ((6, 6), (5, 5), 1, 2, 1, 3, (100, 17, 1)),
    "groups": ((12, 12), (9, 9), 1, 0, 1, 5, (40, 34, 2)),
    "strides past the filter": ((31, 31), (2, 2), 5, 0, 1, 3, (6, 33, 1)),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_shapes_are_exact(reference, cpu, fill, integers, fit, name):
    image, window, stride, pad, dilation, N, sizes = LARGE[name]
    pads = ((0, 0), (pad, pad), (pad, pad))
    geometry = fit((1, *image), (1, *window), (1, stride, stride), pads, (1, dilation, dilation))
    assert_exact(reference, cpu, fill, integers, geometry, N, sizes, "float32", relu=True)


def test_volumes_are_exact(reference, cpu, fill, integers, fit):
    geometry = fit((5, 7, 6), (3, 5, 4), (1, 2, 1), ((1, 1), (2, 1), (0, 2)), (2, 1, 1))
    assert_exact(reference, cpu, fill, integers, geometry, 2, (5, 18, 1), "float64")


@pytest.mark.parametrize("name", LARGE)
def test_thread_count_changes_no_bit(cpu, fill, with_threads, fit, name):
    image, window, stride, pad, dilation, N, (C, K, groups) = LARGE[name]
    pads = ((0, 0), (pad, pad), (pad, pad))
    geometry = fit((1, *image), (1, *window), (1, stride, stride), pads, (1, dilation, dilation))
    random = np.random.default_rng(1)
    w = random.standard_normal((*geometry.window, C // groups, K), np.float32)
    dy = random.standard_normal((N, *geometry.output, K), np.float32)
    to_x = (N, *geometry.image, C)
    problem = describe(to_x, dy, w, geometry.stride, geometry.padding, geometry.dilation, groups)

    def gradient():
        call = partial(cpu.conv.conv_backward_input, algorithm="scatter")
        return fill(call, dy, w, problem, shapes=[to_x], dtype="float32")

    one, many = (with_threads(threads, gradient) for threads in (1, 2))
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize(
    ("image", "window", "stride", "sizes", "chosen"),
    [
        ((9, 9), (7, 7), 1, (9, 197), "scatter"),  # most of what the gradient gathers is padding
        ((6, 6), (6, 6), 1, (256, 512), "scatter"),  # a fully connected layer
        ((56, 56), (3, 3), 1, (64, 64), "direct"),
        ((56, 56), (1, 1), 1, (64, 256), "direct"),
    ],
)
def test_input_gradients_mostly_of_padding_are_scattered(image, window, stride, sizes, chosen):
    (C, K), output = sizes, tuple((i - t) // stride + 1 for i, t in zip(image, window, strict=True))
    to_x, to_y, steps = (16, 1, *image, C), (16, 1, *output, K), (1, stride, stride)
    problem = describe(to_x, to_y, (1, *window), steps, ((0, 0),) * 3, ONE)
    assert algorithm_of("backward_input", problem, np.dtype("float32"), "direct") == chosen
