"""Normalizations beside PyTorch's or their equations."""

from functools import partial
from typing import Any

import numpy as np

from fastcnn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
)
from fastcnn.arrays import Array
from fastcnn.bench.oracles.operation import Operation
from fastcnn.bench.oracles.tensors import first, last


def _batch(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    weight, bias = params.get("weight"), params.get("bias")
    return last(torch.nn.functional.batch_norm(first(xs[0]), None, None, weight, bias, training=True))


def _batch_fixed(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    x = first(xs[0])
    zeros, ones = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    return last(torch.nn.functional.batch_norm(x, zeros, ones, params["weight"], params["bias"]))


def _instance(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    weight, bias = params.get("weight"), params.get("bias")
    return last(torch.nn.functional.instance_norm(first(xs[0]), weight=weight, bias=bias))


def _group(groups: int) -> Any:
    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        return last(torch.nn.functional.group_norm(first(xs[0]), groups, params["weight"], params["bias"]))

    return oracle


def _layer(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    weight, bias = params["weight"], params.get("bias")
    return torch.nn.functional.layer_norm(xs[0], weight.shape, weight, bias)


def _far(rng: np.random.Generator) -> Array:
    """Return images whose channels' means are far above their deviations."""
    return 100 + rng.standard_normal((3, 5, 6, 7))


def _predicting(**how: Any) -> Any:
    return BatchNorm2d(7, **how).eval()


OPERATIONS = [
    Operation("BatchNorm1d", partial(BatchNorm1d, 5), ((9, 5),), _batch),
    Operation("BatchNorm1d of signals", partial(BatchNorm1d, 5), ((3, 9, 5),), _batch),
    Operation("BatchNorm2d", partial(BatchNorm2d, 7), ((3, 5, 6, 7),), _batch),
    Operation("BatchNorm2d, mean above deviation", partial(BatchNorm2d, 7), (_far,), _batch),
    Operation("BatchNorm2d, affine=False", partial(BatchNorm2d, 7, affine=False), ((3, 5, 6, 7),), _batch),
    Operation("BatchNorm2d in prediction", _predicting, ((3, 5, 6, 7),), _batch_fixed),
    Operation("BatchNorm3d", partial(BatchNorm3d, 3), ((2, 4, 5, 6, 3),), _batch),
    Operation("InstanceNorm1d", partial(InstanceNorm1d, 5, affine=True), ((3, 9, 5),), _instance),
    Operation("InstanceNorm2d", partial(InstanceNorm2d, 7), ((3, 5, 6, 7),), _instance),
    Operation("InstanceNorm3d", partial(InstanceNorm3d, 3), ((2, 4, 5, 6, 3),), _instance),
    Operation("GroupNorm", partial(GroupNorm, 3, 12), ((3, 5, 6, 12),), _group(3)),
    Operation("GroupNorm of rows", partial(GroupNorm, 2, 12), ((9, 12),), _group(2)),
    Operation("LayerNorm", partial(LayerNorm, 33), ((3, 5, 33),), _layer),
    Operation("LayerNorm of images", partial(LayerNorm, (5, 6, 7), bias=False), ((3, 5, 6, 7),), _layer),
]
