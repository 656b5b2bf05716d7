"""The layers, and the table of their names: the only classes that a model file can ask for."""

from fastcnn.layers.activation import (
    ELU,
    GELU,
    Abs,
    Elementwise,
    Gain,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    SoftAbs,
    Softmax,
    Softplus,
    Tanh,
)
from fastcnn.layers.base import Layer
from fastcnn.layers.conv import Conv1d, Conv2d, Conv3d
from fastcnn.layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from fastcnn.layers.elementwise import Add, Flatten, Identity
from fastcnn.layers.linear import Linear
from fastcnn.layers.pool import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d

LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Linear, Flatten, Identity, Add, ReLU,
        MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d,
        LeakyReLU, ELU, SiLU, GELU, Hardswish, Sigmoid, Tanh, Softmax, LogSoftmax, Softplus, Abs, SoftAbs, Gain,
    )
}  # fmt: skip

__all__ = [
    "ELU",
    "GELU",
    "LAYERS",
    "Abs",
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
    "Elementwise",
    "Flatten",
    "Gain",
    "Hardswish",
    "Identity",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "SoftAbs",
    "Softmax",
    "Softplus",
    "Tanh",
]
