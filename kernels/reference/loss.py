"""Losses: of labels, of probabilities, of numbers, and from their terms to the loss of a batch.

The definitions are in `losses/`, by the kind of their targets.
"""

from fastcnn.kernels.reference.losses.labels import (
    binary_cross_entropy_backward,
    binary_cross_entropy_forward,
    first_largest,
    hinge_backward,
    hinge_forward,
    nll_backward,
    nll_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from fastcnn.kernels.reference.losses.numbers import (
    smooth_l1_backward,
    smooth_l1_forward,
    squared_error_backward,
    squared_error_forward,
)
from fastcnn.kernels.reference.losses.probabilities import (
    arg_max,
    soft_cross_entropy_backward,
    soft_cross_entropy_forward,
)
from fastcnn.kernels.reference.losses.reduce import (
    count_hits,
    count_signs,
    pick,
    sum_values,
    weigh,
)

__all__ = [
    "arg_max",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "count_hits",
    "count_signs",
    "first_largest",
    "hinge_backward",
    "hinge_forward",
    "nll_backward",
    "nll_forward",
    "pick",
    "smooth_l1_backward",
    "smooth_l1_forward",
    "soft_cross_entropy_backward",
    "soft_cross_entropy_forward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "squared_error_backward",
    "squared_error_forward",
    "sum_values",
    "weigh",
]
