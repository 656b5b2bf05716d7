"""Random convolutions: the same for a seed, valid, small enough, and of every kind."""

import pytest

from fastcnn.bench.cases.layers import LAYERS
from fastcnn.bench.shapes import random as random_shapes
from fastcnn.bench.shapes.convolution import parse
from fastcnn.errors import ShapeError

resolve = LAYERS["conv"].resolve


def test_a_seed_gives_the_same_shapes_everywhere():
    assert [c.descriptor() for c in resolve("random:3")] == [c.descriptor() for c in resolve("random:3:0")]
    assert resolve("random:40:5")[:7] == resolve("random:7:5")
    assert resolve("random:7:5") != resolve("random:7:6")
    first, second = resolve("random:2:1")
    assert (first.name, second.name) == ("random:1:1", "random:1:2")
    assert [first.descriptor(), second.descriptor()] == [
        "g23mb1ic115ih11iw34oc23oh11ow34kh1kw1ph0pw0dh1dw1",
        "mb27ic1ih3oc2oh3kh1ph0",
    ]


@pytest.mark.parametrize("name", ["conv", "depthwise", "conv_transpose"])
@pytest.mark.parametrize("batch", [None, 1, 64])
def test_shapes_are_valid_and_small_enough(name, batch):
    found = LAYERS[name].resolve("random:300", batch)
    assert len(found) == 300
    for problem in found:
        assert LAYERS[name].parse(str(problem)) == problem
        c = problem.adjoint if name == "conv_transpose" else problem
        assert batch in (None, c.batch)
        assert c.multiply_adds <= 2e9
        assert 4 * max(c.batch * size for size in sizes_of_an_image(c)) <= 256e6
        assert name != "depthwise" or c.groups == c.channels


def sizes_of_an_image(c):
    return c.image[1] * c.image[2] * c.channels, c.output[1] * c.output[2] * c.filters


def test_every_kind_is_drawn():
    found = resolve("random:600:2")
    assert {c.stride[1] for c in found} == {1, 2, 3, 4}
    assert {c.dilation[1] for c in found} == {1, 2, 3}
    assert {c.window[1] for c in found} == set(range(1, 12))
    assert max(c.image[1] for c in found) > 200
    assert min(c.image[1] for c in found) == 1
    assert max(c.channels for c in found) > 500
    assert max(c.channels for c in found) <= 600
    assert max(c.filters for c in found) <= 600
    assert any(c.groups == c.channels > 1 for c in found)
    assert any(c.groups == c.channels > 1 and c.filters > c.channels for c in found)
    assert any(1 < c.groups < c.channels for c in found)
    assert any(c.image[1] != c.image[2] for c in found)
    assert any(c.padding[1] == 0 for c in found)
    assert any(c.padding[1] > 0 for c in found)
    assert any(c.channels % 2 and c.filters % 2 for c in found)


@pytest.mark.parametrize("text", ["random", "random:", "random:0", "random:x", "random:3:", "random:3:-1"])
def test_what_cannot_be_drawn_is_refused(text):
    with pytest.raises(ShapeError, match="write random:N or random:N:SEED"):
        resolve(text)


def test_a_batch_too_large_for_any_shape_is_refused():
    with pytest.raises(ShapeError, match="give a smaller --batch"):
        resolve("random:1", 10**9)


def test_readable_by_the_peer():
    for c in random_shapes.resolve("random:50:3"):
        assert parse(c.descriptor()).w_shape == c.w_shape
