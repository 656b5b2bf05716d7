"""Pools beside PyTorch's, or beside their equations."""

from functools import partial
from math import prod
from typing import Any

import numpy as np

from fastcnn import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GaussianPool2d,
    GlobalAvgPool,
    GlobalMaxPool,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    Subsample,
    Upsample,
)
from fastcnn.arrays import Array, Shape
from fastcnn.bench.oracles.operation import Operation
from fastcnn.bench.oracles.tensors import channels_first, first, last


def _pool(name: str, *how: Any, **options: Any) -> Any:
    return channels_first(lambda torch, x: getattr(torch.nn.functional, name)(x, *how, **options))


def _norm(rank: int, power: float, window: int, stride: int) -> Any:
    """Return the p-norm as PyTorch's mean of |x|^p, times the pixels of a window: PyTorch's own leaves out the ||."""

    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        mean = getattr(torch.nn.functional, f"avg_pool{rank}d")
        return last(mean(first(xs[0]).abs() ** power, window, stride) * window**rank) ** (1 / power)

    return oracle


def _gaussian(numpy: Any, xs: list[Array], params: dict[str, Array]) -> Array:
    """Return GaussianPool2d(3, 2, 1, sigma=0.8), window by window."""
    (x,) = xs
    N, H, W, C = x.shape
    P, Q = (H - 1) // 2 + 1, (W - 1) // 2 + 1
    y = np.zeros((N, P, Q, C))
    for p, q in np.ndindex(P, Q):
        total = 0.0
        for r, s in np.ndindex(3, 3):
            h, w = 2 * p - 1 + r, 2 * q - 1 + s
            if 0 <= h < H and 0 <= w < W:
                weight = np.exp(-((r - 1) ** 2 + (s - 1) ** 2) / (2 * 0.8**2))
                y[:, p, q] += weight * x[:, h, w]
                total += weight
        y[:, p, q] /= total
    return y


def _global(maximum: bool) -> Any:
    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        flat = xs[0].flatten(1, -2)
        return flat.amax(1) if maximum else flat.mean(1)

    return oracle


def _positions(shape: Shape, window: int) -> Any:
    """Return a maker of indices such as a pooling of images of `shape` by side-by-side windows gives."""

    def make(rng: np.random.Generator) -> Array:
        N, *image, C = shape
        windows = np.array(list(np.ndindex(*(size // window for size in image)))) * window
        taps = rng.integers(0, window, (N, len(windows), C, len(image)))
        place = windows[:, np.newaxis] + taps
        flat = np.ravel_multi_index(tuple(np.moveaxis(place, -1, 0)), tuple(image))
        return flat.reshape(N, *(size // window for size in image), C)

    return make


def _unpool(rank: int, window: int) -> Any:
    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        unpool = getattr(torch.nn.functional, f"max_unpool{rank}d")
        return last(unpool(first(xs[0]).contiguous(), first(xs[1]).contiguous(), window))

    return oracle


def _strided(rank: int, step: int) -> Any:
    def oracle(torch: Any, xs: list[Any], params: dict[str, Any]) -> Any:
        return xs[0][(slice(None), *[slice(None, None, step)] * rank)]

    return oracle


def _unpooling(make: Any, shape: Shape, window: int) -> Operation:
    rank = len(shape) - 2
    pooled = (shape[0], *(size // window for size in shape[1:-1]), shape[-1])
    assert prod(pooled)
    return Operation(
        f"MaxUnpool{rank}d", partial(make, window), (pooled, _positions(shape, window)), _unpool(rank, window)
    )


OPERATIONS = [
    Operation("MaxPool1d", partial(MaxPool1d, 3, 2, 1), ((2, 13, 5),), _pool("max_pool1d", 3, 2, 1)),
    Operation("MaxPool2d", partial(MaxPool2d, 3, 2, 1), ((2, 9, 8, 5),), _pool("max_pool2d", 3, 2, 1)),
    Operation("MaxPool3d", partial(MaxPool3d, 2), ((2, 4, 6, 4, 3),), _pool("max_pool3d", 2)),
    Operation(
        "MaxPool2d, dilation and ceil_mode", partial(MaxPool2d, 3, 2, 1, 2, ceil_mode=True), ((2, 12, 9, 20),),
        _pool("max_pool2d", 3, 2, 1, 2, ceil_mode=True),
    ),
    Operation("AvgPool1d", partial(AvgPool1d, 3, 2, 1), ((2, 13, 5),), _pool("avg_pool1d", 3, 2, 1)),
    Operation("AvgPool2d", partial(AvgPool2d, 3, 2, 1), ((2, 9, 8, 5),), _pool("avg_pool2d", 3, 2, 1)),
    Operation("AvgPool3d", partial(AvgPool3d, 2), ((2, 4, 6, 4, 3),), _pool("avg_pool3d", 2)),
    Operation(
        "AvgPool2d, ceil_mode without padding in the count",
        partial(AvgPool2d, 3, 2, 1, True, False), ((2, 9, 8, 20),), _pool("avg_pool2d", 3, 2, 1, True, False),
    ),
    Operation("LPPool1d", partial(LPPool1d, 2, 3, 2), ((2, 13, 5),), _norm(1, 2, 3, 2)),
    Operation("LPPool2d, p = 1", partial(LPPool2d, 1, 3, 2), ((2, 9, 8, 5),), _norm(2, 1, 3, 2)),
    Operation("LPPool2d, p = 2", partial(LPPool2d, 2, 2), ((2, 8, 8, 20),), _norm(2, 2, 2, 2)),
    Operation("LPPool2d, p = 3.5", partial(LPPool2d, 3.5, 3, 2), ((2, 9, 8, 5),), _norm(2, 3.5, 3, 2)),
    Operation("LPPool3d", partial(LPPool3d, 2, 2), ((2, 4, 6, 4, 3),), _norm(3, 2, 2, 2)),
    Operation(
        "GaussianPool2d", partial(GaussianPool2d, 3, 2, 1, sigma=0.8), ((2, 9, 8, 5),), _gaussian, "its definition"
    ),
    Operation("AdaptiveAvgPool1d", partial(AdaptiveAvgPool1d, 5), ((2, 13, 5),), _pool("adaptive_avg_pool1d", 5)),
    Operation(
        "AdaptiveAvgPool2d", partial(AdaptiveAvgPool2d, (4, None)), ((2, 9, 8, 5),),
        _pool("adaptive_avg_pool2d", (4, None)),
    ),
    Operation(
        "AdaptiveAvgPool3d", partial(AdaptiveAvgPool3d, 3), ((2, 4, 6, 5, 3),), _pool("adaptive_avg_pool3d", 3)
    ),
    Operation("AdaptiveMaxPool1d", partial(AdaptiveMaxPool1d, 5), ((2, 13, 5),), _pool("adaptive_max_pool1d", 5)),
    Operation(
        "AdaptiveMaxPool2d", partial(AdaptiveMaxPool2d, (4, None)), ((2, 9, 8, 5),),
        _pool("adaptive_max_pool2d", (4, None)),
    ),
    Operation(
        "AdaptiveMaxPool3d", partial(AdaptiveMaxPool3d, 3), ((2, 4, 6, 5, 3),), _pool("adaptive_max_pool3d", 3)
    ),
    Operation("GlobalAvgPool", GlobalAvgPool, ((2, 7, 6, 20),), _global(False)),
    Operation("GlobalMaxPool", GlobalMaxPool, ((2, 3, 7, 6, 2, 5),), _global(True)),
    _unpooling(MaxUnpool1d, (2, 12, 5), 3),
    _unpooling(MaxUnpool2d, (2, 8, 6, 20), 2),
    _unpooling(MaxUnpool3d, (2, 4, 6, 4, 3), 2),
    Operation("Upsample, nearest", partial(Upsample, (13, 7)), ((2, 5, 9, 5),), _pool("interpolate", (13, 7))),
    Operation(
        "Upsample, nearest by a factor", partial(Upsample, scale_factor=1.7), ((2, 4, 5, 6, 3),),
        _pool("interpolate", scale_factor=1.7),
    ),
    Operation(
        "Upsample, bilinear", partial(Upsample, scale_factor=2, mode="bilinear"), ((2, 5, 9, 5),),
        _pool("interpolate", scale_factor=2, mode="bilinear"),
    ),
    Operation(
        "Upsample, bilinear with corners", partial(Upsample, (13, 7), mode="bilinear", align_corners=True),
        ((2, 5, 9, 20),), _pool("interpolate", (13, 7), mode="bilinear", align_corners=True),
    ),
    Operation(
        "Upsample, linear", partial(Upsample, scale_factor=1.7, mode="linear"), ((2, 9, 5),),
        _pool("interpolate", scale_factor=1.7, mode="linear"),
    ),
    Operation("Subsample", partial(Subsample, 2), ((2, 9, 8, 5),), _strided(2, 3)),
]  # fmt: skip
