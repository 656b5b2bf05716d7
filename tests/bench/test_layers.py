"""The layers' shapes: sets, and descriptors of what is no convolution."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcnn.bench.cases.layers import LAYERS
from fastcnn.bench.shapes import activation as elementwise
from fastcnn.bench.shapes import conv_transpose as transposed
from fastcnn.bench.shapes import linear as fully_connected
from fastcnn.bench.shapes import loss as criteria
from fastcnn.bench.shapes import norm as normalizing
from fastcnn.bench.shapes import optimizer as stepping
from fastcnn.bench.shapes import pool as pooling
from fastcnn.bench.shapes import regroup as regrouping
from fastcnn.errors import DataError, ShapeError

PARSERS = {
    "conv_transpose": transposed.parse,
    "pool": pooling.parse,
    "linear": fully_connected.parse,
    "activation": elementwise.parse,
    "norm": normalizing.parse,
    "regroup": regrouping.parse,
    "loss": criteria.parse,
    "optimizer": stepping.parse,
}


@pytest.mark.parametrize("name", LAYERS)
def test_sets_hold_each_shape_once_and_print_as_they_are_read(name):
    layer = LAYERS[name]
    assert set(layer.default) <= set(layer.sets)
    for known in layer.sets:
        found = layer.resolve(known)
        assert found
        assert len({problem.descriptor() for problem in found}) == len(found)
        assert [layer.parse(str(problem)) for problem in found] == found
        assert {problem.batch for problem in layer.resolve(known, 3)} == {3}


@pytest.mark.parametrize("name", LAYERS)
def test_files_are_read_by_the_layers_own_descriptors(name, tmp_path):
    layer = LAYERS[name]
    problem = layer.resolve(layer.default[0])[0].counted("a", 2)
    path = tmp_path / "list.txt"
    path.write_text(f"{problem}\n{problem}  # again\n")
    assert layer.resolve(str(path)) == [problem.counted("a", 4)]
    path.write_text("ic0\n")
    with pytest.raises(DataError, match=r"line 1: .* ic is 0"):
        layer.resolve(str(path))


def test_published_shapes():
    assert sum(pool.count for pool in LAYERS["pool"].resolve("googlenet")) == 14
    assert [pool.windows.output for pool in LAYERS["pool"].resolve("alexnet")] == [(1, n, n) for n in (27, 13, 6)]
    googlenet = {pool.name: pool for pool in LAYERS["pool"].resolve("googlenet")}
    assert googlenet["googlenet:pool1"].ceil_mode
    assert googlenet["googlenet:pool1"].windows.output == (1, 56, 56)
    assert not googlenet["googlenet:inception_3a"].ceil_mode
    assert LAYERS["linear"].resolve("vgg19")[0].features == 512 * 7 * 7
    images = [up.adjoint.image for up in LAYERS["conv_transpose"].resolve("dcgan")]
    assert images == [(1, n, n) for n in (4, 8, 16, 32, 64)]
    activations = LAYERS["activation"].resolve("vgg19")
    assert sum(tensor.count for tensor in activations) == 16
    assert activations[0].shape == (16, 1, 224, 224, 64)


@pytest.mark.parametrize(
    ("layer", "text", "same"),
    [
        ("conv_transpose", "ic8ih4oc6oh8kh4sh2ph1", "ic8ih4oc6kh4sh2ph1"),
        ("conv_transpose", "ic8ih4oc6oh8kh4sh2", "ic8ih4oc6kh4sh2ph1"),  # the padding that gives this output
        ("conv_transpose", "ic8ih4oc6oh8kh3sh2", "ic8ih4oc6oh8kh3sh2ph1"),  # and one row of output padding
        ("conv_transpose", "g2ic8iw4oc6kw3", "g2mb2ic8iw4oc6ow6kw3pw0"),
        ("pool", "ic3ih8kh2sh2", "max:mb2ic3ih8oh4kh2sh2ph0"),
        ("pool", "avg:ic3ih7iw5kh7kw5", "avg_p:mb2ic3ih7iw5oh1ow1kh7kw5sh1sw1ph0pw0"),
        ("pool", "avg_np:ic3id4kd2sd2", "avg_np:mb2ic3id4ih4iw4kd2kh2kw2sd2sh2sw2"),
        ("linear", "ic512ih7oc10", "mb2ic25088oc10"),
        ("linear", "ic4id2ih3iw5oc10", "ic120oc10"),
        ("linear", 'ic4iw5oc10n"a"*2', 'ic20oc10n"a"*2'),
        ("activation", "ic4ih5", "relu:mb2ic4ih5iw5"),
        ("activation", "ic4", "relu:mb2ic4iw1"),
        ("activation", "ic4id2ih3iw5", "relu:ic4id2ih3iw5"),
        ("loss", "ic4", "cross_entropy:mb2ic4"),
        ("loss", "smooth_l1:mb1ic4ih5iw5", "smooth_l1:mb1ic4ih5"),
        ("optimizer", "mb1ic4", "sgd_momentum:mb1ic4"),
        ("norm", "ic4ih5", "batch:mb2ic4ih5iw5"),
        ("norm", "group:ic4g2iw3", "group:g2mb2ic4iw3"),
    ],
)
def test_equal_descriptors(layer, text, same):
    assert PARSERS[layer](text) == PARSERS[layer](same)


@pytest.mark.parametrize(
    ("layer", "text", "words"),
    [
        ("conv_transpose", "ic8oc6", "lacks the image"),
        ("conv_transpose", "ic8ih4kh3", "lacks oc"),
        ("conv_transpose", "ic8ih4oc6", "lacks kh"),
        ("conv_transpose", "g4ic8ih4oc6kh3", "oc (=6) must be divisible by g (=4)"),
        ("conv_transpose", "ic8ih4oc6kh3ph3", "ph (=3) leaves no output; give a padding below 3"),
        ("conv_transpose", "ic8ih4oc6oh9kh3sh2ph1", "oh (=9) must lie between 7 and 8"),
        ("conv_transpose", "ic8ih4oc6oh6kh3sh2ph1", "oh (=6) must lie between 7 and 8"),
        ("conv_transpose", "ic8ih4oc6oh5kh3", "oh (=5) must lie between 4 and 4"),
        ("pool", "min:ic3ih8kh2", "'min' is no kind of pooling: choose of max, avg, avg_p, avg_np, lp1"),
        ("pool", "ic3ih8kh2oc3", "a pooling has no oc"),
        ("pool", "ih8kh2", "lacks ic"),
        ("pool", "avg:ic3ih8kh2dh1", "no dilation"),
        ("pool", "ic3ih8kh3ph2", "ph (=2) must be at most half of what its window spans (3)"),
        ("pool", "ic3ih8oh6kh3sh2ph0", "must lie between"),
        ("pool", "ic3ih9oh5kh3sh2ph0", "oh (=5) is not what fits"),
        ("pool", "ic3ih9oh5kh3sh3ph1", "oh (=5) must lie"),
        ("pool", "ic3ih6iw8oh2ow4kh2kw3sh3sw2ph0pw0", "rounded down and another up"),
        ("linear", "ic3", "lacks oc"),
        ("linear", "ic3oc4kh3", "a fully connected layer has no kh"),
        ("activation", "ih3", "lacks ic"),
        ("norm", "ih3", "lacks ic"),
        ("norm", "ic3oc4", "a normalization has no oc"),
        ("norm", "tanh:ic3", "'tanh' is no normalization: choose of batch, layer"),
        ("norm", "group:g2ic3", "must divide ic"),
        ("norm", "batch:g3ic3", "groups are for the kind 'group'"),
        ("regroup", "gate:ic3oc4", "an operation has no oc"),
        ("loss", "l2:ic3", "'l2' is no loss: choose of cross_entropy"),
        ("loss", "ic3oc4", "a loss has no oc"),
        ("optimizer", "sgd:mb1", "it lacks ic"),
        ("optimizer", "lion:ic3", "'lion' is no optimizer: choose of sgd, sgd_momentum"),
        ("activation", "ic3oc4", "an activation has no oc"),
        ("activation", "sine:ic3", "'sine' is no activation: choose of relu, leaky_relu"),
    ],
)
def test_refused(layer, text, words):
    with pytest.raises(ShapeError) as caught:
        PARSERS[layer](text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"The descriptor '{text}' cannot be used")


@given(st.data())
def test_transposed_sizes_are_those_of_the_adjoint(data):
    draw = data.draw
    i, k, s, d = (draw(st.integers(1, most)) for most in (8, 5, 4, 3))
    whole = (i - 1) * s + (k - 1) * d + 1
    p, more = draw(st.integers(0, (whole - 1) // 2)), draw(st.integers(0, s - 1))
    problem = transposed.parse(f"ic2ih{i}oc3oh{whole - 2 * p + more}kh{k}sh{s}ph{p}dh{d - 1}")
    assert problem.output_padding == (0, more, more)
    c = problem.adjoint
    before, behind = c.pads[1]
    assert before == p
    assert (c.image[1] + before + behind - (k - 1) * d - 1) // s + 1 == i
    assert transposed.parse(str(problem)) == problem
