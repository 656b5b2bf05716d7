"""The layers, and the table of their names: the only classes that a model file can ask for."""

from fastcnn.layers.base import Layer
from fastcnn.layers.conv import Conv1d, Conv2d, Conv3d
from fastcnn.layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from fastcnn.layers.dropout import Dropout, Dropout1d, Dropout2d, Dropout3d
from fastcnn.layers.elementwise import ReLU
from fastcnn.layers.join import Add, Concat, Multiply
from fastcnn.layers.linear import Linear
from fastcnn.layers.pad import Pad
from fastcnn.layers.pool import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from fastcnn.layers.separable import SeparableConv1d, SeparableConv2d, SeparableConv3d
from fastcnn.layers.view import Flatten, Identity, Permute, Reshape

LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Linear, Flatten, Identity, Add, ReLU,
        SeparableConv1d, SeparableConv2d, SeparableConv3d, Reshape, Permute, Pad, Concat, Multiply,
        Dropout, Dropout1d, Dropout2d, Dropout3d,
        MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d,
    )
}  # fmt: skip

__all__ = [
    "LAYERS",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Flatten",
    "Identity",
    "Layer",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Multiply",
    "Pad",
    "Permute",
    "ReLU",
    "Reshape",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
]
