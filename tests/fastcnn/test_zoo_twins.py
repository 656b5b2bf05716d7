"""Published networks against PyTorch twins with the same weights: scores, and the gradients of a training step.

The twins have the names of torchvision's models, so that a parameter is found by its name.
"""

import sys
from collections import OrderedDict

import numpy as np
import pytest

import fastcnn as fc

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
nn = torch.nn

HIDDEN = 48  # instead of 4096 units, which would be all of the test's time


class Flatten(nn.Module):
    """Flatten in the order of channels-last memory."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def named(**modules):
    """Return a Sequential of named modules."""
    return nn.Sequential(OrderedDict(modules))


def alexnet(classes, groups):
    def norm():
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    return named(
        conv1=nn.Conv2d(3, 96, 11, 4), relu1=nn.ReLU(), norm1=norm(), pool1=nn.MaxPool2d(3, 2),
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=groups), relu2=nn.ReLU(), norm2=norm(), pool2=nn.MaxPool2d(3, 2),
        conv3=nn.Conv2d(256, 384, 3, padding=1), relu3=nn.ReLU(),
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=groups), relu4=nn.ReLU(),
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=groups), relu5=nn.ReLU(), pool5=nn.MaxPool2d(3, 2),
        avgpool=nn.AdaptiveAvgPool2d(6), flatten=Flatten(),
        fc6=nn.Linear(9216, HIDDEN), relu6=nn.ReLU(), drop6=nn.Dropout(0.5),
        fc7=nn.Linear(HIDDEN, HIDDEN), relu7=nn.ReLU(), drop7=nn.Dropout(0.5), fc8=nn.Linear(HIDDEN, classes),
    )  # fmt: skip


def vgg11(classes):
    layers, channels = [], 3
    for width in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if width == "pool":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, HIDDEN), nn.ReLU(), nn.Dropout(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout(),
        nn.Linear(HIDDEN, classes),
    )  # fmt: skip
    pool = nn.AdaptiveAvgPool2d((7, 7))
    return named(features=nn.Sequential(*layers), avgpool=pool, flatten=Flatten(), classifier=classifier)


class BasicBlock(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet18(classes):
    stages = {
        f"layer{i + 1}": nn.Sequential(
            BasicBlock(64 if i == 0 else 32 * 2**i, 64 * 2**i, 1 if i == 0 else 2),
            BasicBlock(64 * 2**i, 64 * 2**i, 1),
        )
        for i in range(4)
    }
    return named(
        conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False), bn1=nn.BatchNorm2d(64), relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, 2, 1), **stages, avgpool=nn.AdaptiveAvgPool2d(1), flatten=Flatten(),
        fc=nn.Linear(512, classes),
    )  # fmt: skip


class DenseLayer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, x):
        new = self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


def densenet121(classes):
    features, channels = {
        "conv0": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(64), "relu0": nn.ReLU(),
        "pool0": nn.MaxPool2d(3, 2, 1),
    }, 64  # fmt: skip
    for i, depth in enumerate((6, 12, 24, 16), 1):
        block = {f"denselayer{j + 1}": DenseLayer(channels + 32 * j) for j in range(depth)}
        features[f"denseblock{i}"] = named(**block)
        channels += 32 * depth
        if i < 4:
            features[f"transition{i}"] = named(
                norm=nn.BatchNorm2d(channels), relu=nn.ReLU(),
                conv=nn.Conv2d(channels, channels // 2, 1, bias=False), pool=nn.AvgPool2d(2, 2),
            )  # fmt: skip
            channels //= 2
    features["norm5"] = nn.BatchNorm2d(channels)
    rest = {"relu": nn.ReLU(), "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": Flatten()}
    return named(features=named(**features), **rest, classifier=nn.Linear(channels, classes))


def conv_norm(channels, width, size, stride=1, groups=1):
    conv = nn.Conv2d(channels, width, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU6())


class InvertedResidual(nn.Module):
    def __init__(self, channels, width, stride, expansion):
        super().__init__()
        wide = channels * expansion
        first = [conv_norm(channels, wide, 1)] if expansion != 1 else []
        last = [nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.conv = nn.Sequential(*first, conv_norm(wide, wide, 3, stride, wide), *last)
        self.adds = stride == 1 and channels == width

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


def mobilenet_v2(classes):
    features, channels = [conv_norm(3, 32, 3, 2)], 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, count, stride in stages:
        for i in range(count):
            features.append(InvertedResidual(channels, width, stride if i == 0 else 1, expansion))
            channels = width
    features.append(conv_norm(channels, 1280, 1))
    classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
    pool = nn.AdaptiveAvgPool2d(1)
    return named(features=nn.Sequential(*features), avgpool=pool, flatten=Flatten(), classifier=classifier)


def by_name(net, values):
    """Return {"layer.parameter": array} in PyTorch's order of axes, of layers' `params`, `grads` or `state`."""
    found = {}
    for name, layer in net.named_layers():
        for key, value in getattr(layer, values).items():
            found[f"{name}.{key}"] = np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim > 1 else value
    return found


def perturb(net, rng):
    """Give biases, scales and running statistics values that tell them apart."""
    for _, layer in net.named_layers():
        for key, value in (*layer.params.items(), *layer.state.items()):
            if key in ("bias", "running_mean"):
                value[...] = rng.normal(0, 0.1, value.shape)
            elif key == "running_var" or (key == "weight" and value.ndim == 1):
                value[...] = rng.uniform(0.6, 1.4, value.shape)


def copy_weights(net, twin):
    """Copy all parameters and running statistics by name; none is left over on either side."""
    ours = by_name(net, "params") | by_name(net, "state")
    theirs = twin.state_dict()
    with torch.no_grad():
        for name, tensor in theirs.items():
            value = ours.pop(name)
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(tensor.shape))
    assert all(name.endswith((".seed", ".step")) for name in ours)  # of dropout


CASES = [
    pytest.param(alexnet, {"groups": 1}, (83, 70, 3), marks=pytest.mark.exhaustive),
    (alexnet, {"groups": 2}, (83, 70, 3)),
    pytest.param(vgg11, {}, (64, 40, 3), marks=pytest.mark.exhaustive),
    (resnet18, {}, (64, 50, 3)),
    pytest.param(densenet121, {}, (64, 33, 3), marks=pytest.mark.exhaustive),
    (mobilenet_v2, {}, (64, 50, 3)),
]


@pytest.fixture(autouse=True)
def _few_units(monkeypatch):
    for model in (fc.models.alexnet, fc.models.vgg11):
        monkeypatch.setattr(sys.modules[model.__module__], "HIDDEN", HIDDEN)


@pytest.mark.parametrize(
    ("make", "arguments", "shape"),
    CASES,
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_scores_equal_the_twins(make, arguments, shape):
    rng = np.random.default_rng(0)
    net = fc.models.get(make.__name__)(classes=11, input_shape=shape, **arguments)
    net.initialize(1)
    perturb(net, rng)
    twin = make(11, **arguments).eval()
    copy_weights(net, twin)
    images = rng.standard_normal((2, *shape), np.float32)
    with torch.no_grad():
        wanted = twin(torch.from_numpy(fc.to_nchw(images))).numpy()
    np.testing.assert_allclose(net.predict(images), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(wanted).max() > 1e-3


def test_a_training_step_of_resnet18_equals_the_twins():
    rng = np.random.default_rng(1)
    net = fc.models.resnet18(classes=11, input_shape=(64, 64, 3)).astype("float64")
    net.initialize(1)
    perturb(net, rng)
    twin = resnet18(11).double().train()
    copy_weights(net, twin)
    images, labels = rng.standard_normal((3, 64, 64, 3)), rng.integers(11, size=3)
    x = torch.from_numpy(fc.to_nchw(images)).requires_grad_()
    nn.CrossEntropyLoss()(twin(x), torch.from_numpy(labels)).backward()
    loss = fc.CrossEntropy()
    loss.forward(net.forward(images), labels)
    dx = net.backward(loss.backward())
    found = by_name(net, "grads") | {"images": fc.to_nchw(dx)}
    wanted = {name: tensor.grad for name, tensor in twin.named_parameters()} | {"images": x.grad}
    for name, gradient in wanted.items():
        close = {"rtol": 0, "atol": 1e-8 * float(gradient.abs().max())}
        np.testing.assert_allclose(found.pop(name), gradient.numpy(), **close, err_msg=name)
    assert not found
    statistics = {name: tensor.numpy() for name, tensor in twin.named_buffers()}
    for name, value in by_name(net, "state").items():
        np.testing.assert_allclose(value.reshape(statistics[name].shape), statistics[name], rtol=1e-10, atol=1e-12)
