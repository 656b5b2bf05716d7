"""fastcnn trains and runs convolutional networks on CPU cores: NumPy arrays, Numba kernels.

>>> import fastcnn as fc
>>> net = fc.models.lenet5()
>>> net.parameter_count
61706

Importing the package loads NumPy only; a room of kernels is loaded when its device is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastcnn import initializers, models
from fastcnn.algorithms import set_convolution_algorithm
from fastcnn.arrays import from_nchw, to_nchw
from fastcnn.checkpoint import load, save
from fastcnn.errors import (
    ArgumentError,
    BackendError,
    CheckpointError,
    DataError,
    FastcnnError,
    ShapeError,
    TrainingError,
)
from fastcnn.graph import Graph, Sequential
from fastcnn.history import Evaluation, History
from fastcnn.layers import (
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
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Flatten,
    GaussianPool2d,
    GlobalAvgPool,
    GlobalMaxPool,
    Identity,
    Layer,
    Linear,
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
    ReLU,
    Subsample,
    Upsample,
)
from fastcnn.losses import CrossEntropy
from fastcnn.node import Input, Node
from fastcnn.optimizers import SGD
from fastcnn.seeding import manual_seed
from fastcnn.toeplitz import conv_matrix
from fastcnn.trainer import Trainer

if TYPE_CHECKING:
    from fastcnn import data

__version__ = "0.1.0"

__all__ = [
    "SGD",
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
    "CheckpointError",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropy",
    "DataError",
    "Evaluation",
    "FastcnnError",
    "Flatten",
    "GaussianPool2d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Graph",
    "History",
    "Identity",
    "Input",
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
    "Node",
    "ReLU",
    "Sequential",
    "ShapeError",
    "Subsample",
    "Trainer",
    "TrainingError",
    "Upsample",
    "conv_matrix",
    "data",
    "from_nchw",
    "initializers",
    "load",
    "manual_seed",
    "models",
    "save",
    "set_convolution_algorithm",
    "to_nchw",
]


def __getattr__(name: str) -> Any:
    """Import `fastcnn.data` at the first look."""
    if name == "data":
        return import_module("fastcnn.data")
    raise AttributeError(f"module 'fastcnn' has no attribute {name!r}")
