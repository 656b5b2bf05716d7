"""Losses whose targets are numbers, one for each output: y and t (N, ...) have one shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend, Call
from fastcnn.checked import optional
from fastcnn.errors import DataError, ShapeError
from fastcnn.losses.base import DOUBLE, BoundLoss, Loss, as_rows, class_weights
from fastcnn.shapes import number


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
        flatten: bool = False,
    ) -> None:
        super().__init__(backend, *arrays, reduction)
        self._kernels = kernels
        self._arrays = tuple(map(as_rows, arrays)) if flatten else arrays
        self.rule, self.factor = rule, factor

    def term_count(self) -> int:
        """Return the number of elements."""
        return self.y.size

    def sum_calls(self) -> list[Call]:
        """Return the call that sums over all elements."""
        y, t, _ = self._arrays
        return [(self._kernels[0], (y, t, *self.rule, self.sums[:1]))]

    def gradient_calls(self) -> list[Call]:
        """Return the call that fills dy."""
        y, t, dy = self._arrays
        return [(self._kernels[1], (y, t, *self.rule, self.scale, dy))]


class BoundBinary(BoundTerms):
    """Binary cross-entropy on fixed arrays, whose elements are classified by their signs."""

    def count_calls(self) -> list[Call]:
        """Return the call that counts the logits above 0 where their target is above 1/2, and not where it is not."""
        return [(self.kernels.count_signs, (self.y, self.t, self.counts))]


class NumberLoss(Loss):
    """The base of losses whose targets are numbers, one for each output.

    Shapes
    ------
    y, t
        (N, ...) both.
    """

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
        kernels = backend.loss.squared_error_forward, backend.loss.squared_error_backward
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
        kernels = backend.loss.squared_error_forward, backend.loss.squared_error_backward
        return BoundTerms(backend, (y, t, dy), self.reduction, kernels, factor=0.5)


class SmoothL1(NumberLoss):
    """The mean (or sum) of d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, for d = y - t (Girshick 2015).

    Parameters
    ----------
    beta
        Where the square ends, from 0 up; at 0 the loss is L1.

    >>> SmoothL1(device="reference").forward([[0.5, 3.0]], [[0.0, 0.0]])
    1.3125
    """

    checks = NumberLoss.checks | {"beta": partial(number, low=0)}

    def __init__(self, reduction: str = "mean", beta: float = 1.0, *, device: str = "cpu") -> None:
        super().__init__(reduction=reduction, device=device)
        self.beta = beta

    def bind(self, backend: Backend, y: Array, t: Array, dy: Array) -> BoundLoss:
        """Return the loss on fixed arrays."""
        kernels = backend.loss.smooth_l1_forward, backend.loss.smooth_l1_backward
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

    PyTorch's BCEWithLogitsLoss; any finite logit is safe. Targets lie in [0, 1].

    Parameters
    ----------
    pos_weight
        A factor >= 0 of the first term: a number, (K,) for the last axis, or None.

    >>> round(BinaryCrossEntropy(device="reference").forward([[0.0, 1e4]], [[1.0, 1.0]]), 6)
    0.346574
    """

    checks = NumberLoss.checks | {"pos_weight": optional(class_weights)}
    classifies = True

    def __init__(self, pos_weight: ArrayLike | None = None, reduction: str = "mean", *, device: str = "cpu") -> None:
        super().__init__(reduction=reduction, device=device)
        self.pos_weight: Any = pos_weight

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
        return BoundBinary(backend, (y, t, dy), self.reduction, kernels, (weights,), flatten=True)
