"""Losses: a number for how far outputs are from their targets, and its gradient by the outputs.

logits (N, K)   labels (N,), whole numbers 0 .. K - 1
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arrays import FLOATS, Array, Shape, as_float, wider
from fastcnn.backend import Backend, check_device, get
from fastcnn.errors import ArgumentError, DataError, ShapeError


class BoundCrossEntropy:
    """Cross-entropy on fixed arrays, read by `forward` and filled by `backward`."""

    def __init__(self, backend: Backend, logits: Array, labels: Array, dlogits: Array) -> None:
        self.logits, self.labels, self.dlogits = logits, labels, dlogits
        self._kernels = backend.loss
        self._losses = backend.empty(labels.shape, np.dtype(np.float64))
        self._probabilities = backend.empty(logits.shape, logits.dtype)

    def forward(self) -> float:
        """Return the mean loss of the batch."""
        self._kernels.softmax_cross_entropy_forward(self.logits, self.labels, self._losses, self._probabilities)
        return float(self._losses.sum()) / len(self._losses)

    def backward(self) -> None:
        """Fill dlogits with the gradient of the mean loss."""
        self._kernels.softmax_cross_entropy_backward(
            self._probabilities, self.labels, 1.0 / len(self._losses), self.dlogits
        )

    def correct(self) -> int:
        """Return how many of the largest logits stand at the label."""
        return int(np.count_nonzero(self.logits.argmax(axis=1) == self.labels))


class CrossEntropy:
    """Mean of -log softmax(logits)[label] over a batch, from logits, by log-sum-exp.

    >>> loss = CrossEntropy(device="reference")
    >>> round(loss.forward([[0.0, 0.0], [0.0, 0.0]], [0, 1]), 6)
    0.693147
    >>> loss.backward()
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = check_device(device)
        self._bound: BoundCrossEntropy | None = None

    def check_output(self, shape: Shape) -> int:
        """Return the number of classes of a network with this output shape, or refuse it."""
        if len(shape) != 1:
            raise ShapeError(
                f"CrossEntropy got outputs of shape {shape}, and needs (K,), a logit a class: "
                "end the network with a Flatten and a Linear."
            )
        return shape[0]

    def check_targets(self, targets: ArrayLike, images: int, classes: int) -> Array:
        """Return the labels as int64, or refuse those that do not name a class for every image."""
        try:
            labels = np.asarray(targets)
        except ValueError:
            raise DataError(
                f"the labels are lists of different lengths: give one label an image, shape ({images},)."
            ) from None
        if labels.shape != (images,):
            raise DataError(
                f"labels of shape {labels.shape} were given for {images} images: "
                f"give one label an image, shape ({images},)."
            )
        if labels.dtype.kind not in "iu":
            raise DataError(
                f"labels of dtype {labels.dtype} were given: they must be whole numbers, from 0 to {classes - 1}."
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if wrong.size:
            raise DataError(
                f"label {labels[wrong[0]]} at position {wrong[0]} is out of range: "
                f"{classes} classes need labels from 0 to {classes - 1}."
            )
        return np.ascontiguousarray(labels, np.int64)

    def bind(self, backend: Backend, logits: Array, labels: Array, dlogits: Array) -> BoundCrossEntropy:
        """Return the loss on fixed arrays."""
        return BoundCrossEntropy(backend, logits, labels, dlogits)

    def forward(self, logits: ArrayLike, labels: ArrayLike) -> float:
        """Return the mean loss of logits (N, K) and labels (N,)."""
        given = as_float(logits, "the loss's input")
        if given.ndim != 2 or given.size == 0:
            raise ShapeError(
                f"CrossEntropy got logits of shape {given.shape}, and needs (N, K) with N and K "
                "at least 1: give a row for each image and a column for each class."
            )
        dtype = wider(FLOATS[0], given.dtype)
        known = self.check_targets(labels, *given.shape)
        backend = get(self.device)
        arrays = backend.from_host(given.astype(dtype)), backend.from_host(known)
        self._bound = self.bind(backend, *arrays, backend.empty(given.shape, dtype))
        return self._bound.forward()

    def backward(self) -> Any:
        """Return the gradient of the last `forward` by its logits."""
        if self._bound is None:
            raise ArgumentError("CrossEntropy cannot go backward yet: call its forward first.")
        self._bound.backward()
        return get(self.device).to_host(self._bound.dlogits)
