"""The ready models: the published sizes, other image sizes, and names."""

import numpy as np
import pytest

import fastcnn as fc


def shapes(net: fc.Graph) -> list[tuple[int, ...]]:
    """Return the output shapes of all layers but ReLU and Flatten."""
    kept = (fc.Conv2d, fc.MaxPool2d, fc.Linear)
    return [node.shape for node in net.nodes if isinstance(node.layer, kept)]


def test_lenet5_on_32x32_has_the_published_sizes():
    net = fc.models.lenet5(input_shape=(32, 32, 1))
    assert shapes(net) == [
        (28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (120,), (84,), (10,),
    ]  # fmt: skip
    assert net.parameter_count == 61_706


def test_lenet5_on_28x28_pads_to_the_same_network():
    net = fc.models.lenet5()
    assert shapes(net)[0] == (28, 28, 6)
    assert shapes(net)[3] == (5, 5, 16)
    assert net.parameter_count == 61_706


def test_lenet_has_the_published_sizes():
    net = fc.models.lenet()
    assert shapes(net) == [
        (28, 28, 20), (14, 14, 20), (14, 14, 50), (7, 7, 50), (500,), (10,),
    ]  # fmt: skip
    assert next(node.shape for node in net.nodes if isinstance(node.layer, fc.Flatten)) == (2450,)
    assert net.parameter_count == 520 + 25_050 + 1_225_500 + 5_010


@pytest.mark.parametrize("name", ["lenet", "lenet5"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 28, 1), (4, 4, 1), (9, 31, 2), (96, 96, 3)])
def test_models_take_other_images(name, shape):
    net = fc.models.get(name)(classes=7, input_shape=shape).to("reference")
    assert net.forward(np.zeros((1, *shape))).shape == (1, 7)


@pytest.mark.parametrize("name", ["lenet", "lenet5"])
@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"input_shape": (3, 8, 1)}, "at least 4x4 pixels"),
        ({"input_shape": (28, 28)}, "give (H, W, C)"),
        ({"input_shape": (28, 28, 0)}, "input_shape=0"),
        ({"classes": 0}, "classes=0"),
    ],
)
def test_impossible_models_get_one_sentence(name, keywords, sentence):
    with pytest.raises(fc.FastcnnError) as caught:
        fc.models.get(name)(**keywords)
    assert sentence in str(caught.value)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(fc.FastcnnError, match=r"'lenett': did you mean lenet"):
        fc.models.get("lenett")
    with pytest.raises(fc.FastcnnError, match=r"choose one of zipcode1989, lenet5, lenet, "):
        fc.models.get("zzz")
