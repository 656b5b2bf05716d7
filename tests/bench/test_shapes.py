"""The named sets hold what their networks were published with."""

import pytest

from fastcnn.bench.cases.layers import LAYERS
from fastcnn.bench.shapes import named_sets
from fastcnn.bench.shapes.convolution import parse
from fastcnn.errors import DataError, ShapeError

resolve = LAYERS["conv"].resolve


def macs(name):
    """Multiply-adds of a network's convolutions for one image."""
    return sum(c.count * c.multiply_adds // c.batch for c in resolve(name))


@pytest.mark.parametrize(
    ("name", "convolutions", "linear", "published", "digits"),
    [
        ("alexnet", 5, 9216 * 4096 + 4096 * 4096 + 4096 * 1000, 0.724e9, 1e6),
        ("vgg19", 16, 25088 * 4096 + 4096 * 4096 + 4096 * 1000, 19.63e9, 1e7),
        ("resnet50", 53, 2048 * 1000, 4.09e9, 1e7),
        ("googlenet", 57, 1024 * 1000, 1.58e9, 1e7),
        ("mobilenet", 27, 1024 * 1000, 569e6, 1e6),
    ],
)
def test_multiply_adds_are_the_published_ones(name, convolutions, linear, published, digits):
    """The published totals count the fully connected layers, given here, with the convolutions."""
    assert sum(c.count for c in resolve(name)) == convolutions
    assert abs(macs(name) + linear - published) <= digits


def test_parameters_are_the_published_ones():
    """ResNet-50 has 25,557,032, of them two per channel of batch normalization."""
    found = resolve("resnet50")
    weights = sum(c.count * c.filters * c.channels // c.groups * c.window[1] * c.window[2] for c in found)
    normalized = sum(c.count * 2 * c.filters for c in found)
    assert weights + normalized + 2048 * 1000 + 1000 == 25_557_032


def test_lenet_shapes():
    first, second = resolve("lenet")
    assert first.y_shape == (128, 1, 28, 28, 20)
    assert second.y_shape == (128, 1, 14, 14, 50)


def test_deepbench_holds_the_training_list():
    found = resolve("deepbench")
    assert sum(c.count for c in found) == 94
    speech = found[0]
    assert (speech.image, speech.window, speech.output) == ((1, 161, 700), (1, 5, 20), (1, 79, 341))


def test_sets_give_each_shape_once():
    for name in named_sets.SETS:
        descriptors = [c.descriptor() for c in resolve(name)]
        assert len(set(descriptors)) == len(descriptors)


def test_file_of_descriptors(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text('# two layers\nic3ih8oc4kh3n"a"  # the first\n\nic3ih8oc4kh3n"b"*2\nic4ih6oc4kh3\n')
    assert resolve(str(path)) == [parse('ic3ih8oc4kh3n"a"*3'), parse("ic4ih6oc4kh3")]


def test_file_error_names_the_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("ic3ih8oc4kh3\nic3ih8\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2: .*lacks oc"):
        resolve(str(path))


def test_empty_and_binary_files_are_refused(tmp_path):
    path = tmp_path / "list"
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no descriptor"):
        resolve(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        resolve(str(path))


def test_neither_set_nor_file_nor_descriptor():
    with pytest.raises(ShapeError, match="resnet51"):
        resolve("resnet51")


def test_depthwise_rows_are_those_of_mobilenet():
    found = LAYERS["depthwise"].resolve("mobilenet")
    assert sum(c.count for c in found) == 13
    assert all(c.groups == c.channels == c.filters for c in found)
    assert LAYERS["depthwise"].resolve("g8ic8ih5oc16kh3")[0].filters == 16
    with pytest.raises(ShapeError, match=r"has g \(=1\) equal to ic \(=8\)"):
        LAYERS["depthwise"].resolve("ic8ih5oc8kh3")
