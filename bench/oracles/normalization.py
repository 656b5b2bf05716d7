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
    LocalContrastNorm,
    LocalResponseNorm,
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


def _response(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
    return last(torch.nn.functional.local_response_norm(first(xs[0]), 5, 0.7, 0.75, 1.3))


def _brightness(numpy: Any, xs: list[Array], params: dict[str, Array]) -> Array:
    (x,) = xs
    y: Array = x / (0.8 + 0.3 * np.square(x).sum(-1, keepdims=True)) ** 0.6
    return y


def _contrast(mode: str) -> Any:
    def mean(v: Array) -> Array:
        """Return the Gaussian mean of images (N, H, W, C), pixel by pixel: windows of 5x5, sigma 1.2."""
        _, H, W, _ = v.shape
        out = np.empty(v.shape[:3])
        for h, w in np.ndindex(H, W):
            rows, columns = np.arange(max(0, h - 2), min(H, h + 3)), np.arange(max(0, w - 2), min(W, w + 3))
            distance = np.square(rows - h)[:, None] + np.square(columns - w)
            weights = np.exp(-distance / (2 * 1.2**2))
            near = v[:, rows[:, None], columns].mean(-1)
            out[:, h, w] = (near * weights).sum((1, 2)) / weights.sum()
        return out[..., None]

    def oracle(numpy: Any, xs: list[Array], params: dict[str, Array]) -> Array:
        v: Array = xs[0] - (mean(xs[0]) if mode != "divisive" else 0)
        if mode == "subtractive":
            return v
        spread = np.sqrt(mean(np.square(v)))
        quotient: Array = v / np.maximum(spread, spread.mean((1, 2), keepdims=True))
        return quotient

    return oracle


KRIZHEVSKY, JARRETT = "Krizhevsky 2012, over all channels", "Jarrett 2009"

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
    Operation("LocalResponseNorm", partial(LocalResponseNorm, 5, 0.7, 0.75, 1.3), ((2, 4, 5, 11),), _response),
    Operation(
        "LocalResponseNorm over all channels", partial(LocalResponseNorm, None, kappa=0.8, lam=0.3, mu=0.6),
        ((2, 4, 5, 7),), _brightness, KRIZHEVSKY,
    ),
    *(
        Operation(
            f"LocalContrastNorm, {mode}", partial(LocalContrastNorm, 5, 1.2, mode), ((2, 7, 9, 3),), _contrast(mode),
            JARRETT,
        )
        for mode in ("both", "subtractive", "divisive")
    ),
]  # fmt: skip
