"""Pools beside PyTorch's."""

from functools import partial
from typing import Any

from fastcnn import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from fastcnn.bench.oracles.operation import Operation
from fastcnn.bench.oracles.tensors import channels_first


def _pool(name: str, *how: Any, **options: Any) -> Any:
    return channels_first(lambda torch, x: getattr(torch.nn.functional, name)(x, *how, **options))


OPERATIONS = [
    Operation("MaxPool1d", partial(MaxPool1d, 3, 2, 1), ((2, 13, 5),), _pool("max_pool1d", 3, 2, 1)),
    Operation("MaxPool2d", partial(MaxPool2d, 3, 2, 1), ((2, 9, 8, 5),), _pool("max_pool2d", 3, 2, 1)),
    Operation("MaxPool3d", partial(MaxPool3d, 2), ((2, 4, 6, 4, 3),), _pool("max_pool3d", 2)),
    Operation("AvgPool1d", partial(AvgPool1d, 3, 2, 1), ((2, 13, 5),), _pool("avg_pool1d", 3, 2, 1)),
    Operation("AvgPool2d", partial(AvgPool2d, 3, 2, 1), ((2, 9, 8, 5),), _pool("avg_pool2d", 3, 2, 1)),
    Operation("AvgPool3d", partial(AvgPool3d, 2), ((2, 4, 6, 4, 3),), _pool("avg_pool3d", 2)),
]
