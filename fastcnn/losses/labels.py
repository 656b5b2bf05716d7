"""Losses whose targets are labels.

scores (N, K) or (N, H, W, K), of any number of axes   labels (N,) or (N, H, W), whole numbers 0 .. K - 1
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend, Call
from fastcnn.checked import optional
from fastcnn.errors import ArgumentError, DataError, ShapeError
from fastcnn.losses.base import DOUBLE, BoundLoss, Loss, as_rows, class_weights
from fastcnn.losses.probabilities import BoundProbabilities, check_probabilities
from fastcnn.shapes import is_int, number

LABEL = np.dtype(np.int64)


class BoundRows(BoundLoss):
    """A loss of labels: `loss_call` fills a loss for each row of scores, by `weights`, (K + 1,)."""

    def __init__(
        self, backend: Backend, y: Array, t: Array, dy: Array, reduction: str, weights: Array, weighs_mean: bool
    ) -> None:
        super().__init__(backend, y, t, dy, reduction)
        self.scores, self.dscores = as_rows(y), as_rows(dy)
        self.labels = t.reshape(-1)
        self.weights = backend.from_host(weights)
        self.losses = backend.empty(self.labels.shape, DOUBLE)
        self._shares = backend.empty(self.labels.shape, DOUBLE)
        self._share = backend.from_host(weights if weighs_mean else np.append(np.ones(len(weights) - 1), 0.0))
        self._hits = backend.empty(self.labels.shape, np.dtype(np.int8))

    def sum_calls(self) -> list[Call]:
        """Return the calls that sum the rows' losses, and the weights of their labels."""
        kernels = self.backend.loss
        return [
            self.loss_call(),
            (kernels.sum_values, (self.losses, self.sums[:1])),
            (kernels.pick, (self._share, self.labels, self._shares)),
            (kernels.sum_values, (self._shares, self.sums[1:])),
        ]

    @abstractmethod
    def loss_call(self) -> Call:
        """Return the call that fills the losses of the rows."""

    def count_calls(self) -> list[Call]:
        """Return the calls that count how many of the largest scores stand at the label, and the rows that have one."""
        return [
            (self.kernels.first_largest, (self.scores, self.labels, self._hits)),
            (self.kernels.count_hits, (self._hits, self.labels, self.scores.shape[1], self.counts)),
        ]


class BoundCrossEntropy(BoundRows):
    """Cross-entropy on fixed arrays; the probabilities are kept for the way back."""

    def __init__(self, smoothing: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.smoothing = smoothing
        self.probabilities = self.backend.empty(self.scores.shape, self.scores.dtype)

    def loss_call(self) -> Call:
        """Return the call that fills losses and probabilities."""
        arguments = self.scores, self.labels, self.weights, self.smoothing, self.losses, self.probabilities
        return self.kernels.softmax_cross_entropy_forward, arguments

    def gradient_calls(self) -> list[Call]:
        """Return the call that fills dy."""
        arguments = self.probabilities, self.labels, self.weights, self.smoothing, self.scale, self.dscores
        return [(self.kernels.softmax_cross_entropy_backward, arguments)]


class BoundNLL(BoundRows):
    """Negative log-likelihood on fixed arrays."""

    def loss_call(self) -> Call:
        """Return the call that fills the losses."""
        return self.kernels.nll_forward, (self.scores, self.labels, self.weights, self.losses)

    def gradient_calls(self) -> list[Call]:
        """Return the call that fills dy."""
        return [(self.kernels.nll_backward, (self.labels, self.weights, self.scale, self.dscores))]


class BoundHinge(BoundRows):
    """Hinge loss on fixed arrays."""

    def __init__(self, p: int, margin: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rule = p, margin

    def loss_call(self) -> Call:
        """Return the call that fills the losses."""
        return self.kernels.hinge_forward, (self.scores, self.labels, self.weights, *self.rule, self.losses)

    def gradient_calls(self) -> list[Call]:
        """Return the call that fills dy."""
        arguments = self.scores, self.labels, self.weights, *self.rule, self.scale, self.dscores
        return [(self.kernels.hinge_backward, arguments)]


def _index(value: Any, name: str) -> int:
    if not is_int(value):
        raise ArgumentError(f"{name}={value!r} was given: give a whole number, the label to ignore.")
    return int(value)


def _power(value: Any, name: str) -> int:
    if value not in (1, 2):
        raise ArgumentError(f"{name}={value!r} was given: the hinge takes the power 1 or 2.")
    return int(value)


class LabelLoss(Loss):
    """The base of losses whose targets name a class for every image, or for every pixel of an output (H, W, K).

    Parameters
    ----------
    weight
        A factor >= 0 of each class, (K,), or None.

    Shapes
    ------
    y, t
        Scores (N, ..., K), and labels (N, ...), whole numbers from 0 to K - 1.
    """

    checks = Loss.checks | {"weight": optional(class_weights)}
    classifies = True
    ignore_index: int | None = None
    weights_mean = True  # a mean divides by the weights of the labels, not by their number
    takes_probabilities = False  # targets may be probabilities of the classes, too

    def __init__(self, weight: ArrayLike | None, reduction: str, device: str) -> None:
        super().__init__(reduction=reduction, device=device)
        self.weight: Any = weight

    def classes(self, shape: Shape) -> int | None:
        """Return K."""
        return shape[-1] if shape else None

    def check_output(self, shape: Shape) -> None:
        """Refuse outputs without a class axis, and those of more or fewer classes than the weights."""
        if not shape:
            raise ShapeError(f"{self.label} got outputs of shape (N,), and needs (N, ..., K), a score for each class.")
        if self.weight is not None and self.weight.shape != shape[-1:]:
            raise ShapeError(
                f"{self.label} got outputs of shape {shape} and weights for {len(self.weight)} classes: "
                f"give {shape[-1]} weights."
            )

    def check_targets(self, targets: ArrayLike, images: int, shape: Shape, dtype: np.dtype[Any] = DOUBLE) -> Array:
        """Return the labels as int64, those to ignore as K, or refuse those that name no class."""
        classes, needed = shape[-1], (images, *shape[:-1])
        try:
            labels = np.asarray(targets)
        except ValueError:
            raise DataError(
                f"the labels are lists of different lengths: give one label {_each(shape)}, shape {needed}."
            ) from None
        if labels.shape != needed:
            other = ", or end the network with a Flatten and a Linear" if labels.shape == (images,) else ""
            if self.takes_probabilities and labels.ndim > len(shape):
                other = f", or the probabilities of its classes as floats, shape {(images, *shape)}"
            raise DataError(
                f"labels of shape {labels.shape} were given for {images} images and outputs of shape {shape}: "
                f"give one label {_each(shape)}, shape {needed}{other}."
            )
        if labels.dtype.kind not in "iu":
            raise DataError(
                f"labels of dtype {labels.dtype} were given: they must be whole numbers, from 0 to {classes - 1}."
            )
        known = np.ascontiguousarray(labels, LABEL)
        if known.size and self.ignore_index not in range(classes) and known.view(np.uint64).max() < classes:
            return known  # none is negative or too large: the common case, in one pass
        ignored = None if self.ignore_index is None else known == self.ignore_index
        outside = (known < 0) | (known >= classes)
        wrong = np.argwhere(outside if ignored is None else outside & ~ignored)
        if wrong.size:
            place = tuple(map(int, wrong[0]))
            raise DataError(
                f"label {labels[place]} at position {place[0] if len(place) == 1 else place} is out of range: "
                f"{classes} classes need labels from 0 to {classes - 1}."
            )
        if ignored is not None and ignored.any():
            known = np.where(ignored, classes, known)
        return known

    def kernel_weights(self, classes: int) -> Array:
        """Return the weights of the classes, and 0 for the rows without one."""
        return np.append(np.ones(classes) if self.weight is None else self.weight, 0.0)

    def row_arguments(self, backend: Backend, y: Array, t: Array, dy: Array) -> tuple[Any, ...]:
        """Return the arguments of a BoundRows."""
        return backend, y, t, dy, self.reduction, self.kernel_weights(y.shape[-1]), self.weights_mean


class CrossEntropy(LabelLoss):
    """-log softmax(logits)[label], from logits (N, K) or (N, H, W, K), by log-sum-exp; any finite logit is safe.

    Targets are labels, whole numbers of shape (N,) or (N, H, W), or probabilities t of the classes, floats from 0 to 1
    in the shape of the logits: then the loss is the sum over k of -t[k] log softmax(logits)[k]. They are taken as they
    are, whatever their sum; accuracy counts the logits whose largest stands where the largest probability does.

    Parameters
    ----------
    weight
        A factor (K,) of each class; the mean then divides by the weights of the labels, with probabilities by the
        number of rows.
    ignore_index
        Rows of this label do not count.
    reduction
        "mean" or "sum". The mean of no rows at all is 0 (PyTorch's is NaN).
    label_smoothing
        The share of each target, from 0 to 1, that goes to all classes alike (Szegedy et al. 2016).

    Shapes
    ------
    y, t
        Logits (N, ..., K), and labels (N, ...) or probabilities (N, ..., K).

    >>> loss = CrossEntropy(device="reference")
    >>> round(loss.forward([[0.0, 0.0], [0.0, 0.0]], [0, 1]), 6)
    0.693147
    >>> loss.backward()
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    >>> round(loss.forward([[0.0, 1.0]], [[0.75, 0.25]]), 6)
    1.063262
    """

    checks = LabelLoss.checks | {"ignore_index": _index, "label_smoothing": partial(number, low=0, high=1)}
    takes_probabilities = True

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        device: str = "cpu",
    ) -> None:
        super().__init__(weight, reduction, device)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def check_targets(self, targets: ArrayLike, images: int, shape: Shape, dtype: np.dtype[Any] = DOUBLE) -> Array:
        """Return labels as int64, those to ignore as K, or probabilities in this dtype; refuse what is neither."""
        if _are_probabilities(targets, (images, *shape)):
            return check_probabilities(np.asarray(targets), dtype)
        return super().check_targets(targets, images, shape, dtype)

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays, from labels or from probabilities."""
        if t.dtype.kind == "f":
            weights = self.kernel_weights(y.shape[-1])[:-1]
            return BoundProbabilities(backend, y, t, dy, self.reduction, weights, self.label_smoothing)
        return BoundCrossEntropy(self.label_smoothing, *self.row_arguments(backend, y, t, dy))


class NLL(LabelLoss):
    """-x[label] of log-probabilities x, (N, K) or (N, H, W, K): cross-entropy behind a LogSoftmax layer.

    Parameters
    ----------
    weight
        A factor >= 0 of each class, (K,), or None; the mean then divides by the weights of the labels.
    ignore_index
        Rows of this label do not count.
    reduction
        "mean" or "sum". The mean of no rows at all is 0 (PyTorch's is NaN).

    >>> round(NLL(device="reference").forward(np.log([[0.25, 0.75]]), [0]), 6)
    1.386294
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        *,
        device: str = "cpu",
    ) -> None:
        super().__init__(weight, reduction, device)
        self.ignore_index = ignore_index

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        return BoundNLL(*self.row_arguments(backend, y, t, dy))


class Hinge(LabelLoss):
    """sum over k != label of max(0, margin - x[label] + x[k])^p / K, of scores x (N, K) or (N, H, W, K).

    PyTorch's MultiMarginLoss (Crammer and Singer 2001).

    Parameters
    ----------
    p
        The power, 1 or 2.
    margin
        By how much a label's score is to lie above the others.
    weight
        A factor >= 0 of each label's class, (K,), or None; the mean divides by the number of rows all the same.

    >>> Hinge(device="reference").forward([[0.5, 2.0]], [1]), Hinge(device="reference").forward([[0.5, 1.0]], [0])
    (0.0, 0.75)
    """

    checks = LabelLoss.checks | {"p": _power, "margin": number}
    weights_mean = False

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: ArrayLike | None = None,
        reduction: str = "mean",
        *,
        device: str = "cpu",
    ) -> None:
        super().__init__(weight, reduction, device)
        self.p = p
        self.margin = margin

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        return BoundHinge(self.p, self.margin, *self.row_arguments(backend, y, t, dy))


def _are_probabilities(targets: ArrayLike, shape: Shape) -> bool:
    try:
        array = np.asarray(targets)
    except ValueError:  # lists of different lengths
        return False
    return array.dtype.kind == "f" and array.shape == shape


def _each(shape: Shape) -> str:
    return "an image" if len(shape) == 1 else "a pixel"
