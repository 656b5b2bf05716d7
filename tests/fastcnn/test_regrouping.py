"""Joining, regrouping, padding, dropping and separable layers, padding modes and fixed filters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps import examples

import fastcnn as fc
from fastcnn import filters

REFERENCE = {"device": "reference"}
MODES = ("reflect", "replicate", "circular")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("layer", "shapes", "output"),
    [
        (fc.Reshape(7, 7, -1), [(2450,)], (7, 7, 50)),
        (fc.Reshape((4, 6)), [(2, 3, 4)], (4, 6)),
        (fc.Permute(-1, 0, 1), [(4, 5, 3)], (3, 4, 5)),
        (fc.Concat(0), [(2, 3), (5, 3), (1, 3)], (8, 3)),
        (fc.Concat(), [(4, 3)], (4, 3)),
        (fc.Add(), [(4, 3)] * 4, (4, 3)),
        (fc.Multiply(), [(3,), (5, 6, 3)], (5, 6, 3)),
        (fc.Multiply(), [(5, 6, 3), (1, 1, 3)], (5, 6, 3)),
        (fc.Multiply(), [(5, 6, 3), (5, 6, 1)], (5, 6, 3)),
        (fc.Multiply(), [(5, 6, 3), (1,)], (5, 6, 3)),
        (fc.Multiply(), [(5, 6, 3), (5, 1, 3)], (5, 6, 3)),
        (fc.Pad(1), [(4, 3)], (6, 3)),
        (fc.PadChannels(2, 0), [(4, 5, 3)], (4, 5, 5)),
        (fc.Pad((1, 0, 2)), [(4, 5, 6, 3)], (6, 5, 10, 3)),
        (fc.Pad(((1, 0), (2, 3)), "circular"), [(1, 5, 6)], (2, 10, 6)),
        (fc.Conv2d(3, 4, 3, padding=3, padding_mode="circular"), [(3, 4, 3)], (7, 8, 4)),
        (fc.SeparableConv2d(3, 10, 5, padding=2), [(32, 32, 3)], (32, 32, 10)),
        (fc.Dropout2d(), [(5, 6, 3)], (5, 6, 3)),
    ],
    ids=repr,
)
def test_output_shape(layer, shapes, output):
    assert layer.output_shape(*shapes) == output


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fc.Reshape(), "at most one of them -1"),
        (lambda: fc.Reshape(-1, 3, -1), "at most one of them -1"),
        (lambda: fc.Reshape(0, 3), "whole numbers >= 1"),
        (lambda: fc.Reshape(2.0, 3), "give whole numbers"),
        (lambda: fc.Permute(0, 2), "name every axis once"),
        (lambda: fc.Permute(), "name every axis once"),
        (lambda: fc.Concat("channels"), "axis='channels'"),
        (lambda: fc.Dropout(1.5), "from 0 to 1"),
        (lambda: fc.Dropout(float("nan")), "from 0 to 1"),
        (lambda: fc.Pad(-1), "padding=-1"),
        (lambda: fc.PadChannels(0, -1), "after=-1"),
        (lambda: fc.Pad("same"), "padding='same'"),
        (lambda: fc.Pad((1, 1, 1, 1)), "one to three axes"),
        (lambda: fc.Pad(1, "mirror"), "choose one of 'constant', 'reflect'"),
        (lambda: fc.Pad(1, "reflect", 3.0), "has none: leave it out"),
        (lambda: fc.Pad(1, value="0"), "give a number"),
        (lambda: fc.Conv1d(3, 4, 3, padding_mode="symmetric"), "choose one of 'zeros'"),
        (lambda: fc.SeparableConv2d(3, 4, 3, depth_multiplier=0), "depth_multiplier=0"),
        (lambda: filters.gaussian(0.0), "sigma=0.0"),
        (lambda: filters.box((3, 3, 3)), "2 numbers"),
        (lambda: filters.sobel_x(channels=0), "channels=0"),
    ],
)
def test_wrong_arguments_get_one_sentence(make, sentence):
    with pytest.raises(fc.ArgumentError) as caught:
        make()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "shapes", "sentence"),
    [
        (fc.Reshape(7, 7), [(50,)], "49 elements"),
        (fc.Reshape(7, -1), [(50,)], "a multiple of 7 elements"),
        (fc.Reshape(7), [(49,)], "7 elements"),
        (fc.Permute(1, 0), [(4, 5, 3)], "2 axes"),
        (fc.Concat(), [(4, 3), (5, 3)], "equal in all axes but 1"),
        (fc.Concat(2), [(4, 3)], "no axis 2"),
        (fc.Concat(), [], "needs 1 or more"),
        (fc.Add(), [(3,)], "needs 2 or more"),
        (fc.Add(), [(3,), (3,), (4,)], "all of one shape"),
        (fc.Multiply(), [(4, 5, 3), (4,)], "needs two of one shape"),
        (fc.Multiply(), [(4, 5, 3), (1, 5, 1)], "needs two of one shape"),
        (fc.Multiply(), [(4, 1), (1, 3)], "needs two of one shape"),
        (fc.Multiply(), [(3,)], "needs 2"),
        (fc.Pad(1), [(4,)], "one to three spatial axes"),
        (fc.Pad((1, 2)), [(4, 3)], "2 spatial axes"),
        (fc.Pad(4, "reflect"), [(4, 9, 3)], "at least 5 pixels"),
        (fc.Pad(5, "circular"), [(4, 9, 3)], "at least 5 pixels"),
        (fc.Conv2d(3, 4, 3, padding=4, padding_mode="reflect"), [(4, 9, 3)], "at least 5 pixels"),
        (fc.SeparableConv2d(3, 4, 3), [(3, 8, 8)], "from_nchw"),
        (fc.Dropout2d(), [(8, 3)], "needs (H, W, C)"),
    ],
)
def test_wrong_inputs_name_the_layer(layer, shapes, sentence):
    with pytest.raises(fc.ShapeError) as caught:
        layer.output_shape(*shapes)
    assert sentence in str(caught.value)
    assert repr(layer) in str(caught.value)


def test_repr_of_variadic_arguments():
    assert repr(fc.Reshape((7, 7, -1))) == "Reshape(7, 7, -1)"
    assert repr(fc.Permute(2, 0, 1)) == "Permute(2, 0, 1)"
    assert repr(fc.Pad(((1, 0), 2)[:1], "reflect")) == "Pad(((1, 0),), mode='reflect')"
    assert repr(fc.SeparableConv1d(3, 4, 5)) == "SeparableConv1d(3, 4, 5)"


def test_worked_costs_of_a_separable_convolution():
    M, K, R, S = 64, 128, 3, 5
    layer = fc.SeparableConv2d(M, K, (R, S), padding="same", bias=False)
    assert layer.parameter_count == M * R * S + M * K
    assert fc.Conv2d(M, K, (R, S), bias=False).parameter_count == M * K * R * S
    assert layer.multiply_adds((7, 9, K)) == 63 * (M * R * S + M * K)
    assert layer.window() == ((R, S), (1, 1))


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_separable_convolution_is_two(rng, device):
    one = fc.SeparableConv2d(3, 5, 3, 2, 1, depth_multiplier=2, dtype="float64", device=device)
    depthwise = fc.Conv2d(3, 6, 3, 2, 1, groups=3, bias=False, dtype="float64", device=device)
    pointwise = fc.Conv2d(6, 5, 1, dtype="float64", device=device)
    depthwise.params["weight"] = one.params["depthwise_weight"]
    pointwise.params.update(weight=one.params["pointwise_weight"], bias=one.params["bias"])
    x = rng.standard_normal((2, 7, 6, 3))
    np.testing.assert_array_equal(one.forward(x), pointwise.forward(depthwise.forward(x)))


@given(
    rank=st.integers(1, 3), mode=st.sampled_from(MODES), stride=st.integers(1, 3), taps=st.integers(1, 4),
    seed=st.integers(0, 99), N=st.integers(0, 2),
)  # fmt: skip
@examples(40)
def test_padding_modes_match_a_padded_image(rank, mode, stride, taps, seed, N):
    """A convolution with a mode is Pad, then the same without padding; in both rooms, with all gradients."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, rank)
    most = sizes - 1 if mode == "reflect" else sizes
    pairs = tuple(tuple(int(v) for v in rng.integers(0, m + 1, 2)) for m in most)
    if any(size + sum(pair) < taps for size, pair in zip(sizes, pairs, strict=True)):
        return
    kind, x = getattr(fc, f"Conv{rank}d"), rng.standard_normal((N, *sizes, 4))
    for device in ("cpu", "reference"):
        how = {"dtype": "float64", "device": device}
        layer = kind(4, 6, taps, stride, pairs, groups=2, padding_mode=mode, **how)
        plain, pad = kind(4, 6, taps, stride, groups=2, **how), fc.Pad(pairs, mode, **how)
        plain.params.update(layer.params)
        y = layer.forward(x)
        np.testing.assert_allclose(y, plain.forward(pad.forward(x)), rtol=1e-12, atol=1e-12)
        dy = rng.standard_normal(y.shape)
        np.testing.assert_allclose(layer.backward(dy), pad.backward(plain.backward(dy)), rtol=1e-12, atol=1e-12)
        for name, gradient in layer.grads.items():
            np.testing.assert_allclose(gradient, plain.grads[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_padding_modes_survive_fusion(rng, mode):
    """Convolution, ReLU and max-pooling in one kernel pad from the image too."""
    x = rng.standard_normal((3, 12, 12, 1)).astype("float32")
    results = []
    for fuse in (True, False):
        fc.manual_seed(1)
        conv = fc.Conv2d(1, 6, 5, padding=2, padding_mode=mode)
        net = fc.Sequential(conv, fc.ReLU(), fc.MaxPool2d(2), input_shape=(12, 12, 1), fuse=fuse)
        y = net.forward(x)
        results.append((y, net.backward(np.ones_like(y)), conv.grads["weight"].copy()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def squeeze_and_excite(x):
    """A residual block with a gate, a dense join and dropout: every new layer in one graph."""
    h = fc.SeparableConv2d(4, 8, 3, padding=1, padding_mode="reflect")(x)
    pooled = fc.Flatten()(fc.AvgPool2d(6)(h))
    gate = fc.Reshape(1, 1, -1)(fc.Linear(8, 8)(fc.ReLU()(pooled)))
    h = h * gate
    h = fc.Concat()(h, x, fc.Dropout2d(0.5)(x))
    h = fc.Add()(h, fc.Pad(1, "circular")(fc.Conv2d(16, 16, 3)(h)), h)
    h = fc.Flatten()(fc.MaxPool2d((6, 3))(fc.Permute(1, 0, 2)(h)))
    return fc.Linear(32, 3)(fc.Dropout(0.25)(h))


@pytest.fixture
def net():
    fc.manual_seed(3)
    x = fc.Input(6, 6, 4)
    return fc.Graph(x, squeeze_and_excite(x))


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_graph_of_all_has_right_gradients(net, rng, device):
    """Central differences along a random direction, at one and the same dropout step."""
    net.astype("float64").to(device)
    net.own_store()
    drops = [layer for layer in net.layers if isinstance(layer, fc.Dropout)]
    x, dy = rng.standard_normal((3, 6, 6, 4)), rng.standard_normal((3, 3))

    def loss():
        for layer in drops:
            layer.state["step"] = [5]
        return float(np.vdot(net.forward(x), dy))

    loss()
    dx = net.backward(dy)
    slope = np.vdot(dx, direction := rng.standard_normal(x.shape))
    for layer in net.layers:
        for name, gradient in layer.grads.items():
            move = rng.standard_normal(gradient.shape)
            exact, value = float(np.vdot(gradient, move)), layer.params[name].copy()
            ends = []
            for sign in (1, -1):
                layer.params[name] = value + sign * 1e-6 * move
                ends.append(loss())
            layer.params[name] = value
            assert abs(exact - (ends[0] - ends[1]) / 2e-6) < 1e-6 * max(1, abs(exact)), (layer, name)
    origin, ends = x.copy(), []
    for sign in (1, -1):
        x[...] = origin + sign * 1e-6 * direction
        ends.append(loss())
    assert abs(slope - (ends[0] - ends[1]) / 2e-6) < 1e-6 * max(1, abs(slope))


def test_a_graph_of_all_is_saved_with_its_dropout_step(net, rng, tmp_path):
    x = rng.standard_normal((2, 6, 6, 4)).astype("float32")
    net.forward(x)
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(net.predict(x), again.predict(x))
    np.testing.assert_array_equal(net.forward(x), again.forward(x))
    assert list(map(repr, net.layers)) == list(map(repr, again.layers))
    assert "all" in net.summary()


def test_dropout_follows_the_seed_and_the_step(rng):
    ones = np.ones((4, 50), np.float32)

    def draws(seed):
        fc.manual_seed(seed)
        layer = fc.Dropout(0.5)
        return [layer.forward(ones) for _ in range(2)], layer

    (first, second), layer = draws(1)
    (again, _), _ = draws(1)
    (other, _), _ = draws(2)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert (first != other).any()
    assert layer.state["step"] == 2
    layer.forward(ones)
    y = layer.forward(ones)
    np.testing.assert_array_equal(layer.backward(ones), y)


@pytest.mark.parametrize(("p", "value"), [(0, 1), (1, 0)])
def test_dropout_of_nothing_and_of_all(p, value):
    x = np.ones((2, 3), np.float32)
    layer = fc.Dropout(p)
    np.testing.assert_array_equal(layer.forward(x), x * value)
    np.testing.assert_array_equal(layer.backward(x), x * value)


def test_prediction_drops_nothing_and_copies_nothing(rng):
    net = fc.Sequential(fc.Dropout(0.9), fc.Dropout2d(0.9), input_shape=(4, 4, 2))
    x = rng.standard_normal((3, 4, 4, 2)).astype("float32")
    np.testing.assert_array_equal(net.predict(x), x)
    plan = net.plan(3, training=False)
    assert np.shares_memory(plan.inputs[0], plan.outputs[0])
    assert (net.forward(x) != x).any()
    net.eval()
    np.testing.assert_array_equal(net.forward(x), x)
    np.testing.assert_array_equal(net.backward(x), x)


def test_one_dropout_at_two_nodes_goes_back_as_it_went(rng):
    x, layer = fc.Input(64), fc.Dropout(0.5)
    net = fc.Graph(x, [layer(x), layer(x)])
    ones = np.ones((2, 64), np.float32)
    one, two = net.forward(ones)
    assert (one != two).any()
    np.testing.assert_array_equal(net.backward(ones, 10 * ones), one + 10 * two)


def test_a_sum_of_one_node_twice_and_its_gradient(rng):
    x = fc.Input(3)
    h = fc.Linear(3, 3)(x)
    net = fc.Graph(x, h + h + x)
    net.forward(np.ones((1, 3), np.float32))
    layer = net.layers[0]
    dy = np.array([[1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_allclose(net.backward(dy), 2 * dy @ layer.params["weight"].T + dy, rtol=1e-6)
    np.testing.assert_array_equal(layer.grads["bias"], 2 * dy[0])


def test_multiplying_a_node_by_a_number_is_refused():
    with pytest.raises(TypeError):
        fc.Input(3) * 2


def test_receptive_field_ends_where_positions_are_lost():
    net = fc.Sequential(fc.Conv2d(1, 2, 3), fc.Reshape(36, 2), fc.Conv1d(2, 2, 3), input_shape=(8, 8, 1))
    assert [row.receptive_field for row in net.measures()] == [(3, 3), None, None]


def test_fixed_filters_sum_to_what_they_should():
    for weight in (
        filters.box(3),
        filters.box((2, 5)),
        filters.gaussian(1.3),
        filters.gaussian(0.01),
        filters.sharpen(),
    ):
        np.testing.assert_allclose(weight.sum(), 1, rtol=1e-12)
    for weight in (filters.sobel_x(), filters.sobel_y(), filters.laplacian()):
        assert weight.sum() == 0
    assert filters.gaussian(1.5).shape == (11, 11, 1, 1)
    assert filters.gaussian(1.0, size=(3, 4), channels=5).shape == (3, 4, 1, 5)
    np.testing.assert_array_equal(filters.sobel_x(), filters.sobel_y().transpose(1, 0, 2, 3))


@pytest.mark.parametrize(
    ("weight", "along_rows", "along_columns"),
    [(filters.sobel_x(3), 8, 0), (filters.sobel_y(3), 0, 8), (filters.laplacian(3), 0, 0)],
    ids=["sobel_x", "sobel_y", "laplacian"],
)
def test_derivatives_of_a_slope(weight, along_rows, along_columns):
    layer = fc.Conv2d(3, 3, 3, groups=3, bias=False, dtype="float64")
    layer.params["weight"] = weight
    columns = np.broadcast_to(np.arange(6.0)[None, None, :, None], (1, 5, 6, 3))
    np.testing.assert_allclose(layer.forward(columns), along_rows)
    np.testing.assert_allclose(layer.forward(columns.transpose(0, 2, 1, 3)), along_columns)


def test_a_gaussian_blurs_by_its_deviation():
    weight = filters.gaussian(2.0)[:, :, 0, 0]
    at = np.arange(weight.shape[0]) - weight.shape[0] // 2
    assert abs((weight.sum(axis=0) * at**2).sum() - 4) < 0.2
