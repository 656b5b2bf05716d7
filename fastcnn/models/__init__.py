"""Ready architectures: each a function of classes and input shape, in the table that names them."""

from collections.abc import Callable
from difflib import get_close_matches

from fastcnn.errors import ArgumentError
from fastcnn.graph import Graph
from fastcnn.models.lenet import lenet, lenet5
from fastcnn.models.mobilenet import mobilenet_v1, mobilenet_v2
from fastcnn.models.resnet import resnet18, resnet20, resnet34, resnet50, resnet56, resnet101, resnet110, resnet152
from fastcnn.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

MODELS: dict[str, Callable[..., Graph]] = {
    model.__name__: model
    for model in (
        lenet, lenet5, vgg11, vgg13, vgg16, vgg19, vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn,
        resnet18, resnet34, resnet50, resnet101, resnet152, resnet20, resnet56, resnet110, mobilenet_v1, mobilenet_v2,
    )
}  # fmt: skip

__all__ = ["MODELS", "get", "names", *MODELS]


def names() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(MODELS)


def get(name: str) -> Callable[..., Graph]:
    """Return a model's function by its name.

    >>> get("lenet5")().parameter_count
    61706
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=3) or list(MODELS)
        raise ArgumentError(f"there is no model {name!r}: did you mean {' or '.join(near)}?")
    return MODELS[name]
