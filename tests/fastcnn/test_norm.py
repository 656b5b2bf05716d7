"""Normalization layers: running statistics, modes, refusals, folding, population statistics, whitening."""

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.layers import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm

RNG = np.random.default_rng(0)


def images(*shape):
    return RNG.standard_normal(shape)


@pytest.mark.parametrize(
    ("kind", "momentum"),
    [
        ("BatchNorm2d", 0.1), ("BatchNorm2d", 0.0), ("BatchNorm2d", 1.0), ("BatchNorm2d", None),
        ("InstanceNorm2d", 0.3), ("InstanceNorm2d", 1.0), ("InstanceNorm2d", None),
    ],
)  # fmt: skip
def test_running_statistics_as_pytorch(kind, momentum):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    ours = getattr(fc, kind)(3, momentum=momentum, track_running_stats=True, dtype="float64", device="reference")
    theirs = getattr(torch.nn, kind)(3, momentum=momentum, track_running_stats=True, dtype=torch.float64)
    for _ in range(3):
        x = 2 + 3 * images(4, 5, 6, 3)
        y = ours.forward(x)
        np.testing.assert_allclose(y, theirs(torch.tensor(x).movedim(-1, 1)).movedim(1, -1).detach(), atol=1e-10)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(ours.state[name], getattr(theirs, name), rtol=1e-12, err_msg=name)
    ours.eval()
    theirs.eval()
    x, dy = images(2, 5, 6, 3), images(2, 5, 6, 3)
    xt = torch.tensor(x).movedim(-1, 1).requires_grad_()
    yt = theirs(xt)
    np.testing.assert_allclose(ours.forward(x), yt.movedim(1, -1).detach(), atol=1e-10)
    yt.backward(torch.tensor(dy).movedim(-1, 1))
    np.testing.assert_allclose(ours.backward(dy), xt.grad.movedim(1, -1), atol=1e-10)
    if kind == "BatchNorm2d":
        np.testing.assert_allclose(ours.grads["weight"], theirs.weight.grad, atol=1e-10)
        np.testing.assert_allclose(ours.grads["bias"], theirs.bias.grad, atol=1e-10)
    assert ours.state["num_batches_tracked"] == theirs.num_batches_tracked


def test_prediction_without_running_statistics_takes_the_batchs():
    layer, x = BatchNorm2d(3, track_running_stats=False, device="reference"), images(4, 5, 6, 3)
    y = layer.forward(x)
    np.testing.assert_array_equal(layer.eval().forward(x), y)
    assert not layer.state


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(BatchNorm2d(3), (1, 1, 1, 3)), (BatchNorm1d(3), (1, 3)), (InstanceNorm2d(3), (4, 1, 1, 3))],
)
def test_one_value_a_channel_is_refused_in_training(layer, shape):
    with pytest.raises(fc.ShapeError, match=r"in training, with one") as caught:
        layer.forward(np.ones(shape, np.float32))
    assert ("track_running_stats=True" in str(caught.value)) == (not layer.tracks)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (BatchNorm1d(3, track_running_stats=False), (1, 3)), (InstanceNorm2d(3), (4, 1, 1, 3)),
        (BatchNorm2d(3, track_running_stats=False), (1, 1, 1, 3)),
        (fc.BatchNorm3d(3, track_running_stats=False), (1, 1, 1, 1, 3)),
    ],
)  # fmt: skip
def test_what_is_said_of_one_value_is_true_in_prediction_too(layer, shape, device):
    """Nobody is told to do what was done; what is told, helps."""
    net = fc.Sequential(type(layer)(3, track_running_stats=False), input_shape=shape[1:]).to(device)
    for use in (layer.eval().forward, net.predict, net.eval().forward):
        with pytest.raises(fc.ShapeError) as caught:
            use(np.ones(shape, np.float32))
        sentence = str(caught.value)
        assert "in training" not in sentence
        assert "keeps no running statistics" in sentence
        assert "build it with track_running_stats=True and let it take running statistics by eval()" in sentence
    assert type(layer)(3, track_running_stats=True, device=device).eval().forward(np.ones(shape)).shape == shape


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d"])
def test_empty_batches_are_counted_as_in_pytorch(kind, momentum, device):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    how = {"momentum": momentum, "track_running_stats": True}
    ours = getattr(fc, kind)(3, dtype="float64", device=device, **how)
    theirs = getattr(torch.nn, kind)(3, dtype=torch.float64, **how)
    shape = (*(5, 4, 3)[: int(kind[-2])], 3)
    for N in (0, 4, 0, 2, 0):
        x = 1 + images(N, *shape)
        ours.forward(x)
        if N or kind.startswith("Batch"):  # of no image PyTorch's InstanceNorm makes NaN
            theirs(torch.tensor(x).movedim(-1, 1))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            want = getattr(theirs, name).numpy()
            np.testing.assert_allclose(ours.state[name], np.atleast_1d(want), rtol=1e-12, err_msg=name)


def test_one_pixel_in_prediction_and_empty_batches():
    layer = BatchNorm2d(3, device="reference")
    assert layer.forward(np.ones((0, 4, 4, 3), np.float32)).shape == (0, 4, 4, 3)
    np.testing.assert_array_equal(layer.state["running_var"], 1)
    assert layer.eval().forward(np.ones((1, 1, 1, 3), np.float32)).shape == (1, 1, 1, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BatchNorm2d(0), "num_features=0"),
        (lambda: BatchNorm2d(3, eps=-1.0), "eps=-1.0"),
        (lambda: BatchNorm2d(3, eps=float("nan")), "eps=nan"),
        (lambda: BatchNorm2d(3, momentum=2), "momentum=2"),
        (lambda: GroupNorm(3, 8), "does not divide"),
        (lambda: LayerNorm(()), "at least of one"),
        (lambda: LayerNorm((3, 0)), "normalized_shape=0"),
        (lambda: fc.LocalResponseNorm(5, beta=0), "beta=0"),
        (lambda: fc.LocalResponseNorm(0), "size=0"),
        (lambda: fc.LocalContrastNorm(4), "odd"),
        (lambda: fc.LocalContrastNorm(5, mode="neither"), "mode='neither'"),
        (lambda: fc.Whitening("lda"), "kind='lda'"),
        (lambda: fc.Whitening(eps=-1), "eps=-1"),
    ],
)
def test_arguments_are_refused_in_one_sentence(make, words):
    with pytest.raises(fc.ArgumentError, match=words):
        make()


def test_shapes_are_refused_with_a_hint():
    with pytest.raises(fc.ShapeError, match="from_nchw"):
        BatchNorm2d(3).output_shape((3, 8, 8))
    with pytest.raises(fc.ShapeError, match=r"\(H, W, C\)"):
        BatchNorm2d(3).output_shape((8, 3))
    with pytest.raises(fc.ShapeError, match=r"\(7, 3\) as its last axes"):
        LayerNorm((7, 3)).output_shape((7, 4))
    with pytest.raises(fc.ShapeError, match="C = 8"):
        GroupNorm(2, 8).output_shape((4, 4))
    assert BatchNorm1d(4).output_shape((4,)) == (4,)
    assert BatchNorm1d(4).output_shape((9, 4)) == (9, 4)


def small_net(device="reference"):
    return fc.Sequential(
        fc.Conv2d(1, 4, 3, bias=False), BatchNorm2d(4), fc.ReLU(), fc.Conv2d(4, 4, 3), GroupNorm(2, 4), fc.ReLU(),
        fc.LocalResponseNorm(3), fc.Flatten(), fc.Linear(64, 6), BatchNorm1d(6, momentum=None), LayerNorm(6),
        fc.Linear(6, 3), input_shape=(8, 8, 1),
    ).to(device)  # fmt: skip


def test_a_network_trains_is_saved_and_comes_back(tmp_path):
    net = small_net("cpu")
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1), seed=0)
    x, labels = images(30, 8, 8, 1), np.arange(30) % 3
    losses = [trainer.step(x, labels) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    assert net[1].state["num_batches_tracked"][0] == 20
    before = {name: value.copy() for name, value in net[1].state.items()}
    y = net.predict(x)
    for name, value in before.items():
        np.testing.assert_array_equal(net[1].state[name], value)
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again.predict(x), y)
    assert repr(again[9]) == "BatchNorm1d(6, momentum=None)"


def test_no_weight_means_no_parameters_but_the_same_gradient():
    x, dy = images(5, 7), images(5, 7)
    plain, affine = LayerNorm(7, elementwise_affine=False, device="reference"), LayerNorm(7, device="reference")
    np.testing.assert_array_equal(plain.forward(x), affine.forward(x))
    np.testing.assert_array_equal(plain.backward(dy), affine.backward(dy))
    assert plain.parameter_count == 0


def trained(norm):
    values = {
        "running_mean": RNG.standard_normal(norm.num_features),
        "running_var": RNG.uniform(0.1, 3, norm.num_features),
    }
    norm.state.update(values)
    for value in norm.params.values():
        value[...] = RNG.standard_normal(value.shape)
    return norm.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("make", "rank", "shape"),
    [
        (lambda bias: fc.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias), 2, (3, 5, 5, 4)),
        (lambda bias: fc.Conv1d(4, 6, 3, stride=2, bias=bias), 1, (3, 9, 4)),
        (lambda bias: fc.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=bias), 2, (3, 5, 5, 4)),
        (lambda bias: fc.ConvTranspose3d(2, 6, 2, bias=bias), 3, (2, 3, 3, 3, 2)),
        (lambda bias: fc.Linear(4, 6, bias=bias), 1, (3, 4)),
    ],
)
def test_folding_leaves_the_output(make, rank, shape, bias, affine):
    layer = make(bias).astype("float64")
    layer.device = "reference"
    norm = trained(getattr(fc, f"BatchNorm{rank}d")(6, affine=affine, dtype="float64", device="reference"))
    x = images(*shape)
    folded = fc.fold(layer, norm)
    assert type(folded) is type(layer)
    weight = layer.params["weight"].copy()
    np.testing.assert_allclose(folded.forward(x), norm.forward(layer.forward(x)), atol=1e-12)
    np.testing.assert_array_equal(layer.params["weight"], weight)


def test_folding_refuses_what_it_cannot_fold():
    with pytest.raises(fc.ShapeError, match="6 output channels"):
        fc.fold(fc.Linear(4, 6), BatchNorm1d(5))
    with pytest.raises(fc.ArgumentError, match="no running statistics"):
        fc.fold(fc.Linear(4, 6), BatchNorm1d(6, track_running_stats=False))
    with pytest.raises(fc.ArgumentError, match="give a convolution"):
        fc.fold(fc.ReLU(), BatchNorm1d(6))


def test_population_statistics_are_the_papers():
    net = small_net()
    batches = [2 + images(10, 8, 8, 1) for _ in range(3)]
    fc.estimate_population_statistics(net, batches)
    maps = [net[0].forward(x.astype(np.float32)).reshape(-1, 4) for x in batches]
    np.testing.assert_allclose(net[1].state["running_mean"], np.mean([m.mean(0) for m in maps], 0), rtol=1e-4)
    m = len(maps[0])
    unbiased = m / (m - 1) * np.mean([a.var(0) for a in maps], 0)
    np.testing.assert_allclose(net[1].state["running_var"], unbiased, rtol=1e-4)
    assert net[1].momentum == 0.1
    assert net[9].momentum is None
    assert net[1].state["num_batches_tracked"][0] == 0
    before = net[1].state["running_mean"].copy()
    with pytest.raises(fc.DataError, match="no images"):
        fc.estimate_population_statistics(net, [])
    with pytest.raises(fc.ShapeError, match="needs"):
        fc.estimate_population_statistics(net, [*batches, images(3, 9, 9, 1)])
    np.testing.assert_array_equal(net[1].state["running_mean"], before)
    assert net[1].momentum == 0.1
    with pytest.raises(fc.ArgumentError, match="nothing to estimate"):
        fc.estimate_population_statistics(fc.Sequential(fc.ReLU(), input_shape=(3,)), batches)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_population_statistics_replace_any_and_are_finite(device, value):
    batches = [2 + images(10, 8, 8, 1) for _ in range(3)]
    net, twin = small_net().to(device), small_net().to(device)
    net.initialize(0), twin.initialize(0)
    for layer in (net[1], net[9]):
        for name in ("running_mean", "running_var"):
            layer.state[name][1] = value
    for one in (net, twin):
        fc.estimate_population_statistics(one, batches)
    for index in (1, 9):
        for name in ("running_mean", "running_var"):
            np.testing.assert_allclose(net[index].state[name], twin[index].state[name], rtol=1e-4, atol=1e-5)
    before = [array.copy() for array in net[1].state.values()]
    batches[1][2, 3, 3] = value
    with np.errstate(invalid="ignore"), pytest.raises(fc.DataError, match="a running_mean that is not finite"):
        fc.estimate_population_statistics(net, batches)
    for array, kept in zip(net[1].state.values(), before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("kind", ["zca", "pca"])
def test_whitening(kind):
    x = images(400, 2, 3, 1) @ np.array([[1.5]]) + images(400, 1, 1, 1) + 4
    whitening = fc.Whitening(kind).fit(x)
    covariance = np.cov(x.reshape(400, 6).T)
    np.testing.assert_allclose(whitening.weight.T @ whitening.weight, np.linalg.inv(covariance), atol=1e-10)
    z = whitening.transform(x)
    assert z.shape == (x.shape if kind == "zca" else (400, 6))
    np.testing.assert_allclose(np.cov(z.reshape(400, 6).T), np.eye(6), atol=1e-10)
    np.testing.assert_allclose(z.reshape(400, 6).mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(whitening.inverse(z), x, atol=1e-10)
    assert whitening.transform(x.astype("float32")).dtype == np.float32
    if kind == "zca":
        np.testing.assert_allclose(whitening.weight, whitening.weight.T, atol=1e-12)
    else:
        principal = (x.reshape(400, 6) - x.reshape(400, 6).mean(0)) @ np.linalg.pinv(whitening.weight)
        assert np.all(np.diff(principal.var(0)) <= 0)


def test_whitening_refuses_in_one_sentence():
    flat = np.zeros((9, 4))
    flat[:, 0] = np.arange(9)
    with pytest.raises(fc.DataError, match="give an eps"):
        fc.Whitening().fit(flat)
    whitening = fc.Whitening(eps=0.1).fit(flat)
    np.testing.assert_allclose(whitening.inverse(whitening.transform(flat)), flat, atol=1e-12)
    with pytest.raises(fc.DataError, match="two rows"):
        fc.Whitening().fit(np.ones((1, 4)))
    with pytest.raises(fc.DataError, match="NaN"):
        fc.Whitening().fit(np.full((5, 4), np.nan))
    with pytest.raises(fc.ArgumentError, match="call its fit first"):
        fc.Whitening().transform(flat)
    with pytest.raises(fc.ShapeError, match=r"needs \(N, 4\)"):
        whitening.transform(np.ones((3, 5)))
