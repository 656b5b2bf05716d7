"""Activation layers: arguments, sentences, files, and training."""

import functools
import inspect
import math

import numpy as np
import pytest
from sweeps import crossed

import fastcnn as fc
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.layers.activation import Plain

PLAIN = [kind for kind in fc.layers.LAYERS.values() if issubclass(kind, Plain)]
MADE = [
    *(kind() for kind in PLAIN), fc.LeakyReLU(0.3), fc.ELU(0.5), fc.GELU(), fc.GELU("tanh"), fc.Sigmoid(), fc.Tanh(),
    fc.Softplus(2.0, 15.0), fc.Softplus(threshold=math.inf), fc.Abs(), fc.SoftAbs(3.0), fc.Softmax(), fc.LogSoftmax(),
    fc.Gain(4),
]  # fmt: skip


@pytest.mark.parametrize("layer", MADE, ids=repr)
def test_a_file_brings_the_layer_back(layer, tmp_path):
    again = type(layer)(**layer.config())
    assert repr(again) == repr(layer)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    net = fc.Sequential(type(layer)(**layer.config()), input_shape=(3, 4)).to("reference")
    net.save(tmp_path / "net.safetensors")
    loaded = fc.load(tmp_path / "net.safetensors", device="reference")
    np.testing.assert_array_equal(loaded.predict(x), net.predict(x))


@pytest.mark.parametrize("name", [*(kind.__name__ for kind in PLAIN), "LeakyReLU", "ELU", "GELU", "Softplus"])
def test_arguments_are_pytorchs(name):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    theirs = inspect.signature(getattr(torch.nn, name)).parameters.values()
    ours = inspect.signature(getattr(fc, name)).parameters
    positional = [p for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.default for p in positional] == [p.default for p in theirs]
    assert {p.name for p in theirs} <= ours.keys()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fc.Softmax(1), "dim=1 was given, and channels are the last axis here: give dim=-1"),
        (lambda: fc.GELU("erf"), "approximate='erf' was given: give 'none' or 'tanh'"),
        (lambda: fc.Softplus(0), "k=0 was given, and must be a number above 0"),
        (lambda: fc.Softplus(2.0, beta=3.0), "two names of one number"),
        (lambda: fc.Softplus(threshold="high"), "threshold='high' was given"),
        (lambda: fc.SoftAbs(-1), "k=-1 was given, and must be a number above 0"),
        (lambda: fc.LeakyReLU(math.nan), "negative_slope=nan was given, and must be a number that is finite"),
        (lambda: fc.ELU(True), "alpha=True was given"),
        (lambda: fc.Gain(0), "channels=0 was given"),
        (lambda: fc.Elementwise(1, 2), "f=1 was given, and must be a function of one number"),
    ],
)
def test_refused(make, words):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert words in str(caught.value)


def test_gain_refuses_other_channels():
    with pytest.raises(ShapeError, match=r"4 channels last.*from_nchw"):
        fc.Gain(4).output_shape((4, 5, 6))
    assert fc.Gain(4).output_shape((6, 5, 4)) == (6, 5, 4)


def test_beta_is_k():
    assert fc.Softplus(beta=3.0).config() == fc.Softplus(3.0).config()


@pytest.mark.parametrize(("value", "k", "want"), [(1e4, 1e4, 1e4), (-1e4, 1e4, 0.0), (0.0, 0.5, 2 * math.log(2))])
def test_no_k_overflows(value, k, want):
    x = np.array([[value]])
    for layer in (fc.Softplus(k), fc.Softplus(k, threshold=math.inf)):
        assert layer.forward(x)[0, 0] == pytest.approx(want, abs=1e-12)
        assert np.isfinite(layer.backward(np.ones((1, 1)))).all()


def cube(x):
    return x * x * x


def cube_slope(x):
    return 3 * x * x


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_network_with_a_users_function_trains_and_is_not_saved(device, tmp_path):
    layers = fc.Linear(2, 8), fc.Elementwise(cube, cube_slope), fc.Gain(8), fc.Linear(8, 2)
    net = fc.Sequential(*layers, input_shape=(2,)).to(device)
    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    labels = (x[:, 0] > 0).astype(int)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.05), seed=0)
    losses = [trainer.step(x, labels) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    assert not np.array_equal(layers[2].params["weight"], np.ones(8))
    with pytest.raises(ArgumentError, match="a file holds no code"):
        net.save(tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
    assert repr(layers[1]) == "Elementwise(cube, cube_slope)"


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_function_that_does_not_compile_is_refused_in_a_sentence(device):
    layer = fc.Elementwise(cube, lambda x: x.no_such, device=device)
    with pytest.raises(ArgumentError, match=r"^Elementwise\(cube, <lambda>\): .*df.*one float32"):
        layer.forward(np.ones((2, 3), "float32"))


def test_a_users_own_compiled_function_and_one_with_branches():
    import numba

    steep = numba.njit(lambda x: 2.5 * x)
    layer = fc.Elementwise(steep, lambda x: 2.5 if x > 0 else -1.0)
    x = np.array([[-2.0, 4.0]], "float32")
    np.testing.assert_array_equal(layer.forward(x), [[-5.0, 10.0]])
    np.testing.assert_array_equal(layer.backward(np.ones_like(x)), [[-1.0, 2.5]])


@pytest.mark.parametrize("layer", MADE, ids=repr)
def test_an_empty_batch(layer):
    made = type(layer)(**layer.config())
    assert made.forward(np.ones((0, 3, 4), "float32")).shape == (0, 3, 4)
    assert made.backward(np.ones((0, 3, 4), "float32")).shape == (0, 3, 4)


FUNCTIONS = (np.tanh, np.sqrt, math.tanh, abs, float, np.float64)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(("f", "dtype"), crossed(FUNCTIONS, ["float32", "float64"]))
def test_ufuncs_and_built_ins_are_functions_of_one_number(f, dtype, device):
    x = np.linspace(0.1, 2.0, 12).astype(dtype).reshape(3, 4)
    wanted = np.vectorize(f, otypes=[dtype])(x)
    tolerance = 4 * np.finfo(dtype).eps
    forward = fc.Elementwise(f, lambda x: x, dtype=dtype, device=device)
    np.testing.assert_allclose(forward.forward(x), wanted, rtol=tolerance)
    backward = fc.Elementwise(lambda x: x, f, dtype=dtype, device=device)
    backward.forward(x)
    np.testing.assert_allclose(backward.backward(np.full_like(x, 2)), 2 * wanted, rtol=2 * tolerance)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_ufunc_in_a_network_runs_inside_the_convolution_before_it(device):
    net = fc.Sequential(
        fc.Conv2d(2, 3, 3), fc.Elementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2), input_shape=(5, 5, 2)
    ).to(device)
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 2)).astype("f4")
    np.testing.assert_allclose(net.predict(x), np.tanh(net.activations(x, "conv1")), rtol=1e-5, atol=1e-6)


class Callable:
    def __call__(self, x):
        return x

    __hash__ = None


@pytest.mark.parametrize(
    "f",
    [
        Callable(), functools.partial(max, 0.0), np.add, lambda x, y: x, lambda: 1.0, lambda x: x * 1j, lambda x: "a",
        lambda x: None, lambda x: (x, x), lambda x: x.shape, lambda x: np.array([x, x]), lambda x: undefined * x,  # noqa: F821

        lambda x: x + "a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["f", "df"])
def test_what_numba_cannot_compile_is_refused_in_one_line(f, role):
    layer = fc.Elementwise(**({"f": abs, "df": abs} | {role: f}))
    with pytest.raises(
        ArgumentError, match=rf"Numba cannot compile {role} as a function of one float32 \([^\n]+\): "
    ) as e:
        layer.forward(np.ones((2, 3), "float32"))
    assert "During" not in str(e.value)
