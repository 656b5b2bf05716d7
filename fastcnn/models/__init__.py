"""Ready architectures: each a function of classes and input shape, in the table that names them."""

from collections.abc import Callable
from difflib import get_close_matches

from fastcnn.errors import ArgumentError
from fastcnn.graph import Graph
from fastcnn.models.lenet import lenet, lenet5

MODELS: dict[str, Callable[..., Graph]] = {"lenet": lenet, "lenet5": lenet5}

__all__ = ["MODELS", "get", "lenet", "lenet5", "names"]


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
