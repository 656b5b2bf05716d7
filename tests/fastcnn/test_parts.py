"""Losses, optimizers, initializers and backends by themselves."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import fastcnn as fc
from fastcnn import backend, initializers


def test_cross_entropy_is_the_mean_and_stable():
    loss = fc.CrossEntropy(device="reference")
    logits = np.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    assert loss.forward(logits, [0, 2]) == pytest.approx(math.log(3) / 2)
    np.testing.assert_allclose(loss.backward(), [[0, 0, 0], [1 / 6, 1 / 6, -1 / 3]], atol=1e-15)
    assert loss.forward(logits, [1, 2]) == pytest.approx(1e4 + math.log(3) / 2)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_cross_entropy_gradient_is_a_finite_difference(device):
    rng = np.random.default_rng(0)
    loss = fc.CrossEntropy(device=device)
    logits, labels = rng.standard_normal((3, 4)), np.array([0, 3, 1])
    loss.forward(logits, labels)
    gradient = loss.backward()
    for index in np.ndindex(3, 4):
        values = []
        for step in (1e-6, -1e-6):
            moved = logits.copy()
            moved[index] += step
            values.append(loss.forward(moved, labels))
        assert gradient[index] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-8)


def test_cross_entropy_refuses_what_it_cannot_read():
    loss = fc.CrossEntropy(device="reference")
    with pytest.raises(fc.ArgumentError, match=r"forward first"):
        loss.backward()
    with pytest.raises(fc.ShapeError, match=r"\(0, 3\)"):
        loss.forward(np.ones((0, 3)), np.ones(0, int))
    with pytest.raises(fc.ShapeError, match=r"\(3,\)"):
        loss.forward(np.ones(3), [0])
    with pytest.raises(fc.DataError, match=r"label 5 at position 1 is out of range: 3 classes"):
        loss.forward(np.ones((2, 3)), [0, 5])
    with pytest.raises(fc.DataError, match=r"label 200"):
        loss.forward(np.ones((1, 3)), np.array([200], np.uint8))
    with pytest.raises(fc.DataError, match=r"whole numbers"):
        loss.forward(np.ones((1, 3)), [0.5])
    with pytest.raises(fc.DataError, match=r"one label an image"):
        loss.forward(np.ones((2, 3)), [[0, 1]])


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({"lr": -0.1}, "lr=-0.1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"lr": 0.1, "momentum": 1.0}, "momentum=1.0"),
        ({"lr": 0.1, "weight_decay": -1}, "weight_decay=-1"),
        ({"lr": 0.1, "nesterov": True}, "momentum > 0"),
    ],
)
def test_sgd_refuses_impossible_numbers(keywords, name):
    with pytest.raises(fc.ArgumentError) as caught:
        fc.SGD(**keywords)
    assert name in str(caught.value)


def test_sgd_state_is_its_velocity_and_starts_anew_for_another_network():
    room = backend.get("reference")
    optimizer = fc.SGD(0.5, momentum=0.5)
    values = np.array([1.0, 2.0])
    for expected in ([0.5, 1.5], [-0.25, 0.75]):
        optimizer.update(room, values, np.ones(2))
        np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(optimizer.state["momentum_buffer"], [1.5, 1.5])
    optimizer.update(room, np.zeros(3), np.ones(3))
    np.testing.assert_array_equal(optimizer.state["momentum_buffer"], np.ones(3))


VARIANCES = [
    (initializers.Normal(1.0, 0.5), 0.25),
    (initializers.Uniform(-1, 1), 1 / 3),
    (initializers.XavierNormal(), 2 / (150 + 400)),
    (initializers.XavierUniform(), 2 / (150 + 400)),
    (initializers.HeNormal(), 2 / 150),
    (initializers.HeUniform(), 2 / 150),
    (initializers.HeUniform(gain=1.0), 1 / 150),
]


@pytest.mark.parametrize(("rule", "variance"), VARIANCES, ids=repr)
def test_variance_of_initializers(rule, variance):
    values = rule((5, 5, 6, 16), np.random.default_rng(0))
    assert values.shape == (5, 5, 6, 16)
    # 2400 draws: the sample variance of a normal is within 5 * sqrt(2 / 2400) = 14% of its own.
    assert values.var() == pytest.approx(variance, rel=0.14)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (2, 7), (5, 5)])
def test_orthogonal(shape):
    matrix = initializers.Orthogonal(2.0)(shape, np.random.default_rng(0)).reshape(-1, shape[-1])
    short = min(matrix.shape)
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, 4 * np.eye(short), atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (fc.Linear(7, 5), (7, 5)),
        (fc.Conv2d(6, 12, (3, 5)), (90, 180)),
        (fc.Conv2d(6, 12, (3, 5), groups=3), (30, 60)),
        (fc.Conv1d(8, 16, 3, groups=8), (3, 6)),
        (fc.ConvTranspose2d(6, 12, (3, 5)), (90, 180)),
        (fc.ConvTranspose2d(6, 12, (3, 5), groups=3), (30, 60)),
    ],
)
def test_fans_count_what_is_summed_and_what_is_entered(layer, fans):
    assert layer.fans == fans
    rule = initializers.HeNormal(), initializers.XavierUniform()
    for draw, variance in zip(rule, (2 / fans[0], 2 / sum(fans)), strict=True):
        values = draw((4000,), np.random.default_rng(0), layer.fans)
        assert values.var() == pytest.approx(variance, rel=0.12)


def test_fans_are_the_sums_of_a_layer_of_ones():
    """An output inside sums fan-in products; an input inside enters fan-out of them."""
    for kind in (fc.Conv2d, fc.ConvTranspose2d):
        layer = kind(
            4, 6, 3, groups=2, bias=False, weight_init=initializers.Ones(), dtype="float64", device="reference"
        )
        y = layer.forward(np.ones((1, 9, 9, 4)))
        assert y.max() == layer.fans[0]
        assert layer.backward(np.ones(y.shape)).max() == layer.fans[1]


def test_truncated_normal_stays_inside_and_keeps_its_shape():
    values = initializers.TruncatedNormal(1.0, 2.0, 0.0, 1.5)((5000,), np.random.default_rng(0))
    assert 0 <= values.min() < 0.01
    assert 1.49 < values.max() <= 1.5
    # Mean of a normal between (a, b): mean + std * (pdf(a) - pdf(b)) / (cdf(b) - cdf(a)) here.
    assert values.mean() == pytest.approx(0.7615, abs=0.025)
    for arguments in ((0.0, 1.0, 5.0, 6.0), (0.0, 0.0), (0.0, 1.0, 1.0, -1.0)):
        with pytest.raises(fc.ArgumentError, match="move them or widen std"):
            initializers.TruncatedNormal(*arguments)


def test_initializers_can_be_saved_and_told_by_name():
    assert {"Ones", "TruncatedNormal"} <= set(initializers.INITIALIZERS)
    assert (initializers.Ones()((2, 3), np.random.default_rng(0)) == 1).all()


def test_layers_use_their_initializer_and_zero_biases():
    layer = fc.Conv2d(1, 2, 3, weight_init=initializers.Constant(0.5), device="reference")
    assert (layer.params["weight"] == 0.5).all()
    assert (layer.params["bias"] == 0).all()
    assert (initializers.Zeros()((2,), np.random.default_rng(0)) == 0).all()


def test_backend_arrays_are_aligned_and_typed():
    room = backend.get("reference")
    for make in (room.empty, room.zeros):
        for shape in ((), (3, 5), (7,)):
            array = make(shape, np.dtype(np.float64))
            assert array.shape == shape
            assert array.dtype == np.float64
            assert array.ctypes.data % 64 == 0
            assert array.flags.c_contiguous
    assert room.empty((0, 3), np.dtype(np.float32)).shape == (0, 3)
    assert (room.zeros((9,), np.dtype(np.float32)) == 0).all()


def test_unknown_device():
    with pytest.raises(fc.BackendError, match=r"'tpu' was given: choose one of cpu, reference"):
        backend.get("tpu")


def test_all_finite_survives_sums_that_overflow():
    room = backend.get("reference")
    assert room.all_finite(np.full(4, 3e38, np.float32))
    assert not room.all_finite(np.array([1.0, np.nan]))
    assert not room.all_finite(np.array([np.inf, -np.inf]))


def without_compiler(code: str) -> str:
    """Run Python where Numba is told not to compile, and return what it prints."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    run = [sys.executable, "-c", f"import numpy as np, fastcnn as fc\nfrom fastcnn import threads as host\n{code}"]
    return subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout


def test_the_reference_works_where_nothing_is_compiled_and_the_cpu_room_says_why_not(tmp_path):
    out = without_compiler(f"""
net = fc.models.lenet5().to("reference")
fc.Trainer(net, fc.CrossEntropy(), fc.SGD()).step(np.ones((2, 28, 28, 1)), [0, 1])
net.save({str(tmp_path / "net.safetensors")!r})
print(fc.load({str(tmp_path / "net.safetensors")!r}, device="reference").memory(3).batch_size)
for run in (
    lambda: net.to("cpu").predict(np.ones((2, 28, 28, 1))),
    lambda: fc.Conv2d(1, 2, 3).forward(np.ones((1, 5, 5, 1))),
    lambda: fc.SparseCoding(1, 2, 3).fit(np.ones((1, 5, 5, 1))),
    lambda: fc.models.lenet5().memory(4),
    host.vector_bits,
    host.cache_folder,
):
    try:
        run()
    except fc.BackendError as error:
        print(error)
""")
    first, *others = out.splitlines()
    assert first == "3"
    assert len(others) == 6
    for sentence in others:
        assert "NUMBA_DISABLE_JIT keeps Numba from compiling: unset it" in sentence
