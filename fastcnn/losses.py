"""Losses: a number for how far outputs are from their targets, and its gradient by the outputs.

    outputs (N, ..., K)   labels (N, ...), whole numbers 0 .. K - 1, or targets (N, ..., K) of numbers

A Loss checks outputs and targets at the door; `bind` ties it to arrays, as a plan's. Reduction "mean" divides the sum
of all terms by their number (or weight), "sum" does not, as in PyTorch. Networks of several outputs take `MultiTask`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arrays import FLOATS, Array, Shape, as_float, wider
from fastcnn.backend import Backend, check_device, get
from fastcnn.errors import ArgumentError, DataError, ShapeError

REDUCTIONS = ("mean", "sum")
DOUBLE = np.dtype(np.float64)
LABEL = np.dtype(np.int64)


class BoundLoss(ABC):
    """A loss on fixed arrays: `forward` reads outputs y and targets t, `backward` fills dy.

    After `forward`, `total` is the sum of all terms and `count` what a mean divides it by.
    """

    def __init__(self, backend: Backend, y: Array, t: Array, dy: Array, reduction: str) -> None:
        self.y, self.t, self.dy = y, t, dy
        self.backend, self.kernels = backend, backend.loss
        self.is_mean = reduction == "mean"
        self.total, self.count = 0.0, 0.0

    @property
    def divisor(self) -> float:
        """What the sum of all terms is divided by; 1 where no term counts."""
        return self.count if self.is_mean and self.count else 1.0

    @property
    def samples(self) -> float:
        """What a mean over several batches divides their sums by: for a sum, the number of images."""
        return self.count if self.is_mean else float(len(self.y))

    def forward(self) -> float:
        """Return the loss."""
        self.total, self.count = self.sums()
        return self.total / self.divisor

    @abstractmethod
    def sums(self) -> tuple[float, float]:
        """Return the sum of all terms, and their number or weight."""

    def backward(self, weight: float = 1.0) -> None:
        """Fill dy with the gradient of `weight` times the loss of the last `forward`."""
        self.fill_gradient(weight / self.divisor)

    @abstractmethod
    def fill_gradient(self, scale: float) -> None:
        """Fill dy with `scale` times the gradient of the sum of all terms."""

    def hits(self) -> tuple[int, int] | None:
        """Return how many outputs choose their target's class, and of how many; None where there are no classes."""
        return None


class Loss(ABC):
    """The base of losses of one output.

    Parameters
    ----------
    reduction
        "mean" over all terms, or their "sum".
    device
        Where `forward` works by itself; a Trainer uses its network's.
    """

    classifies = False
    """Whether outputs choose classes, so that there is an accuracy."""

    def __init__(self, *, reduction: str = "mean", device: str = "cpu") -> None:
        if reduction not in REDUCTIONS:
            raise ArgumentError(f"reduction={reduction!r} was given: choose 'mean' or 'sum'.")
        self.reduction = reduction
        self.device = check_device(device)
        self._bound: BoundLoss | None = None

    @property
    def label(self) -> str:
        """The loss in an error."""
        return type(self).__name__

    def classes(self, shape: Shape) -> int | None:
        """Return the number of classes of outputs of this shape; None where targets are no labels."""
        return None

    def check_output(self, shape: Shape) -> None:
        """Refuse an output shape (without the batch axis) that the loss does not take."""
        return

    @abstractmethod
    def check_targets(self, targets: ArrayLike, images: int, shape: Shape, dtype: np.dtype[Any] = DOUBLE) -> Array:
        """Return the targets of outputs (images, *shape) as `bind` takes them, or refuse them."""

    @abstractmethod
    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays: outputs, targets, and the gradient to fill."""

    def forward(self, y: ArrayLike, t: ArrayLike) -> float:
        """Return the loss of outputs y (N, ...) and targets t; a float64 y is kept in float64."""
        given = as_float(y, f"the output that {self.label} reads")
        if given.ndim < 2 or given.size == 0:
            raise ShapeError(
                f"{self.label} got outputs of shape {given.shape}, and needs (N, ..., K) with no axis of 0: "
                "give a row for each image."
            )
        self.check_output(given.shape[1:])
        dtype, backend = wider(FLOATS[0], given.dtype), get(self.device)
        targets = self.check_targets(t, given.shape[0], given.shape[1:], dtype)
        arrays = backend.from_host(given.astype(dtype)), backend.from_host(targets)
        self._bound = self.bind(backend, *arrays, backend.empty(given.shape, dtype))
        return self._bound.forward()

    def backward(self) -> Any:
        """Return the gradient of the last `forward` by its outputs."""
        if self._bound is None:
            raise ArgumentError(f"{self.label} cannot go backward yet: call its forward first.")
        self._bound.backward()
        return get(self.device).to_host(self._bound.dy)


# Losses of labels


class BoundRows(BoundLoss):
    """A loss of labels: `fill` fills a loss for each row of scores, in the order of `weights`, (K + 1,)."""

    def __init__(
        self, backend: Backend, y: Array, t: Array, dy: Array, reduction: str, weights: Array, weighs_mean: bool
    ) -> None:
        super().__init__(backend, y, t, dy, reduction)
        self.scores, self.dscores = _as_rows(y), _as_rows(dy)
        self.labels = t.reshape(-1)
        self.weights = backend.from_host(weights)
        self.losses = backend.empty(self.labels.shape, DOUBLE)
        self._shares = backend.empty(self.labels.shape, DOUBLE)
        self._share = backend.from_host(weights if weighs_mean else np.append(np.ones(len(weights) - 1), 0.0))
        self._hits = backend.empty(self.labels.shape, np.dtype(np.int8))

    def sums(self) -> tuple[float, float]:
        """Return the sum of the rows' losses and of the weights of their labels."""
        self.fill()
        self.backend.gather(self._share, self.labels, self._shares)
        return float(self.losses.sum()), float(self._shares.sum())

    @abstractmethod
    def fill(self) -> None:
        """Fill the losses of the rows."""

    def hits(self) -> tuple[int, int]:
        """Return how many of the largest scores stand at the label, and how many rows have one."""
        self.kernels.first_largest(self.scores, self.labels, self._hits)
        named = np.count_nonzero(self.labels < self.scores.shape[1])
        return int(np.count_nonzero(self._hits)), int(named)


class BoundCrossEntropy(BoundRows):
    """Cross-entropy on fixed arrays; the probabilities are kept for the way back."""

    def __init__(self, smoothing: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.smoothing = smoothing
        self.probabilities = self.backend.empty(self.scores.shape, self.scores.dtype)

    def fill(self) -> None:
        """Fill losses and probabilities."""
        self.kernels.softmax_cross_entropy_forward(
            self.scores, self.labels, self.weights, self.smoothing, self.losses, self.probabilities
        )

    def fill_gradient(self, scale: float) -> None:
        """Fill dy."""
        self.kernels.softmax_cross_entropy_backward(
            self.probabilities, self.labels, self.weights, self.smoothing, scale, self.dscores
        )


class BoundNLL(BoundRows):
    """Negative log-likelihood on fixed arrays."""

    def fill(self) -> None:
        """Fill the losses."""
        self.kernels.nll_forward(self.scores, self.labels, self.weights, self.losses)

    def fill_gradient(self, scale: float) -> None:
        """Fill dy."""
        self.kernels.nll_backward(self.labels, self.weights, scale, self.dscores)


class BoundHinge(BoundRows):
    """Hinge loss on fixed arrays."""

    def __init__(self, p: int, margin: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rule = p, margin

    def fill(self) -> None:
        """Fill the losses."""
        self.kernels.hinge_forward(self.scores, self.labels, self.weights, *self.rule, self.losses)

    def fill_gradient(self, scale: float) -> None:
        """Fill dy."""
        self.kernels.hinge_backward(self.scores, self.labels, self.weights, *self.rule, scale, self.dscores)


class LabelLoss(Loss):
    """The base of losses whose targets name a class for every image, or for every pixel of an output (H, W, K)."""

    classifies = True
    ignore_index: int | None = None
    weights_mean = True  # a mean divides by the weights of the labels, not by their number

    def __init__(self, weight: ArrayLike | None, reduction: str, device: str) -> None:
        super().__init__(reduction=reduction, device=device)
        self.weight = None if weight is None else _class_weights(weight, "weight")

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
            raise DataError(
                f"labels of shape {labels.shape} were given for {images} images and outputs of shape {shape}: "
                f"give one label {_each(shape)}, shape {needed}{other}."
            )
        if labels.dtype.kind not in "iu":
            raise DataError(
                f"labels of dtype {labels.dtype} were given: they must be whole numbers, from 0 to {classes - 1}."
            )
        known = np.ascontiguousarray(labels, LABEL)
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

    Parameters
    ----------
    weight
        A factor (K,) of each class; the mean then divides by the weights of the labels.
    ignore_index
        Rows of this label do not count.
    reduction
        "mean" or "sum". The mean of no rows at all is 0 (PyTorch's is NaN).
    label_smoothing
        The share of each target that goes to all classes alike (Szegedy et al. 2016).

    >>> loss = CrossEntropy(device="reference")
    >>> round(loss.forward([[0.0, 0.0], [0.0, 0.0]], [0, 1]), 6)
    0.693147
    >>> loss.backward()
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """

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
        self.label_smoothing = number(label_smoothing, "label_smoothing", 0, 1)

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        return BoundCrossEntropy(self.label_smoothing, *self.row_arguments(backend, y, t, dy))


class NLL(LabelLoss):
    """-x[label] of log-probabilities x, (N, K) or (N, H, W, K): cross-entropy behind a LogSoftmax layer.

    Parameters as those of `CrossEntropy`.

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

    PyTorch's MultiMarginLoss (Crammer and Singer 2001). `p` is 1 or 2, `weight` (K,) a factor of each label's class;
    the mean divides by the number of rows.

    >>> Hinge(device="reference").forward([[0.5, 2.0]], [1]), Hinge(device="reference").forward([[0.5, 1.0]], [0])
    (0.0, 0.75)
    """

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
        if p not in (1, 2):
            raise ArgumentError(f"p={p!r} was given: the hinge takes the power 1 or 2.")
        self.p = int(p)
        self.margin = number(margin, "margin")

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        return BoundHinge(self.p, self.margin, *self.row_arguments(backend, y, t, dy))


# Losses of numbers


class BoundTerms(BoundLoss):
    """A loss with a term for each element, by two kernels.

    `forward(y, t, *rule, total)` fills the sum of all terms, `backward(y, t, *rule, scale, dy)` the gradient. Some take
    the arrays as rows, (M, K).
    """

    def __init__(
        self,
        backend: Backend,
        arrays: tuple[Array, Array, Array],
        reduction: str,
        kernels: tuple[Callable[..., None], Callable[..., None]],
        rule: tuple[Any, ...] = (),
        factor: float = 1.0,
        as_rows: bool = False,
    ) -> None:
        super().__init__(backend, *arrays, reduction)
        self._forward, self._backward = kernels
        self._arrays = tuple(map(_as_rows, arrays)) if as_rows else arrays
        self.rule, self.factor = rule, factor
        self._total = backend.empty((1,), DOUBLE)

    def sums(self) -> tuple[float, float]:
        """Return the sum over all elements and their number."""
        y, t, _ = self._arrays
        self._forward(y, t, *self.rule, self._total)
        return self.factor * float(self._total[0]), float(self.y.size)

    def fill_gradient(self, scale: float) -> None:
        """Fill dy."""
        y, t, dy = self._arrays
        self._backward(y, t, *self.rule, self.factor * scale, dy)


class BoundBinary(BoundTerms):
    """Binary cross-entropy on fixed arrays, whose elements are classified by their signs."""

    def hits(self) -> tuple[int, int]:
        """Return how many logits are above 0 where their target is above 1/2, and not where it is not."""
        return int(np.count_nonzero((self.y > 0) == (self.t > 0.5))), self.y.size


class NumberLoss(Loss):
    """The base of losses whose targets are numbers, one for each output."""

    def check_targets(self, targets: ArrayLike, images: int, shape: Shape, dtype: np.dtype[Any] = DOUBLE) -> Array:
        """Return the targets in the outputs' dtype, or refuse those of another shape."""
        needed = (images, *shape)
        try:
            array = np.asarray(targets)
        except ValueError:
            raise DataError(
                f"the targets are lists of different lengths: give an array of the outputs' shape {needed}."
            ) from None
        if array.dtype.kind not in "fiub":
            raise DataError(f"targets of dtype {array.dtype} were given: {self.label} needs numbers.")
        if array.shape != needed:
            missing = (*array.shape, 1) == needed
            raise DataError(
                f"targets of shape {array.shape} were given, and the outputs have shape {needed}: "
                + ("add the missing axis by targets[..., None]." if missing else "give a target for each of them.")
            )
        return np.ascontiguousarray(array, dtype)


class MeanSquaredError(NumberLoss):
    """The mean (or sum) of (y - t)^2 over all elements.

    >>> loss = MeanSquaredError(device="reference")
    >>> loss.forward([[1.0, 4.0]], [[1.0, 2.0]])
    2.0
    >>> loss.backward()
    array([[0., 2.]])
    """

    def __init__(self, reduction: str = "mean", *, device: str = "cpu") -> None:
        super().__init__(reduction=reduction, device=device)

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        kernels = backend.regression.squared_error_forward, backend.regression.squared_error_backward
        return BoundTerms(backend, (y, t, dy), self.reduction, kernels)


class SumSquaredError(NumberLoss):
    """1/2 sum of (y - t)^2 over all elements of a batch: its gradient is y - t.

    >>> loss = SumSquaredError(device="reference")
    >>> loss.forward([[1.0, 4.0]], [[1.0, 2.0]])
    2.0
    >>> loss.backward()
    array([[0., 2.]])
    """

    def __init__(self, *, device: str = "cpu") -> None:
        super().__init__(reduction="sum", device=device)

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        kernels = backend.regression.squared_error_forward, backend.regression.squared_error_backward
        return BoundTerms(backend, (y, t, dy), self.reduction, kernels, factor=0.5)


class SmoothL1(NumberLoss):
    """The mean (or sum) of d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, for d = y - t (Girshick 2015).

    >>> SmoothL1(device="reference").forward([[0.5, 3.0]], [[0.0, 0.0]])
    1.3125
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0, *, device: str = "cpu") -> None:
        super().__init__(reduction=reduction, device=device)
        self.beta = number(beta, "beta", 0)

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        kernels = backend.regression.smooth_l1_forward, backend.regression.smooth_l1_backward
        return BoundTerms(backend, (y, t, dy), self.reduction, kernels, (self.beta,))


class L1(SmoothL1):
    """The mean (or sum) of |y - t| over all elements; its gradient is 0 where y = t.

    >>> L1(device="reference").forward([[0.5, -3.0]], [[0.0, 0.0]])
    1.75
    """

    def __init__(self, reduction: str = "mean", *, device: str = "cpu") -> None:
        super().__init__(reduction, beta=0.0, device=device)


class BinaryCrossEntropy(NumberLoss):
    """-t log s(x) - (1 - t) log(1 - s(x)) for the sigmoid s of logits x, by the mean (or sum) over all elements.

    Targets lie in [0, 1]. `pos_weight`, a number or (K,) for the last axis, is a factor of the first term. PyTorch's
    BCEWithLogitsLoss; any finite logit is safe.

    >>> round(BinaryCrossEntropy(device="reference").forward([[0.0, 1e4]], [[1.0, 1.0]]), 6)
    0.346574
    """

    classifies = True

    def __init__(self, pos_weight: ArrayLike | None = None, reduction: str = "mean", *, device: str = "cpu") -> None:
        super().__init__(reduction=reduction, device=device)
        self.pos_weight = None if pos_weight is None else _class_weights(np.atleast_1d(pos_weight), "pos_weight")

    def check_output(self, shape: Shape) -> None:
        """Refuse outputs whose last axis does not have as many elements as the weights."""
        if self.pos_weight is not None and self.pos_weight.shape not in ((1,), shape[-1:]):
            raise ShapeError(
                f"BinaryCrossEntropy got outputs of shape {shape} and {len(self.pos_weight)} weights in pos_weight: "
                "give one number, or as many as the last axis has."
            )

    def check_targets(self, targets: ArrayLike, images: int, shape: Shape, dtype: np.dtype[Any] = DOUBLE) -> Array:
        """Return the targets in the outputs' dtype, or refuse those outside [0, 1]."""
        array = super().check_targets(targets, images, shape, dtype)
        if array.size and not (array.min() >= 0 and array.max() <= 1):
            raise DataError(
                f"targets from {array.min():g} to {array.max():g} were given: BinaryCrossEntropy needs shares "
                "between 0 and 1."
            )
        return array

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        weight = np.ones(1) if self.pos_weight is None else self.pos_weight
        weights = backend.from_host(np.ascontiguousarray(np.broadcast_to(weight, y.shape[-1:])))
        kernels = backend.loss.binary_cross_entropy_forward, backend.loss.binary_cross_entropy_backward
        return BoundBinary(backend, (y, t, dy), self.reduction, kernels, (weights,), as_rows=True)


# Losses of several outputs

Losses: TypeAlias = "Mapping[str, tuple[Loss, float]]"


class MultiTask:
    """The weighted sum of losses, one for each output of a network: {head: (loss, weight)}.

    A head is the name of the layer whose output it is, as in `Linear(500, 4, name="box")`. A Trainer matches heads and
    outputs by name, and takes targets as {head: array}, or as a tuple in the order of the network's outputs. `forward`
    by itself takes dicts, or tuples in the order of the heads here.

    >>> loss = MultiTask({"class": (CrossEntropy(device="reference"), 1.0), "box": (L1(device="reference"), 0.5)})
    >>> round(loss.forward(([[0.0, 0.0]], [[1.0, 3.0]]), ([1], [[0.0, 0.0]])), 6)
    1.693147
    >>> loss.backward()
    (array([[ 0.5, -0.5]]), array([[0.25, 0.25]]))
    """

    def __init__(self, heads: Losses) -> None:
        if not isinstance(heads, Mapping) or not heads:
            raise ArgumentError(f"MultiTask got {heads!r}: give {{head: (loss, weight)}}, a head for each output.")
        self.heads: dict[str, tuple[Loss, float]] = {}
        for name, entry in heads.items():
            if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[0], Loss):
                raise ArgumentError(f"MultiTask got {entry!r} for head {name!r}: give (loss, weight).")
            self.heads[str(name)] = (entry[0], number(entry[1], f"the weight of head {name!r}", 0))
        self._as_dict = False
        self._is_ready = False

    def __repr__(self) -> str:
        return f"MultiTask({', '.join(self.heads)})"

    def select(self, values: Any, what: str, names: Sequence[str] | None = None) -> list[Any]:
        """Return {head: value}, or a tuple in the order of `names` (by default the heads), as a list in that order."""
        names = list(self.heads) if names is None else names
        if isinstance(values, Mapping):
            if set(values) != set(names):
                raise DataError(
                    f"{what} for {', '.join(map(str, values)) or 'no head'} were given, and the heads are "
                    f"{', '.join(names)}: give one for each."
                )
            return [values[name] for name in names]
        if not isinstance(values, tuple | list) or len(values) != len(names):
            given = f"{len(values)} arrays" if isinstance(values, tuple | list) else type(values).__name__
            raise DataError(f"{what} were given as {given}: give a dict or a tuple for {', '.join(names)}.")
        return list(values)

    def forward(self, y: Any, t: Any) -> float:
        """Return the weighted sum of the heads' losses."""
        self._as_dict, self._is_ready = isinstance(y, Mapping), False
        outputs, targets = self.select(y, "outputs"), self.select(t, "targets")
        entries = zip(self.heads.values(), outputs, targets, strict=True)
        total = sum(weight * loss.forward(output, target) for (loss, weight), output, target in entries)
        self._is_ready = True
        return float(total)

    def backward(self) -> Any:
        """Return the gradients of the last `forward` by its outputs: a dict where it was given one, else a tuple."""
        if not self._is_ready:
            raise ArgumentError("MultiTask cannot go backward yet: call its forward first.")
        gradients = {name: weight * loss.backward() for name, (loss, weight) in self.heads.items()}
        return gradients if self._as_dict else tuple(gradients.values())


def number(value: Any, name: str, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a finite float between low and high, or refuse it."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not isfinite(found) or (low is not None and found < low) or (high is not None and found > high):
        limits = "" if low is None else f" >= {low:g}" if high is None else f" from {low:g} to {high:g}"
        raise ArgumentError(f"{name}={value!r} was given: it must be a finite number{limits}.")
    return found


def _class_weights(weight: ArrayLike, name: str) -> Array:
    try:
        weights = np.array(weight, np.float64)
    except (TypeError, ValueError):
        weights = np.empty((0, 0))
    if weights.ndim != 1 or not weights.size or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ArgumentError(f"{name}={weight!r} was given: give a finite number >= 0 for each class.")
    return weights


def _as_rows(array: Array) -> Array:
    """Return a view (rows, K) of an array (..., K)."""
    return array.reshape(prod(array.shape[:-1]), array.shape[-1])


def _each(shape: Shape) -> str:
    return "an image" if len(shape) == 1 else "a pixel"
