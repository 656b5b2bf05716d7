"""The layers, and the table of their names: the only classes that a model file can ask for."""

from fastcnn.layers.activation import (
    ELU,
    GELU,
    Abs,
    Hardswish,
    LeakyReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    SoftAbs,
    Softplus,
    Tanh,
)
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
from fastcnn.layers.base import (
    Layer,
)
from fastcnn.layers.batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from fastcnn.layers.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
)
from fastcnn.layers.conv_transpose import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from fastcnn.layers.dropout import (
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
)
from fastcnn.layers.gain import Gain
from fastcnn.layers.join import (
    Add,
    Concat,
    Multiply,
)
from fastcnn.layers.linear import (
    Linear,
)
from fastcnn.layers.local_norm import (
    LocalContrastNorm,
    LocalResponseNorm,
)
from fastcnn.layers.lp_pool import (
    GaussianPool2d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
)
from fastcnn.layers.norm import GroupNorm, LayerNorm
from fastcnn.layers.pad import (
    Pad,
    PadChannels,
)
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
from fastcnn.layers.resample import (
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    Subsample,
    Upsample,
)
from fastcnn.layers.separable import (
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
)
from fastcnn.layers.softmax import LogSoftmax, Softmax
from fastcnn.layers.user_function import Elementwise
from fastcnn.layers.view import (
    Flatten,
    Identity,
    Permute,
    Reshape,
)

LAYERS: dict[str, type[Layer]] = {
    name: kind
    for name, kind in tuple(globals().items())
    if isinstance(kind, type) and issubclass(kind, Layer) and kind is not Layer and not kind.holds_code
}

__all__ = [
    "ELU",
    "GELU",
    "LAYERS",
    "Abs",
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
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
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
    "Elementwise",
    "Flatten",
    "Gain",
    "GaussianPool2d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Hardswish",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalContrastNorm",
    "LocalResponseNorm",
    "LogSoftmax",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxPoolIndices1d",
    "MaxPoolIndices2d",
    "MaxPoolIndices3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Multiply",
    "Pad",
    "PadChannels",
    "Permute",
    "ReLU",
    "ReLU6",
    "Reshape",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
    "SiLU",
    "Sigmoid",
    "SoftAbs",
    "Softmax",
    "Softplus",
    "Subsample",
    "Tanh",
    "Upsample",
]
