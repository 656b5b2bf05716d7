"""Layers by themselves: shapes, refusals, parameters, and forward and backward on arrays."""

import numpy as np
import pytest

import fastcnn as fc

REFERENCE = {"device": "reference"}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("layer", "shape", "output"),
    [
        (fc.Conv2d(3, 10, 5, padding=2), (32, 32, 3), (32, 32, 10)),
        (fc.Conv2d(1, 1, 3), (7, 7, 1), (5, 5, 1)),
        (fc.Conv2d(1, 1, 3, stride=2), (7, 7, 1), (3, 3, 1)),
        (fc.Conv2d(1, 1, 3, padding=1), (7, 7, 1), (7, 7, 1)),
        (fc.Conv2d(1, 1, 3, stride=3), (7, 7, 1), (2, 2, 1)),
        (fc.Conv2d(3, 4, (2, 5), padding="same", dilation=(3, 1)), (9, 8, 3), (9, 8, 4)),
        (fc.Conv2d(3, 4, 3, padding=((0, 2), (1, 0))), (4, 4, 3), (4, 3, 4)),
        (fc.Conv1d(2, 6, 4, stride=3, padding=2, groups=2), (11, 2), (4, 6)),
        (fc.Conv3d(2, 3, (1, 2, 3)), (4, 5, 6, 2), (4, 4, 4, 3)),
        (fc.ConvTranspose2d(3, 4, 4, stride=2, padding=1), (7, 6, 3), (14, 12, 4)),
        (fc.ConvTranspose2d(3, 4, 3, (2, 3), 1, (1, 2), dilation=2), (7, 6, 3), (16, 20, 4)),
        (fc.ConvTranspose2d(3, 4, (2, 5), padding="same", dilation=(3, 1)), (9, 8, 3), (9, 8, 4)),
        (fc.ConvTranspose2d(3, 4, 3, padding=((0, 2), (1, 0))), (4, 4, 3), (4, 5, 4)),
        (fc.ConvTranspose1d(2, 6, 2, stride=3, groups=2), (4, 2), (11, 6)),
        (fc.ConvTranspose3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), (4, 5, 6, 2), (4, 4, 6, 3)),
        (fc.MaxPool2d(3, stride=2), (55, 55, 96), (27, 27, 96)),
        (fc.MaxPool2d(2, ceil_mode=True), (7, 8, 3), (4, 4, 3)),
        (fc.MaxPool2d(2, stride=2, padding=1, ceil_mode=True), (3, 3, 1), (2, 2, 1)),
        (fc.AvgPool3d(2, stride=1), (3, 4, 5, 2), (2, 3, 4, 2)),
        (fc.Flatten(), (7, 7, 50), (2450,)),
        (fc.Linear(2450, 500), (2450,), (500,)),
    ],
    ids=repr,
)
def test_output_shape(layer, shape, output):
    assert layer.output_shape(shape) == output


def test_worked_convolution_costs():
    layer = fc.Conv2d(3, 10, 5, padding=2)
    assert layer.parameter_count == 760
    assert layer.multiply_adds((32, 32, 10)) == 768_000


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fc.Conv2d(3, 4, 3, groups=2), "in_channels=3, which groups=2 does not divide"),
        (lambda: fc.Conv2d(4, 6, 3, groups=4), "out_channels=6, which groups=4 does not divide"),
        (lambda: fc.Conv2d(3, 4, 0), "kernel_size=0"),
        (lambda: fc.Conv2d(3, 4, 3, stride=(1, 0)), "stride=0"),
        (lambda: fc.Conv2d(3, 4, (3, 3, 3)), "2 numbers"),
        (lambda: fc.Conv2d(3, 4, 3.0), "kernel_size=3.0"),
        (lambda: fc.Conv2d(3, 4, 3, padding=-1), "padding=-1"),
        (lambda: fc.Conv2d(3, 4, 3, padding=((1, 1),)), "pairs"),
        (lambda: fc.Conv2d(3, 4, 3, padding="full"), "'same' and 'valid'"),
        (lambda: fc.Conv2d(3, 4, 3, stride=2, padding="same"), "needs stride 1"),
        (lambda: fc.Conv2d(3, 4, 3, padding_mode="mirror"), "choose one of 'zeros', 'reflect'"),
        (lambda: fc.Conv2d(3, 4, 3, weight_init="he"), "fastcnn.initializers"),
        (lambda: fc.Conv2d(True, 4, 3), "in_channels=True"),
        (lambda: fc.ConvTranspose2d(4, 6, 3, groups=4), "out_channels=6, which groups=4 does not divide"),
        (lambda: fc.ConvTranspose2d(3, 4, 3, output_padding=1), "output_padding=1"),
        (lambda: fc.ConvTranspose2d(3, 4, 3, stride=(2, 3), output_padding=2), "smaller than one of them"),
        (lambda: fc.ConvTranspose2d(3, 4, 3, stride=2, output_padding=-1), "output_padding=-1"),
        (lambda: fc.ConvTranspose2d(3, 4, 3, stride=2, padding="same"), "needs stride 1"),
        (lambda: fc.ConvTranspose2d(3, 4, 3, padding_mode="circular"), "only 'zeros'"),
        (lambda: fc.MaxPool2d(2, padding=2), "at most half"),
        (lambda: fc.AvgPool2d(2, divisor_override=0), "divisor_override=0"),
        (lambda: fc.Linear(0, 10), "in_features=0"),
        (lambda: fc.ReLU(dtype="float16"), "choose float32 or float64"),
        (lambda: fc.ReLU(device="gpu"), "choose one of cpu, reference"),
    ],
)
def test_wrong_arguments_get_one_sentence(make, sentence):
    with pytest.raises(fc.FastcnnError) as caught:
        make()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "shape", "sentence"),
    [
        (fc.Conv2d(3, 4, 3), (8, 8, 4), "C = 3"),
        (fc.Conv2d(3, 4, 3), (8, 8), "C = 3"),
        (fc.Conv2d(3, 4, 3), (3, 8, 8), "from_nchw"),
        (fc.Conv2d(3, 4, 9, padding=1), (6, 8, 3), "at least (9, 9) pixels"),
        (fc.ConvTranspose2d(3, 4, 3), (8, 8, 4), "C = 3"),
        (fc.ConvTranspose3d(3, 4, 3), (8, 8, 3), "needs (D, H, W, C)"),
        (fc.ConvTranspose2d(3, 4, 3), (3, 8, 8), "from_nchw"),
        (fc.ConvTranspose2d(3, 4, 3, stride=2, padding=(4, 1)), (3, 8, 3), "at least (4, 1) pixels"),
        (fc.MaxPool2d(3), (2, 9, 1), "windows of (3, 3) pixels"),
        (fc.MaxPool2d(2, padding=1, dilation=2), (1, 1, 1), "windows of (3, 3) pixels"),
        (fc.MaxPool2d(2), (8, 8), "(H, W, C)"),
        (fc.Linear(16, 4), (4, 4), "put a Flatten before it"),
        (fc.Linear(16, 4), (15,), "needs (16,)"),
    ],
)
def test_wrong_input_shapes_name_the_layer(layer, shape, sentence):
    with pytest.raises(fc.ShapeError) as caught:
        layer.output_shape(shape)
    assert sentence in str(caught.value)
    assert repr(layer) in str(caught.value)
    assert str(shape) in str(caught.value)


def test_number_of_inputs_is_checked():
    with pytest.raises(fc.ShapeError, match=r"got 1 inputs, and needs 2"):
        fc.Add().output_shape((3,))
    with pytest.raises(fc.ShapeError, match=r"needs two of one shape"):
        fc.Add().output_shape((3,), (4,))


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(fc.Conv2d(3, 4, (3, 5), padding=((0, 1), (2, 2)), bias=False)) == (
        "Conv2d(3, 4, (3, 5), padding=((0, 1), (2, 2)), bias=False)"
    )
    assert repr(fc.ConvTranspose2d(3, 4, 3, 2, 1, (0, 1), bias=False)) == (
        "ConvTranspose2d(3, 4, 3, stride=2, padding=1, bias=False, output_padding=(0, 1))"
    )
    assert repr(fc.MaxPool2d(2)) == "MaxPool2d(2)"


def test_forward_and_backward_by_hand():
    layer = fc.Linear(2, 1, **REFERENCE)
    layer.params["weight"] = [[2.0], [-3.0]]
    layer.params["bias"] = [1.0]
    x = np.array([[1.0, 1.0], [4.0, 0.5]], np.float32)
    np.testing.assert_array_equal(layer.forward(x), [[0.0], [7.5]])
    np.testing.assert_array_equal(layer.backward(np.array([[1.0], [10.0]])), [[2, -3], [20, -30]])
    np.testing.assert_array_equal(layer.grads["weight"], [[41.0], [6.0]])
    np.testing.assert_array_equal(layer.grads["bias"], [11.0])


def test_results_belong_to_the_caller(rng):
    layer = fc.ReLU(**REFERENCE)
    x = rng.standard_normal((2, 3))
    first = layer.forward(x)
    kept = first.copy()
    layer.forward(-x)
    np.testing.assert_array_equal(first, kept)


def test_float64_input_promotes_the_layer_exactly(rng):
    layer = fc.Conv2d(2, 3, 3, **REFERENCE)
    weight = layer.params["weight"].copy()
    assert layer.forward(rng.standard_normal((1, 4, 4, 2)).astype(np.float16)).dtype == np.float32
    assert layer.forward(rng.standard_normal((1, 4, 4, 2))).dtype == np.float64
    assert layer.params["weight"].dtype == np.float64
    np.testing.assert_array_equal(layer.params["weight"], weight)


@pytest.mark.parametrize("x", [np.ones((1, 4, 4, 2), np.uint8), np.ones((1, 4, 4, 2), bool)])
def test_integer_images_are_refused(x):
    with pytest.raises(fc.DataError, match=r"astype\('float32'\) / 255"):
        fc.MaxPool2d(2, **REFERENCE).forward(x)


@pytest.mark.parametrize("x", [["a", "b"], [[1.0], [1.0, 2.0]], np.ones((2, 2), complex), None])
def test_what_is_no_array_of_numbers_is_refused(x):
    with pytest.raises(fc.DataError, match=r"give a NumPy array of floats"):
        fc.ReLU(**REFERENCE).forward(x)


def test_wrong_arrays_are_refused(rng):
    layer = fc.Conv2d(3, 4, 3, **REFERENCE)
    with pytest.raises(fc.ArgumentError, match=r"call its forward first"):
        layer.backward(np.ones((1, 2, 2, 4)))
    with pytest.raises(fc.ShapeError, match=r"from_nchw"):
        layer.forward(rng.standard_normal((2, 3, 8, 8)))
    layer.forward(rng.standard_normal((2, 8, 8, 3)))
    with pytest.raises(fc.ShapeError, match=r"shape \(2, 6, 6, 3\)"):
        layer.backward(np.ones((2, 6, 6, 3)))
    with pytest.raises(fc.ShapeError, match=r"batches of 2, 3"):
        fc.Add(**REFERENCE).forward(np.ones((2, 1)), np.ones((3, 1)))
    with pytest.raises(fc.ArgumentError, match=r"use its forward method"):
        layer(rng.standard_normal((2, 8, 8, 3)))


def test_parameters_are_assigned_in_place():
    layer = fc.Conv2d(1, 2, 3, **REFERENCE)
    view = layer.params["weight"]
    layer.params.update(weight=np.full((3, 3, 1, 2), 2.0))
    assert layer.params["weight"] is view
    assert (view == 2).all()
    with pytest.raises(fc.ShapeError, match=r"has shape \(3, 3, 1, 2\)"):
        layer.params["weight"] = np.zeros((3, 3, 2, 1))
    with pytest.raises(fc.ArgumentError, match=r"choose one of weight, bias"):
        layer.params["wieght"] = view


def test_manual_seed_governs_standalone_layers():
    def draw(seed):
        fc.manual_seed(seed)
        return fc.Linear(4, 3, **REFERENCE).params["weight"]

    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).any()


def test_empty_batch(rng):
    layer = fc.Conv2d(2, 3, 3, **REFERENCE)
    assert layer.forward(np.empty((0, 5, 5, 2))).shape == (0, 3, 3, 3)
    assert layer.backward(np.empty((0, 3, 3, 3))).shape == (0, 5, 5, 2)
    assert (layer.grads["weight"] == 0).all()


def test_layout_converters(rng):
    x = rng.standard_normal((2, 3, 5, 4))
    y = fc.from_nchw(x)
    assert y.shape == (2, 5, 4, 3)
    assert y.flags.c_contiguous
    assert y[1, 4, 2, 0] == x[1, 0, 4, 2]
    np.testing.assert_array_equal(fc.to_nchw(y), x)
    with pytest.raises(fc.ShapeError, match=r"at least three axes"):
        fc.from_nchw(np.ones((2, 3)))
