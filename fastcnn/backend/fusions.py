"""The fused operations that a room of kernels may have, and networks use where it does."""

from enum import Enum


class Fused(Enum):
    """What one kernel does together; alone, each part is an operation that every room has."""

    ACTIVATION = "a convolution or linear layer, and the activation of its outputs"
    RESIDUAL = "a convolution or linear layer, and the sum of its outputs with another array"
    POOL = "a convolution, ReLU and max-pooling by windows side by side"
    FOLDED_NORM = "a convolution or linear layer, and a batch normalization by running statistics"
    STATISTICS = "a convolution, and the moments of its outputs for the batch normalization that reads them"
    NORM_ACTIVATION = "a normalization, and ReLU or ReLU6 of its outputs"
    NORM_RESIDUAL = "a normalization, and the sum of its outputs with another array"
    GRADIENT_SUM = "a gradient by an input, and its sum with another one"
    GRADIENT_MOMENTS = "a gradient by an input, and what the normalization before it sums of it on the way back"
