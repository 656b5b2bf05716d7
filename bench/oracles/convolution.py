"""Convolutions beside PyTorch's."""

from functools import partial
from typing import Any

from fastcnn import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
)
from fastcnn.bench.oracles.operation import Operation
from fastcnn.bench.oracles.tensors import filters, first, last


def _conv(rank: int, transposed: bool = False, **how: Any) -> Any:
    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        name = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
        function = getattr(torch.nn.functional, name)
        return last(function(first(xs[0]), filters(params["weight"]), params.get("bias"), **how))

    return oracle


def _linear(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    return xs[0] @ params["weight"] + params["bias"]


def _padded(rank: int, mode: str, pads: list[int], **how: Any) -> Any:
    """Return an oracle that pads, as PyTorch's layers do, then convolves."""

    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        x = torch.nn.functional.pad(first(xs[0]), pads, mode)
        function = getattr(torch.nn.functional, f"conv{rank}d")
        return last(function(x, filters(params["weight"]), params["bias"], **how))

    return oracle


def _separable(rank: int, **how: Any) -> Any:
    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        x, function = first(xs[0]), getattr(torch.nn.functional, f"conv{rank}d")
        middle = function(x, filters(params["depthwise_weight"]), groups=x.shape[1], **how)
        return last(function(middle, filters(params["pointwise_weight"]), params["bias"]))

    return oracle


OPERATIONS = [
    Operation("Conv1d", partial(Conv1d, 6, 8, 5, 2, 3), ((2, 17, 6),), _conv(1, stride=2, padding=3)),
    Operation("Conv2d", partial(Conv2d, 6, 10, 3, 1, 1), ((2, 9, 8, 6),), _conv(2, padding=1)),
    Operation("Conv3d", partial(Conv3d, 3, 5, 3, 1, 1), ((2, 4, 5, 6, 3),), _conv(3, padding=1)),
    Operation(
        "Conv2d, groups and dilation", partial(Conv2d, 6, 9, 3, 2, 2, 2, groups=3), ((2, 9, 11, 6),),
        _conv(2, stride=2, padding=2, dilation=2, groups=3),
    ),
    Operation(
        "Conv2d, depthwise", partial(Conv2d, 6, 12, 3, padding=1, groups=6), ((2, 7, 8, 6),),
        _conv(2, padding=1, groups=6),
    ),
    Operation(
        "Conv1d, reflect", partial(Conv1d, 6, 8, 5, 2, 3, padding_mode="reflect"), ((2, 17, 6),),
        _padded(1, "reflect", [3, 3], stride=2),
    ),
    Operation(
        "Conv2d, reflect", partial(Conv2d, 6, 10, 4, padding="same", padding_mode="reflect"), ((2, 9, 8, 6),),
        _padded(2, "reflect", [1, 2, 1, 2]),
    ),
    Operation(
        "Conv2d, replicate", partial(Conv2d, 6, 10, 3, 2, ((0, 7), (2, 1)), padding_mode="replicate"), ((2, 5, 8, 6),),
        _padded(2, "replicate", [2, 1, 0, 7], stride=2),
    ),
    Operation(
        "Conv2d, circular", partial(Conv2d, 6, 9, 3, 1, 2, 2, 3, padding_mode="circular"), ((2, 9, 8, 6),),
        _padded(2, "circular", [2] * 4, dilation=2, groups=3),
    ),
    Operation(
        "Conv3d, circular", partial(Conv3d, 3, 5, 3, 1, (1, 0, 2), padding_mode="circular"), ((2, 4, 5, 6, 3),),
        _padded(3, "circular", [2, 2, 0, 0, 1, 1]),
    ),
    Operation(
        "SeparableConv1d", partial(SeparableConv1d, 6, 8, 5, 2, 3), ((2, 17, 6),), _separable(1, stride=2, padding=3)
    ),
    Operation(
        "SeparableConv2d", partial(SeparableConv2d, 6, 10, 3, 1, 2, 2, 2), ((2, 9, 8, 6),),
        _separable(2, padding=2, dilation=2),
    ),
    Operation(
        "SeparableConv3d", partial(SeparableConv3d, 3, 5, 3, padding=1), ((2, 4, 5, 6, 3),), _separable(3, padding=1)
    ),
    Operation("Conv2d, 1x1", partial(Conv2d, 20, 33, 1), ((2, 7, 8, 20),), _conv(2)),
    Operation(
        "ConvTranspose1d", partial(ConvTranspose1d, 6, 4, 4, 2, 1, 1), ((2, 9, 6),),
        _conv(1, True, stride=2, padding=1, output_padding=1),
    ),
    Operation(
        "ConvTranspose2d", partial(ConvTranspose2d, 6, 4, 3, 2, 1), ((2, 5, 6, 6),), _conv(2, True, stride=2, padding=1)
    ),
    Operation("ConvTranspose3d", partial(ConvTranspose3d, 3, 2, 3), ((2, 3, 4, 5, 3),), _conv(3, True)),
    Operation("Linear", partial(Linear, 30, 12), ((7, 30),), _linear),
]  # fmt: skip
