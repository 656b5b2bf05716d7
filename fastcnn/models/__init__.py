"""Ready architectures: each a function of classes and input shape, in the table that names them."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeAlias

from fastcnn.docstrings import describe
from fastcnn.errors import ArgumentError
from fastcnn.graph.graph import Graph
from fastcnn.models.alexnet import alexnet
from fastcnn.models.common import ARGUMENTS
from fastcnn.models.dense import autoencoder, box_detector, unet
from fastcnn.models.densenet import densenet121
from fastcnn.models.googlenet import googlenet
from fastcnn.models.lenet import lenet, lenet5
from fastcnn.models.mobilenet import mobilenet_v1, mobilenet_v2
from fastcnn.models.nin import nin
from fastcnn.models.resnet import resnet18, resnet20, resnet34, resnet50, resnet56, resnet101, resnet110, resnet152
from fastcnn.models.squeezenet import squeezenet
from fastcnn.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from fastcnn.models.zipcode import zipcode1989

Model: TypeAlias = Callable[..., Graph]


def _by_name(*models: Model) -> dict[str, Model]:
    return {model.__name__: describe(model, ARGUMENTS) for model in models}


CLASSIFIERS = _by_name(
    zipcode1989, lenet5, lenet, alexnet, nin, vgg11, vgg13, vgg16, vgg19, vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn,
    googlenet, resnet18, resnet34, resnet50, resnet101, resnet152, resnet20, resnet56, resnet110, densenet121,
    squeezenet, mobilenet_v1, mobilenet_v2,
)  # fmt: skip
"""Models of one output, the logits of an image: functions of `classes` and `input_shape`."""

MODELS = CLASSIFIERS | _by_name(box_detector, autoencoder, unet)

__all__ = [
    "CLASSIFIERS", "MODELS", "alexnet", "autoencoder", "box_detector", "densenet121", "get", "googlenet", "lenet",
    "lenet5", "mobilenet_v1", "mobilenet_v2", "names", "nin", "resnet18", "resnet20", "resnet34", "resnet50",
    "resnet56", "resnet101", "resnet110", "resnet152", "squeezenet", "unet", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn",
    "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "zipcode1989",
]  # fmt: skip


def names() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(MODELS)


def get(name: str) -> Callable[..., Graph]:
    """Return a model's function by its name.

    Parameters
    ----------
    name
        One of `names()` (else ArgumentError).

    >>> get("lenet5")().parameter_count
    61706
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(MODELS)}."
        raise ArgumentError(f"there is no model {name!r}: {advice}")
    return MODELS[name]
