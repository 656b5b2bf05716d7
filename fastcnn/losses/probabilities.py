"""Cross-entropy whose targets are probabilities of the classes.

scores (N, K) or (N, H, W, K), of any number of axes   probabilities of the same shape, floats from 0 to 1
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastcnn.arrays import Array
from fastcnn.backend import Backend, Call
from fastcnn.errors import DataError
from fastcnn.losses.base import DOUBLE, BoundLoss, as_rows


class BoundProbabilities(BoundLoss):
    """Cross-entropy from probabilities t on fixed arrays, with `weights` (K,); the softmax is kept for the way back.

    A mean divides by the number of rows, as PyTorch's, whatever the weights.
    """

    def __init__(
        self, backend: Backend, y: Array, t: Array, dy: Array, reduction: str, weights: Array, smoothing: float
    ) -> None:
        super().__init__(backend, y, t, dy, reduction)
        self.scores, self.targets, self.dscores = as_rows(y), as_rows(t), as_rows(dy)
        self.weights, self.smoothing = backend.from_host(weights), smoothing
        rows = (len(self.scores),)
        self.losses = backend.empty(rows, DOUBLE)
        self.probabilities = backend.empty(self.scores.shape, self.scores.dtype)
        self._labels = backend.empty(rows, np.dtype(np.int64))
        self._hits = backend.empty(rows, np.dtype(np.int8))

    def term_count(self) -> int:
        """Return the number of rows."""
        return prod(self.y.shape[:-1])

    def sum_calls(self) -> list[Call]:
        """Return the calls that sum the rows' losses."""
        arguments = self.scores, self.targets, self.weights, self.smoothing, self.losses, self.probabilities
        return [
            (self.backend.loss.soft_cross_entropy_forward, arguments),
            (self.backend.loss.sum_values, (self.losses, self.sums[:1])),
        ]

    def gradient_calls(self) -> list[Call]:
        """Return the call that fills dy."""
        arguments = self.probabilities, self.targets, self.weights, self.smoothing, self.scale, self.dscores
        return [(self.backend.loss.soft_cross_entropy_backward, arguments)]

    def count_calls(self) -> list[Call]:
        """Return the calls that count in how many rows the largest score stands at the largest probability."""
        kernels, labels = self.kernels, self._labels
        return [
            (kernels.arg_max, (self.targets, labels)),
            (kernels.first_largest, (self.scores, labels, self._hits)),
            (kernels.count_hits, (self._hits, labels, self.scores.shape[1], self.counts)),
        ]


def check_probabilities(given: Array, dtype: np.dtype[Any]) -> Array:
    """Return probabilities in the outputs' dtype, or refuse those outside [0, 1]."""
    if given.size and not (given.min() >= 0 and given.max() <= 1):
        raise DataError(
            f"probabilities from {given.min():g} to {given.max():g} were given: CrossEntropy needs those of the "
            "classes, between 0 and 1."
        )
    return np.ascontiguousarray(given, dtype)
