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
