"""Non-linearities beside PyTorch's or their equations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastcnn import (
    ELU,
    GELU,
    Abs,
    Elementwise,
    Gain,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    SoftAbs,
    Softmax,
    Softplus,
    Tanh,
)
from fastcnn.arrays import Array
from fastcnn.bench.oracles.operation import Operation

SHAPE = (3, 5, 7)


def _wide(rng: np.random.Generator) -> Array:
    """Return numbers of all magnitudes from 0.001 to 1000, of both signs, and a few zeros."""
    x = rng.choice([-1.0, 1.0], (3, 5, 37)) * 10 ** rng.uniform(-3, 3, (3, 5, 37))
    x[:, 0, 0] = 0
    return x


def _function(name: str, *how: Any, **options: Any) -> Callable[..., Any]:
    return lambda torch, xs, params: getattr(torch.nn.functional, name)(xs[0], *how, **options)


def _both(name: str, make: Callable[..., Any], oracle: Callable[..., Any]) -> list[Operation]:
    """Return an activation on normal numbers, and on numbers of all magnitudes."""
    return [
        Operation(name, make, (SHAPE,), oracle),
        Operation(f"{name}, all magnitudes", make, (_wide,), oracle),
    ]


def _smooth_relu(numpy: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    return numpy.logaddexp(0, 3 * xs[0]) / 3


def _smooth_abs(numpy: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    k = 1.5
    return 2 / k * numpy.logaddexp(0, k * xs[0]) - xs[0] - 2 / k * numpy.log(2)


def _bell(x: float) -> float:
    return 1 / (1 + x * x)


def _bell_slope(x: float) -> float:
    return -2 * x / ((1 + x * x) * (1 + x * x))


OPERATIONS = [
    Operation("ReLU", ReLU, ((3, 5, 7),), lambda torch, xs, params: torch.relu(xs[0])),
    *_both("ReLU6", ReLU6, _function("relu6")),
    *_both("LeakyReLU", partial(LeakyReLU, 0.2), _function("leaky_relu", 0.2)),
    *_both("ELU", partial(ELU, 0.7), _function("elu", 0.7)),
    *_both("SiLU", SiLU, _function("silu")),
    *_both("GELU", GELU, _function("gelu")),
    *_both("GELU, tanh", partial(GELU, "tanh"), _function("gelu", approximate="tanh")),
    *_both("Hardswish", Hardswish, _function("hardswish")),
    *_both("Mish", Mish, _function("mish")),
    *_both("Sigmoid", Sigmoid, lambda torch, xs, params: torch.sigmoid(xs[0])),
    *_both("Tanh", Tanh, lambda torch, xs, params: torch.tanh(xs[0])),
    *_both("Softplus", partial(Softplus, beta=2.5, threshold=15), _function("softplus", 2.5, 15)),
    Operation("Softplus(k)", partial(Softplus, 3.0), (SHAPE,), _smooth_relu, "ln(1 + e^(kx)) / k"),
    *_both("Abs", Abs, lambda torch, xs, params: torch.abs(xs[0])),
    Operation("SoftAbs", partial(SoftAbs, 1.5), (SHAPE,), _smooth_abs, "(2/k) ln(1 + e^(kx)) - x - (2/k) ln 2"),
    *_both("Softmax", Softmax, lambda torch, xs, params: torch.softmax(xs[0], -1)),
    *_both("LogSoftmax", LogSoftmax, lambda torch, xs, params: torch.log_softmax(xs[0], -1)),
    Operation("Softmax, 300 channels", Softmax, ((7, 300),), lambda torch, xs, params: torch.softmax(xs[0], -1)),
    Operation(
        "LogSoftmax, 300 channels", LogSoftmax, ((7, 300),), lambda torch, xs, params: torch.log_softmax(xs[0], -1)
    ),
    Operation("Gain", partial(Gain, 7), (SHAPE,), lambda torch, xs, params: xs[0] * params["weight"]),
    Operation(
        "Elementwise", partial(Elementwise, _bell, _bell_slope), (SHAPE,),
        lambda torch, xs, params: 1 / (1 + xs[0] ** 2),
    ),
]  # fmt: skip
