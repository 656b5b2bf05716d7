"""Optimizers as things to measure, with their name in front, in the keys of `convolution.py`: `adam:mb1ic61706`.

The tensor is that of all parameters of a network, which one step updates at once. The named sets hold every optimizer
for the parameters of a network: one whose arrays stay in the caches, two whose do not.
"""

from collections.abc import Callable
from typing import Any

from fastcnn.bench.shapes.activation import Elementwise, read_tensor

# Names that fastcnn and torch.optim share, and arguments that both take.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 1e-3}),
    "sgd_momentum": ("SGD", {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}),
    "sgd_nesterov": ("SGD", {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}),
    "adam": ("Adam", {}),
    "adam_amsgrad": ("Adam", {"amsgrad": True}),
    "adamw": ("AdamW", {}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop_centered": ("RMSprop", {"momentum": 0.9, "centered": True}),
    "adagrad": ("Adagrad", {}),
}


def parse(text: str) -> Elementwise:
    """Read one descriptor; no kind means sgd_momentum.

    Raises
    ------
    ShapeError
        If the text is no descriptor, or describes no tensor.

    >>> parse("adam:mb1ic61706").elements
    61706
    """
    return read_tensor(text, KINDS, "sgd_momentum", "optimizer")


PARAMETERS = {"lenet5": 61_706, "mobilenet_v2": 3_504_872, "resnet50": 25_557_032}


def _every(name: str, parameters: int) -> Callable[[], list[Elementwise]]:
    return lambda: [parse(f"{kind}:mb1ic{parameters}").counted(f"{name}:{kind}", 1) for kind in KINDS]


SETS: dict[str, Callable[[], list[Elementwise]]] = {name: _every(name, size) for name, size in PARAMETERS.items()}
