"""Graphs: names, errors, sharing, fusion, plans, measures, and gradients by finite differences."""

import numpy as np
import pytest

import fastcnn as fc


def small(**keywords) -> fc.Sequential:
    return fc.Sequential(
        fc.Conv2d(2, 3, 3, padding=1), fc.ReLU(), fc.MaxPool2d(2), fc.Flatten(),
        fc.Linear(12, 5), fc.ReLU(), fc.Linear(5, 4),
        input_shape=(4, 4, 2), **keywords,
    ).to("reference")  # fmt: skip


def branching(fuse: bool = True) -> fc.Graph:
    x = fc.Input(5, 6, 2)
    h = fc.ReLU()(fc.Conv2d(2, 3, 3, padding=1)(x))
    twice = fc.Conv2d(3, 3, 3, padding=1, name="twice")
    y = fc.AvgPool2d(2)(fc.ReLU()(twice(twice(h)) + fc.Conv2d(3, 3, 1)(h)) + h)
    net = fc.Graph(x, fc.Linear(18, 4)(fc.Flatten()(y)), fuse=fuse)
    return net.to("reference")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 4, 4, 2)).astype(np.float32)


def test_layers_are_named_by_kind_and_keep_the_names_they_have():
    net = fc.Sequential(fc.ReLU(), fc.ReLU(name="relu2"), fc.ReLU(), fc.Identity(name="door"), input_shape=(3,))
    assert [name for name, _ in net.named_layers()] == ["relu1", "relu2", "relu3", "door"]
    assert net[1].name == "relu2"
    assert len(net) == 4
    assert list(net)[3] is net[-1]
    assert net[1:3] == (net[1], net[2])


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(fc.ArgumentError, match=r"2 layers are named 'a'"):
        fc.Sequential(fc.ReLU(name="a"), fc.Identity(name="a"), input_shape=(3,))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fc.Sequential(fc.Flatten(), fc.Linear(9, 2), input_shape=(3, 4)), "linear1"),
        (lambda: fc.Sequential(fc.Conv2d(1, 2, 9), input_shape=(8, 8, 1)), "conv1"),
        (lambda: fc.Sequential(fc.ReLU, input_shape=(3,)), "layers only"),
        (lambda: fc.Sequential(fc.ReLU(), input_shape=(3, -1)), "Input(3, -1) was given"),
        (lambda: fc.Sequential(fc.ReLU(), input_shape=()), "Input() was given"),
        (lambda: fc.Sequential(fc.ReLU(), input_shape=28), "input_shape=28"),
        (lambda: fc.Input((28, 28, 1)), "Input((28, 28, 1)) was given"),
        (lambda: fc.Graph([], fc.Input(3)), "inputs=[]"),
        (lambda: fc.Graph(fc.Input(3), fc.ReLU()(fc.Input(4))), "list it among"),
        (lambda: fc.Graph(fc.Input(3), 7), "outputs=7"),
    ],
)
def test_wrong_graphs_get_one_sentence(make, sentence):
    with pytest.raises(fc.FastcnnError) as caught:
        make()
    assert sentence in str(caught.value)


def test_inputs_must_be_inputs_and_used():
    x, other = fc.Input(3), fc.Input(4)
    h = fc.ReLU()(x)
    with pytest.raises(fc.ArgumentError, match=r"leads to no output"):
        fc.Graph([x, other], h)
    with pytest.raises(fc.ArgumentError, match=r"is no Input"):
        fc.Graph(h, fc.ReLU()(h))
    with pytest.raises(fc.ArgumentError, match=r"one node twice"):
        fc.Graph(x, [h, h])


def test_layers_on_two_devices_are_refused():
    with pytest.raises(fc.ArgumentError, match=r"cpu and reference"):
        fc.Sequential(fc.ReLU(), fc.ReLU(device="reference"), input_shape=(3,))


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((5, 2, 4, 4), "from_nchw"),
        ((4, 4, 2), "x[None]"),
        ((5, 4, 5, 2), "resize"),
        ((5, 4, 4, 3), "needs (N, 4, 4, 2)"),
        ((), "needs (N, 4, 4, 2)"),
    ],
)
def test_wrong_images_are_refused_with_a_hint(shape, hint):
    for method in (small().forward, small().predict):
        with pytest.raises(fc.ShapeError) as caught:
            method(np.ones(shape))
        assert hint in str(caught.value)


def test_missing_channel_axis_gets_a_hint():
    net = fc.Sequential(fc.Flatten(), input_shape=(4, 4, 1)).to("reference")
    with pytest.raises(fc.ShapeError) as caught:
        net.forward(np.ones((2, 4, 4)))
    assert "x[..., None]" in str(caught.value)


def test_several_inputs_and_outputs(images):
    a, b = fc.Input(3), fc.Input(3)
    net = fc.Graph([a, b], [a + b, fc.ReLU()(b)]).to("reference")
    x, y = np.ones((2, 3)), np.full((2, 3), -2.0)
    total, rectified = net.forward(x, y)
    np.testing.assert_array_equal(total, np.full((2, 3), -1.0))
    np.testing.assert_array_equal(rectified, np.zeros((2, 3)))
    da, db = net.backward(np.full((2, 3), 5.0), np.ones((2, 3)))
    np.testing.assert_array_equal(da, np.full((2, 3), 5.0))
    np.testing.assert_array_equal(db, np.full((2, 3), 5.0))
    with pytest.raises(fc.ShapeError, match=r"got 1 inputs and has 2"):
        net.forward(x)
    with pytest.raises(fc.ShapeError, match=r"hold 2, 3 images"):
        net.forward(x, np.ones((3, 3)))
    net.forward(x, y)
    with pytest.raises(fc.ShapeError, match=r"got 1 gradients, outputs: 2"):
        net.backward(x)


def test_node_added_to_itself_gets_both_gradients():
    x = fc.Input(3)
    h = fc.ReLU()(x)
    net = fc.Graph(x, h + h).to("reference")
    np.testing.assert_array_equal(net.forward(np.ones((1, 3))), np.full((1, 3), 2.0))
    np.testing.assert_array_equal(net.backward(np.ones((1, 3))), np.full((1, 3), 2.0))
    with pytest.raises(TypeError):
        h + 1


@pytest.mark.parametrize("make", [small, branching])
def test_gradients_are_finite_differences(make):
    net = make().astype("float64")
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, *net.input_shapes[0]))
    direction = rng.standard_normal((2, *net.output_shapes[0]))
    net.forward(x)
    dx = net.backward(direction)

    def slope(array: np.ndarray, index: tuple[int, ...]) -> float:
        step, kept, values = 1e-6, array[index], []
        for sign in (1, -1):
            array[index] = kept + sign * step
            values.append((net.predict(x) * direction).sum())
        array[index] = kept
        return (values[0] - values[1]) / (2 * step)

    checked = [(x, dx)]
    for layer in net.layers:
        checked += [(layer.params[name], layer.grads[name].copy()) for name in layer.params]
    for values, gradient in checked:
        for _ in range(6):
            index = tuple(rng.integers(size) for size in values.shape)
            assert gradient[index] == pytest.approx(slope(values, index), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_fusion_changes_no_bit(device):
    rng = np.random.default_rng(6)
    nets = [branching(fuse).to(device) for fuse in (True, False)]
    for net in nets:
        net.initialize(8)
    plain, fused = (net.plan(3, training=True) for net in reversed(nets))
    assert [len(nodes) for nodes in fused.fused.values()] == [1, 2]
    assert plain.fused == {}
    x = rng.standard_normal((3, 5, 6, 2)).astype(np.float32)
    dy = rng.standard_normal((3, 4)).astype(np.float32)
    results = [[net.forward(x), net.backward(dy)] for net in nets]
    for net, result in zip(nets, results, strict=True):
        result += [gradient for layer in net.layers for gradient in layer.grads.values()]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_relu_is_not_fused_where_its_input_is_wanted_elsewhere():
    x = fc.Input(3)
    h = fc.Linear(3, 3)(x)
    net = fc.Graph(x, [h, fc.ReLU()(h)]).to("reference")
    assert net.plan(1, training=False).fused == {}
    y, rectified = net.forward(np.array([[1.0, -2.0, 3.0], [-1.0, 2.0, -3.0]]))
    assert (y < 0).any()
    np.testing.assert_array_equal(rectified, np.maximum(y, 0))


def test_predict_cuts_any_number_of_images_into_batches(images):
    net = small().astype("float64")
    whole = net.forward(images)
    for batch_size in (1, 2, 5, 99):
        np.testing.assert_allclose(net.predict(images, batch_size=batch_size), whole, rtol=1e-12)
    assert net.predict(images[:0]).shape == (0, 4)
    with pytest.raises(fc.ArgumentError, match=r"batch_size=0"):
        net.predict(images, batch_size=0)


def test_predict_leaves_a_waiting_backward_alone(images):
    net = small()
    net.forward(images)
    expected = net.backward(np.ones((5, 4)))
    net.forward(images)
    net.predict(-images, batch_size=5)
    np.testing.assert_array_equal(net.backward(np.ones((5, 4))), expected)


def test_backward_needs_its_own_forward(images):
    net = small()
    with pytest.raises(fc.ArgumentError, match=r"call forward again first"):
        net.backward(np.ones((5, 4)))
    net.forward(images)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1))
    trainer.step(images, np.zeros(5, int))
    with pytest.raises(fc.ArgumentError, match=r"call forward again first"):
        net.backward(np.ones((5, 4)))


def test_only_a_few_plans_are_kept(images):
    net = small()
    for size in range(1, 20):
        net.predict(np.ones((size, 4, 4, 2)), batch_size=size)
    assert len(net._plans) <= 4
    assert net.plan(19, training=False) is net.plan(19, training=False)


def test_inputs_are_copied_and_untouched(images):
    net = small()
    kept = images.copy()
    dy = np.ones((5, 4))
    net.forward(images)
    net.backward(dy)
    np.testing.assert_array_equal(images, kept)
    assert (dy == 1).all()


def test_network_takes_back_layers_that_another_one_used(images):
    net = small()
    before = net.predict(images)
    trunk = fc.Sequential(*net[:4], input_shape=(4, 4, 2)).to("reference")
    features = trunk.predict(images)
    np.testing.assert_array_equal(net.predict(images), before)
    head = fc.Sequential(*net[4:], input_shape=(12,)).to("reference")
    np.testing.assert_array_equal(head.predict(features), before)
    net[0].params["weight"] *= 2
    net[0].params["bias"] *= 2
    np.testing.assert_array_equal(trunk.predict(images), 2 * features)
    assert (net.predict(images) != before).any()


def test_standalone_promotion_does_not_change_a_network(images):
    net = small()
    before = net.predict(images)
    net[0].forward(images.astype(np.float64))
    after = net.predict(images)
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after, before)


def test_seeds_and_dtypes(images):
    net, same, wide, other = small(), small(), small().astype("float64"), small()
    for each, seed in ((net, 1), (same, 1), (wide, 1), (other, 2)):
        each.initialize(seed)
    np.testing.assert_array_equal(net.predict(images), same.predict(images))
    np.testing.assert_allclose(net.predict(images), wide.predict(images), rtol=1e-4, atol=1e-5)
    assert wide.predict(images).dtype == np.float64
    assert (net.predict(images) != other.predict(images)).any()
    for seed in (-1, 1.5, True, "a"):
        with pytest.raises(fc.ArgumentError, match=r"seed="):
            net.initialize(seed)


def test_parameters_share_one_flat_array():
    net = small()
    store = net.own_store()
    for layer in net.layers:
        for name, value in layer.params.items():
            assert np.shares_memory(value, store.values)
            assert np.shares_memory(layer.grads[name], store.gradients)
            assert value.ctypes.data % 64 == 0


def test_measures_of_lenet5():
    rows = {row.name: row for row in fc.models.lenet5().measures()}
    assert rows["conv2"].multiply_adds == 10 * 10 * 16 * 150
    assert rows["conv1"].receptive_field == (5, 5)
    assert rows["pool2"].receptive_field == (16, 16)
    assert rows["linear1"].receptive_field is None
    assert sum(row.parameters for row in rows.values()) == 61_706


def test_receptive_field_recurrence():
    net = fc.Sequential(
        *(fc.Conv2d(1, 1, 3) for _ in range(4)), fc.Conv2d(1, 1, 3, stride=2, dilation=2),
        fc.Conv2d(1, 1, (3, 1)), input_shape=(32, 32, 1),
    )  # fmt: skip
    fields = [row.receptive_field for row in net.measures()]
    assert fields == [(3, 3), (5, 5), (7, 7), (9, 9), (13, 13), (17, 13)]


def test_shared_layer_counts_its_parameters_once():
    net = branching()
    assert net.parameter_count == sum(row.parameters for row in net.measures())
    text = str(net).splitlines()
    assert text[0].split()[:2] == ["layer", "output"]
    assert text == net.summary().splitlines()
    assert text[-1].startswith("total")
    assert f"{net.parameter_count:,}" in text[-1]
