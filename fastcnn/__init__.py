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
    layers,
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
from fastcnn.layers import *
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

if not TYPE_CHECKING:  # type checkers follow the imports above
    __all__ = [
        "L1",
        "NLL",
        "SGD",
        "Adagrad",
        "Adam",
        "AdamW",
        "ArgumentError",
        "BackendError",
        "BinaryCrossEntropy",
        "CheckpointError",
        "CrossEntropy",
        "DataError",
        "Evaluation",
        "FastcnnError",
        "Graph",
        "Hinge",
        "History",
        "Input",
        "Loss",
        "MeanSquaredError",
        "MultiTask",
        "Node",
        "Optimizer",
        "RMSprop",
        "Sequential",
        "ShapeError",
        "SignatureError",
        "SmoothL1",
        "SparseCoding",
        "SparseCodingStack",
        "SumSquaredError",
        "Trainer",
        "TrainingError",
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
        *(name for name in layers.__all__ if name != "LAYERS"),
    ]


def __getattr__(name: str) -> Any:
    """Import `fastcnn.data` at the first look."""
    if name == "data":
        return import_module("fastcnn.data")
    raise AttributeError(f"module 'fastcnn' has no attribute {name!r}")
