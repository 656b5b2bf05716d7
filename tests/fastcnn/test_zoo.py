"""The published networks: sizes, images and arguments that they take, names, files, first steps of training."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.models import common, page

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

# of torchvision's models, of the papers' tables
PARAMETERS = [
    ("alexnet", {}, 60_965_224),
    ("alexnet", {"groups": 1}, 62_378_344),
    ("nin", {}, 966_986),
    ("vgg11", {}, 132_863_336),
    ("vgg11_bn", {}, 132_868_840),
    ("vgg13", {}, 133_047_848),
    ("vgg13_bn", {}, 133_053_736),
    ("vgg16", {}, 138_357_544),
    ("vgg16_bn", {}, 138_365_992),
    ("vgg19", {}, 143_667_240),
    ("vgg19_bn", {}, 143_678_248),
    ("googlenet", {}, 6_624_904),
    ("resnet18", {}, 11_689_512),
    ("resnet34", {}, 21_797_672),
    ("resnet50", {}, 25_557_032),
    ("resnet101", {}, 44_549_160),
    ("resnet152", {}, 60_192_808),
    ("resnet20", {}, 269_722),
    ("resnet56", {}, 853_018),
    ("resnet110", {}, 1_727_962),
    ("densenet121", {}, 7_978_856),
    ("squeezenet", {}, 1_248_424),
    ("squeezenet", {"version": "1.1"}, 1_235_496),
    ("mobilenet_v1", {}, 4_231_976),
    ("mobilenet_v2", {}, 3_504_872),
]
LEAST = {
    "lenet": 4, "lenet5": 4, "alexnet": 67, "nin": 4, "googlenet": 15, "densenet121": 29, "squeezenet": 21, "unet": 8,
    **dict.fromkeys((name for name in fc.models.names() if name.startswith("vgg")), 32),
}  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "count"), PARAMETERS)
def test_published_parameters(name, arguments, count):
    net = fc.models.get(name)(**arguments)
    assert net.parameter_count == count
    cifar = net.input_shapes == [(32, 32, 3)]
    assert net.output_shapes == [(10,) if cifar else (1000,)]


# Giga multiply-adds of torchvision's documentation, and of the MobileNet paper
@pytest.mark.parametrize(
    ("name", "billions", "digits"),
    [
        ("vgg11", 7.61, 2), ("vgg16", 15.47, 2), ("resnet18", 1.81, 2), ("resnet50", 4.09, 2), ("resnet152", 11.51, 2),
        ("densenet121", 2.83, 2), ("squeezenet", 0.82, 2), ("googlenet", 1.50, 2), ("mobilenet_v1", 0.569, 3),
        ("mobilenet_v2", 0.3, 2),
    ],
)  # fmt: skip
def test_published_multiply_adds(name, billions, digits):
    assert round(sum(row.multiply_adds for row in fc.models.get(name)().measures()) / 1e9, digits) == billions


def image_sizes(net):
    """Return the rows of pixels that the network meets, each size once."""
    return list(dict.fromkeys(node.shape[0] for node in net.nodes if len(node.shape) == 3))


HALVED = [224, 112, 56, 28, 14, 7]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("alexnet", [227, 55, 27, 13, 6]), ("vgg19_bn", HALVED), ("resnet34", [*HALVED, 1]),
        ("resnet20", [32, 16, 8, 1]), ("googlenet", [*HALVED, 1]), ("squeezenet", [224, 109, 54, 27, 13, 1]),
        ("densenet121", [*HALVED, 1]), ("mobilenet_v2", [*HALVED, 1]), ("nin", [32, 16, 8, 1]),
    ],
)  # fmt: skip
def test_published_image_sizes(name, sizes):
    assert image_sizes(fc.models.get(name)()) == sizes


def test_zip_code_network_has_the_published_connections():
    rows = fc.models.zipcode1989().measures()
    units = 12 * 8 * 8 + 12 * 4 * 4 + 30 + 10
    assert sum(row.multiply_adds for row in rows) + units == 64_660
    assert sum(row.output_shape[-1] for row in rows if row.name.startswith("h2.")) == 12


@pytest.mark.parametrize("name", fc.models.CLASSIFIERS)
@pytest.mark.parametrize("shape", [(67, 70, 1), (96, 67, 4)])
def test_classifiers_take_other_images_and_classes(name, shape):
    net = fc.models.get(name)(classes=7, input_shape=list(shape))
    assert net.input_shapes == [shape]
    assert net.output_shapes == [(7,)]


@pytest.mark.parametrize("name", fc.models.names())
def test_the_least_image_is_the_least(name, monkeypatch):
    build, least = fc.models.get(name), LEAST.get(name, 1)
    build(input_shape=(least, least, 2))
    if least == 1:
        return
    too_small = (least, least - 1, 2)
    with pytest.raises(fc.ShapeError, match=f"{name} got input_shape .* at least {least}x{least} pixels"):
        build(input_shape=too_small)
    for module in (common, sys.modules[build.__module__]):
        monkeypatch.setattr(module, "image_shape", lambda shape, *_: tuple(shape), raising=False)
    with pytest.raises(fc.FastcnnError, match=r"needs an image that windows|needs a padded image"):
        build(input_shape=too_small)


@pytest.mark.parametrize("name", fc.models.names())
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"input_shape": (224, 224)}, r"give \(H, W, C\)"),
        ({"input_shape": 224}, r"give \(H, W, C\)"),
        ({"input_shape": (224, 224, 0)}, "input_shape=0"),
        ({"input_shape": (224.0, 224, 3)}, "input_shape=224.0"),
        ({"classes": 0}, "classes=0"),
        ({"classes": 2.5}, "classes=2.5"),
    ],
)
def test_impossible_arguments_get_one_sentence(name, arguments, sentence):
    if name == "autoencoder" and "classes" in arguments:
        pytest.skip("an autoencoder has no classes")
    with pytest.raises(fc.FastcnnError, match=sentence):
        fc.models.get(name)(**arguments)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: fc.models.squeezenet(version="2"), "version='2' was given: choose one of '1.0', '1.1'"),
        (lambda: fc.models.squeezenet(input_shape=(16, 16, 3), version="1.1"), "at least 17x17"),
        (lambda: fc.models.mobilenet_v1(width=0), "width=0"),
        (lambda: fc.models.mobilenet_v2(width="wide"), "width='wide'"),
        (lambda: fc.models.alexnet(groups=0), "groups=0"),
        (lambda: fc.models.alexnet(groups=5), "groups=5 does not divide"),
        (lambda: fc.models.unet(width=0), "width=0"),
        (lambda: fc.models.autoencoder(code=0), "code=0"),
    ],
)
def test_impossible_settings_get_one_sentence(build, sentence):
    with pytest.raises(fc.FastcnnError, match=sentence):
        build()


def ends_of_blocks(net):
    """Return the channels that a MobileNetV2's blocks give, and those of its last convolution."""
    names = re.compile(r"features\.\d+\.conv\.(2|3)|features\.18\.1")
    layers = [layer for name, layer in net.named_layers() if names.fullmatch(name)]
    return {layer.num_features for layer in layers if isinstance(layer, fc.BatchNorm2d)}


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (1.0, {16, 24, 32, 64, 96, 160, 320, 1280}),
        (0.5, {8, 16, 32, 48, 80, 160, 1280}),  # 24, 32 give 16
        (1.4, {24, 32, 48, 88, 136, 224, 448, 1792}),
    ],
)
def test_width_scales_the_channels_of_mobilenet_v2(width, channels):
    assert ends_of_blocks(fc.models.mobilenet_v2(width=width)) == channels


def test_mobilenet_v1_of_a_quarter_has_the_published_parameters():
    assert fc.models.mobilenet_v1(width=0.25).parameter_count == 470_072


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", {"conv1", "bn1", "layer1.0.conv1", "layer2.0.downsample.0", "layer4.1.bn2", "fc"}),
        ("vgg11", {"features.0", "features.18", "classifier.0", "classifier.3", "classifier.6"}),
        ("vgg11_bn", {"features.0", "features.1", "features.25", "classifier.6"}),
        ("googlenet", {"conv1.conv", "inception3a.branch1.bn", "inception4b.branch4.1.conv"}),
        ("densenet121", {"features.conv0", "features.denseblock3.denselayer24.norm1", "features.transition2.conv"}),
        ("squeezenet", {"features.0", "features.3.squeeze", "features.12.expand3x3", "classifier.1"}),
        ("mobilenet_v2", {"features.0.0", "features.1.conv.1", "features.17.conv.3", "features.18.1", "classifier.1"}),
    ],
)  # fmt: skip
def test_layers_have_torchvisions_names(name, layers):
    assert layers <= {layer for layer, _ in fc.models.get(name)().named_layers()}


def test_the_page_is_what_the_models_are():
    assert PAGE.read_text() == "\n".join(page.lines()) + "\n", "run python -m fastcnn.models.page > docs/models.md"


def test_a_saved_model_is_the_same(tmp_path):
    net = fc.models.resnet20(classes=5, input_shape=(9, 8, 1)).to("reference")
    images = np.random.default_rng(0).standard_normal((3, 9, 8, 1))
    net.forward(images)  # moves the running statistics
    net.save(tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors").to("reference")
    np.testing.assert_array_equal(again.predict(images), net.predict(images))
    assert [name for name, _ in again.named_layers()] == [name for name, _ in net.named_layers()]


def test_shortcuts_of_small_resnets_drop_pixels_and_add_channels():
    net = fc.models.resnet20(input_shape=(6, 5, 3)).to("reference")
    (shortcut,) = (node for node in net.nodes if isinstance(node.layer, fc.PadChannels) and node.shape[-1] == 32)
    part = fc.Graph(net.inputs, [shortcut.inputs[0].inputs[0], shortcut])
    whole, kept = part.forward(np.random.default_rng(0).standard_normal((2, 6, 5, 3)))
    np.testing.assert_array_equal(kept[..., 8:24], whole[:, ::2, ::2])
    assert not kept[..., :8].any()
    assert not kept[..., 24:].any()


def falls(net, loss, targets, images, lr=0.02):
    """Say whether a few steps lower the loss by a fifth."""
    trainer = fc.Trainer(net, loss, fc.SGD(lr, momentum=0.9), seed=0)
    losses = [trainer.step(images, targets) for _ in range(10)]
    return losses[-1] < 0.8 * losses[0]


def test_detector_learns_classes_and_boxes():
    rng = np.random.default_rng(0)
    net = fc.models.box_detector(classes=3, input_shape=(17, 16, 1), width=8)
    loss = fc.MultiTask({"class": (fc.CrossEntropy(), 1.0), "box": (fc.SmoothL1(), 2.0)})
    targets = {"class": rng.integers(3, size=12), "box": rng.uniform(0, 1, (12, 4))}
    assert falls(net, loss, targets, rng.standard_normal((12, 17, 16, 1)))


def test_autoencoder_learns_its_images():
    rows = np.sin(np.arange(18)[:, None] / 3 + np.arange(12))
    images = np.stack([rows * rows.T[:, k % 18, None].mean() + k / 12 for k in range(12)])[..., None]
    net = fc.models.autoencoder(input_shape=images.shape[1:], code=6, width=8)
    code = next(node for node in net.nodes if node.layer and node.layer.name == "code")
    assert code.shape == (6,)
    assert falls(net, fc.MeanSquaredError(), images, images)


def test_unet_learns_labels_of_pixels():
    images = np.random.default_rng(0).standard_normal((4, 11, 9, 1))
    labels = (images[..., 0] > 0).astype(int)
    assert falls(fc.models.unet(input_shape=(11, 9, 1), width=4), fc.CrossEntropy(), labels, images, lr=0.3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (31, 18, 2), (32, 33, 3)])
def test_autoencoder_gives_back_the_shape(shape):
    assert fc.models.autoencoder(input_shape=shape).output_shapes == [shape]
    assert fc.models.autoencoder(input_shape=shape, code=1, width=1).output_shapes == [shape]


@pytest.mark.parametrize(
    ("name", "layer", "deviation"),
    [
        ("resnet20", "layer3.1.conv1", (2 / (9 * 64)) ** 0.5),
        ("squeezenet", "features.12.squeeze", (2 / 512) ** 0.5),
        ("squeezenet", "classifier.1", 0.01),
        ("mobilenet_v2", "classifier.1", 0.01),
    ],
)
def test_first_weights_have_the_papers_deviation(name, layer, deviation):
    net = fc.models.get(name)().to("reference")
    net.initialize(0)
    found = dict(net.named_layers())[layer]
    assert found.params["weight"].std() == pytest.approx(deviation, rel=0.03)
    assert not found.params.get("bias", np.zeros(1)).any()
