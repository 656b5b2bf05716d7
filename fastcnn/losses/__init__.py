"""Losses: a number for how far outputs are from their targets, and its gradient by the outputs."""

from fastcnn.losses.base import BoundLoss, Loss
from fastcnn.losses.labels import NLL, CrossEntropy, Hinge, LabelLoss
from fastcnn.losses.multi_task import MultiTask
from fastcnn.losses.numbers import (
    L1,
    BinaryCrossEntropy,
    MeanSquaredError,
    NumberLoss,
    SmoothL1,
    SumSquaredError,
)

__all__ = [
    "L1",
    "NLL",
    "BinaryCrossEntropy",
    "BoundLoss",
    "CrossEntropy",
    "Hinge",
    "LabelLoss",
    "Loss",
    "MeanSquaredError",
    "MultiTask",
    "NumberLoss",
    "SmoothL1",
    "SumSquaredError",
]
