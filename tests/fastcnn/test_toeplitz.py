"""The matrix of a convolution: it convolves, its transpose is the transposed convolution."""

import sys
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import describe

import fastcnn as fc


def dense(matrix):
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


@given(data=st.data(), groups=st.integers(1, 3), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_it_convolves_and_its_transpose_convolves_back(reference, fill, integers, draw_geometry, data, groups, seed):
    geometry = data.draw(draw_geometry())
    C, K = (groups * data.draw(st.integers(1, 4)) for _ in range(2))
    w = integers(seed, (*geometry.window, C // groups, K))
    x, y = integers(seed, (1, *geometry.image, C)), integers(seed, (1, *geometry.output, K))
    how = (geometry.stride, geometry.padding, geometry.dilation, groups)
    problem = describe(x, y, w, *how)
    M = fc.conv_matrix(w, x.shape[1:], *how)
    assert M.shape == (y.size, x.size)
    convolved = fill(reference.conv.conv_forward, x, w, None, problem, False, shapes=[y.shape], dtype=x.dtype)
    np.testing.assert_array_equal(M @ x.ravel(), convolved.ravel())
    transpose = reference.conv_transpose.conv_transpose_forward
    back = fill(transpose, y, w, None, problem, False, shapes=[x.shape], dtype=x.dtype)
    np.testing.assert_array_equal(M.T @ y.ravel(), back.ravel())


@pytest.mark.parametrize(
    ("down", "up", "shape"),
    [
        (fc.Conv1d(2, 3, 4, stride=3, padding=2), fc.ConvTranspose1d(3, 2, 4, stride=3, padding=2), (12, 2)),
        (fc.Conv2d(2, 4, 3, dilation=2, groups=2), fc.ConvTranspose2d(4, 2, 3, dilation=2, groups=2), (5, 6, 2)),
    ],
    ids=["Conv1d", "Conv2d"],
)  # fmt: skip
def test_layers_of_one_weight_are_it_and_its_transpose(integers, down, up, shape):
    for layer in (down, up):
        layer.device = "reference"
    w, x = integers(1, down.weight_shape, "float32"), integers(2, shape, "float32")
    y = integers(3, down.output_shape(shape), "float32")
    down.params["weight"] = up.params["weight"] = w
    M = fc.conv_matrix(w, shape, down.stride, down.padding, down.dilation, down.groups)
    assert M.dtype == np.float32
    np.testing.assert_array_equal(M @ x.ravel(), down.forward(x[None]).ravel())
    assert prod(up.output_shape(y.shape)) == x.size
    np.testing.assert_array_equal(M.T @ y.ravel(), up.forward(y[None]).ravel())


def test_with_and_without_scipy(monkeypatch, integers):
    sparse = pytest.importorskip("scipy.sparse", reason="the matrix is dense without SciPy")
    w = integers(0, (3, 2, 2, 3))
    M = fc.conv_matrix(w, (5, 4, 2), padding=1)
    assert isinstance(M, sparse.csr_array)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    plain = fc.conv_matrix(w, (5, 4, 2), padding=1)
    assert isinstance(plain, np.ndarray)
    np.testing.assert_array_equal(plain, dense(M))


def test_it_is_banded():
    M = dense(fc.conv_matrix(np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1), (4, 1), padding=1))
    np.testing.assert_array_equal(M, [[2, 3, 0, 0], [1, 2, 3, 0], [0, 1, 2, 3], [0, 0, 1, 2]])


@pytest.mark.parametrize(
    ("weight", "shape", "groups", "sentence"),
    [
        ((3, 3, 2, 4), (8, 2), 1, "as many axes in both"),
        ((3, 3), (8, 2), 1, "as many axes in both"),
        ((3, 2, 4), 8, 1, "input_shape ()"),
        ((3, 3, 2, 4), (8, 8, 3), 1, "3 channels in groups=1"),
        ((3, 3, 2, 3), (8, 8, 4), 2, "a multiple of groups"),
        ((3, 3, 2, 4), (8, 2, 2), 1, "smaller than the filter (3, 3)"),
        ((3, 3, 2, 4), (8, 0, 2), 1, "an axis of input_shape=0"),
    ],
)
def test_what_does_not_fit_is_refused(weight, shape, groups, sentence):
    with pytest.raises(fc.FastcnnError) as caught:
        fc.conv_matrix(np.ones(weight), shape, groups=groups)
    assert sentence in str(caught.value)
