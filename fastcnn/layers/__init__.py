"""The layers, and the table of their names: the only classes that a model file can ask for."""

from fastcnn.layers.adaptive_pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    GlobalAvgPool,
    GlobalMaxPool,
)
from fastcnn.layers.base import Layer
from fastcnn.layers.conv import Conv1d, Conv2d, Conv3d
from fastcnn.layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from fastcnn.layers.elementwise import Add, Flatten, Identity, ReLU
from fastcnn.layers.linear import Linear
from fastcnn.layers.lp_pool import GaussianPool2d, LPPool1d, LPPool2d, LPPool3d
from fastcnn.layers.pool import (
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxPoolIndices1d,
    MaxPoolIndices2d,
    MaxPoolIndices3d,
)
from fastcnn.layers.resample import MaxUnpool1d, MaxUnpool2d, MaxUnpool3d, Subsample, Upsample

LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Linear, Flatten, Identity, Add, ReLU,
        MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d,
        LPPool1d, LPPool2d, LPPool3d, GaussianPool2d, AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d,
        AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d, GlobalAvgPool, GlobalMaxPool,
        MaxPoolIndices1d, MaxPoolIndices2d, MaxPoolIndices3d, MaxUnpool1d, MaxUnpool2d, MaxUnpool3d, Upsample,
        Subsample,
    )
}  # fmt: skip

__all__ = [
    "LAYERS",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Flatten",
    "GaussianPool2d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Identity",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "Layer",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxPoolIndices1d",
    "MaxPoolIndices2d",
    "MaxPoolIndices3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "ReLU",
    "Subsample",
    "Upsample",
]
