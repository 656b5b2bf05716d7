"""The sampled float64 reference agrees with the reference room, and it notices an error."""

import numpy as np
import pytest

from fastcnn.bench.cases import accuracy
from fastcnn.bench.shapes.convolution import parse
from fastcnn.kernels.reference import conv

SHAPES = [
    "mb2ic3ih7oc4kh3ph1",
    "mb2ic4ih9iw6oc6kh3kw2sh2sw3ph1pw0",
    "mb1ic6ih8oc9kh3ph2dh1g3",
    "mb2ic1ih7oc2oh4kh3sh2ph1",
    "mb1ic2id4ih5iw6oc3kd2kh3kw1",
    "mb3ic2iw9oc2kw4sw5pw3",
    "mb1ic5ih4oc5kh1sh2g5",
    "mb1ic2ih2oc2kh1sh2ph3",
]


@pytest.fixture(params=SHAPES)
def convolution(request):
    return parse(request.param)


@pytest.fixture
def arrays(convolution, monkeypatch):
    monkeypatch.setattr(accuracy, "SAMPLES", 10**6)  # every element
    random = np.random.default_rng(1)
    return [random.standard_normal(s) for s in (convolution.x_shape, convolution.w_shape, convolution.y_shape)]


def check(error, c, first, second, result):
    assert error(c, first, second, result) < 1e-12
    spoiled = result.copy()
    spoiled.reshape(-1)[-1] += 1e-3 * np.sqrt(np.mean(result**2))
    assert error(c, first, second, spoiled) == pytest.approx(1e-3, rel=1e-6)


def test_forward(convolution, arrays):
    c, (x, w, y) = convolution, arrays
    conv.conv_forward(x, w, None, c.problem, False, y)
    check(accuracy.forward_error, c, x, w, y)


def test_backward_input(convolution, arrays):
    c, (dx, w, dy) = convolution, arrays
    conv.conv_backward_input(dy, w, c.problem, dx)
    check(accuracy.backward_input_error, c, dy, w, dx)


def test_backward_weight(convolution, arrays):
    c, (x, dw, dy) = convolution, arrays
    conv.conv_backward_weight(x, dy, c.problem, dw)
    check(accuracy.backward_weight_error, c, x, dy, dw)


def test_error_is_in_units_of_the_typical_element():
    reference = np.array([3.0, -3.0, 3.0, -3.0])
    assert accuracy.relative_error(reference + [0, 0, 0, 0.3], reference) == pytest.approx(0.1)
    assert np.isnan(accuracy.relative_error(np.array([np.nan]), np.array([1.0])))


def test_large_arrays_are_sampled_without_repeats():
    drawn = accuracy.drawn(10**6)
    assert len(set(drawn)) == accuracy.SAMPLES
    assert drawn.min() >= 0
    assert drawn.max() < 10**6
