"""fastcnn trains and runs convolutional networks on CPU cores: NumPy arrays, Numba kernels.

>>> import fastcnn as fc
>>> net = fc.models.lenet5()
>>> net.parameter_count
61706

Importing the package loads NumPy only; a room of kernels is loaded when its device is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastcnn import (
    augment,
    filters,
    initializers,
    models,
    schedules,
)
from fastcnn.algorithms import (
    set_convolution_algorithm,
)
from fastcnn.arrays import (
    from_nchw,
    to_nchw,
)
from fastcnn.checkpoint.safetensors import (
    load,
    save,
)
from fastcnn.errors import (
    ArgumentError,
    BackendError,
    CheckpointError,
    DataError,
    FastcnnError,
    ShapeError,
    SignatureError,
    TrainingError,
)
from fastcnn.folding import (
    fold,
)
from fastcnn.graph.graph import (
    Graph,
)
from fastcnn.graph.sequential import (
    Sequential,
)
from fastcnn.layers import (
    ELU,
    GELU,
    Abs,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    Add,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Concat,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    Elementwise,
    Flatten,
    Gain,
    GaussianPool2d,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    Hardswish,
    Identity,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    LocalContrastNorm,
    LocalResponseNorm,
    LogSoftmax,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxPoolIndices1d,
    MaxPoolIndices2d,
    MaxPoolIndices3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    Multiply,
    Pad,
    PadChannels,
    Permute,
    ReLU,
    ReLU6,
    Reshape,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
    Sigmoid,
    SiLU,
    SoftAbs,
    Softmax,
    Softplus,
    Subsample,
    Tanh,
    Upsample,
)
from fastcnn.layers.node import (
    Input,
    Node,
)
from fastcnn.losses import (
    L1,
    NLL,
    BinaryCrossEntropy,
    CrossEntropy,
    Hinge,
    Loss,
    MeanSquaredError,
    MultiTask,
    SmoothL1,
    SumSquaredError,
)
from fastcnn.optimizers.rules import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Optimizer,
    RMSprop,
)
from fastcnn.population import (
    estimate_population_statistics,
)
from fastcnn.seeding import (
    manual_seed,
)
from fastcnn.sparse_coding.model import (
    SparseCoding,
)
from fastcnn.sparse_coding.stack import (
    SparseCodingStack,
)
from fastcnn.sparse_coding.whitening import (
    Whitening,
)
from fastcnn.toeplitz import (
    conv_matrix,
)
from fastcnn.training.history import (
    Evaluation,
    History,
)
from fastcnn.training.trainer import (
    Trainer,
)

if TYPE_CHECKING:
    from fastcnn import data

__version__ = "0.1.0"

__all__ = [
    "ELU",
    "GELU",
    "L1",
    "NLL",
    "SGD",
    "Abs",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "Add",
    "ArgumentError",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BackendError",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BinaryCrossEntropy",
    "CheckpointError",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropy",
    "DataError",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Elementwise",
    "Evaluation",
    "FastcnnError",
    "Flatten",
    "Gain",
    "GaussianPool2d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Graph",
    "GroupNorm",
    "Hardswish",
    "Hinge",
    "History",
    "Identity",
    "Input",
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
    "Loss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxPoolIndices1d",
    "MaxPoolIndices2d",
    "MaxPoolIndices3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "MeanSquaredError",
    "MultiTask",
    "Multiply",
    "Node",
    "Optimizer",
    "Pad",
    "PadChannels",
    "Permute",
    "RMSprop",
    "ReLU",
    "ReLU6",
    "Reshape",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
    "Sequential",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "SignatureError",
    "SmoothL1",
    "SoftAbs",
    "Softmax",
    "Softplus",
    "SparseCoding",
    "SparseCodingStack",
    "Subsample",
    "SumSquaredError",
    "Tanh",
    "Trainer",
    "TrainingError",
    "Upsample",
    "Whitening",
    "augment",
    "conv_matrix",
    "data",
    "estimate_population_statistics",
    "filters",
    "fold",
    "from_nchw",
    "initializers",
    "load",
    "manual_seed",
    "models",
    "save",
    "schedules",
    "set_convolution_algorithm",
    "to_nchw",
]


def __getattr__(name: str) -> Any:
    """Import `fastcnn.data` at the first look."""
    if name == "data":
        return import_module("fastcnn.data")
    raise AttributeError(f"module 'fastcnn' has no attribute {name!r}")
