"""What every loss is: checks at the door, and a bound form: calls on arrays, as a plan's.

Reduction "mean" divides the sum of all terms by their number (or weight), "sum" does not, as in PyTorch.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import count
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import FLOATS, Array, Shape, as_float, wider
from fastcnn.backend import Backend, Call, check_device, get
from fastcnn.checked import Check, Checked, one_of
from fastcnn.docstrings import Described
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.representation import Written

REDUCTIONS = ("mean", "sum")


def _device(value: Any, name: str) -> str:
    return check_device(value)


DOUBLE = np.dtype(np.float64)

ROW = 4
"""What a loss reports of a pass: the sum of all terms, what a mean divides by, what is right, and of how many."""


class BoundLoss(ABC):
    """A loss on fixed arrays: calls that read outputs y and targets t, and calls that fill dy.

    The calls forward fill `sums` with the sum of all terms and what a mean divides it by, and `scale` with the factor
    of the gradient: numbers that the calls back read from memory, so that a program can repeat them. Where there are
    classes, further calls fill `counts` with how many outputs choose their target's, and of how many.

    Parameters
    ----------
    backend
        The room of kernels.
    y, t, dy
        Outputs, targets, and the gradient by the outputs, to be filled.
    reduction
        "mean" or "sum".
    """

    factor = 1.0
    """What the sum of all terms is multiplied by."""

    def __init__(self, backend: Backend, y: Array, t: Array, dy: Array, reduction: str) -> None:
        self.y, self.t, self.dy = y, t, dy
        self.backend, self.kernels = backend, backend.loss
        self.is_mean = reduction == "mean"
        self.scale, self.loss = (backend.zeros((1,), DOUBLE) for _ in range(2))
        self.report_in(backend.zeros((ROW,), DOUBLE))

    def report_in(self, row: Array) -> None:
        """Let `sums` and `counts` stand in a row (4,) of somebody's from now on."""
        self.sums, self.counts = row[:2], row[2:]
        terms = self.term_count()
        if terms is not None:
            self.backend.write(self.sums[1:], [terms])

    def term_count(self) -> int | None:
        """Return what a mean divides the sum by, or None where `sum_calls` fill it in."""
        return None

    def total(self, row: Sequence[float]) -> float:
        """Return the sum of all terms, from what the last pass has left in the row."""
        return self.factor * row[0]

    def samples(self, row: Sequence[float]) -> float:
        """Return what a mean over several batches divides their sums by: for a sum, the number of images."""
        return row[1] if self.is_mean else float(len(self.y))

    @abstractmethod
    def sum_calls(self) -> list[Call]:
        """Return the calls that fill `sums`."""

    @abstractmethod
    def gradient_calls(self) -> list[Call]:
        """Return the calls that fill dy with `scale` times the gradient of the sum of all terms."""

    def forward_calls(self, weight: float, loss: Array) -> list[Call]:
        """Return the calls that fill loss (1,) with `weight` times the loss."""
        rule = self.sums, self.is_mean, weight * self.factor, self.scale, loss
        return [*self.sum_calls(), (self.backend.loss.weigh, rule)]

    def forward(self) -> float:
        """Return the loss."""
        self._forward.run()
        loss: float = self.backend.read(self.loss)[0]
        return loss

    def backward(self) -> None:
        """Fill dy with the gradient of the last `forward`."""
        self._backward.run()

    @cached_property
    def _forward(self) -> Any:
        return self.backend.program.Program(self.forward_calls(1.0, self.loss))

    @cached_property
    def _backward(self) -> Any:
        return self.backend.program.Program(self.gradient_calls())

    def count_calls(self) -> list[Call]:
        """Return the calls that fill `counts` after a forward pass; none where there are no classes."""
        return []


_changes = count(1)


class Loss(ChecksArguments, Checked, Written, Described, ABC):
    """The base of losses of one output.

    All arguments are attributes, too: what is assigned to them counts from the next call, or is refused as by the
    constructor.

    Parameters
    ----------
    reduction
        "mean" over all terms, or their "sum".
    device
        Where `forward` works by itself, "cpu" or "reference"; a Trainer uses its network's.

    Raises
    ------
    ArgumentError
        If an argument is none of those described.
    DataError
        If targets do not fit the outputs.
    ShapeError
        If outputs do not have the axes described.
    """

    checks: ClassVar[dict[str, Check]] = {"reduction": one_of(*REDUCTIONS), "device": _device}

    changes: int
    """Another number whenever an argument was assigned: what was bound before serves no longer."""

    classifies = False
    """Whether outputs choose classes, so that there is an accuracy."""

    def __init__(self, *, reduction: str = "mean", device: str = "cpu") -> None:
        self.reduction = reduction
        self.device = device
        self._thread = _OfThread()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__["changes"] = next(_changes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _thread=_OfThread(), changes=next(_changes))

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
        """Return the loss of outputs y (N, ...) and targets t; a float64 y is kept in float64.

        Parameters
        ----------
        y
            Outputs, floats (N, ...).
        t
            Targets, as the loss takes them.
        """
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
        bound = self._thread.bound = self.bind(backend, *arrays, backend.empty(given.shape, dtype))
        return bound.forward()

    def backward(self) -> Any:
        """Return the gradient of this thread's last `forward` by its outputs."""
        bound = self._thread.bound
        if bound is None:
            raise ArgumentError(f"{self.label} cannot go backward yet: call its forward first.")
        bound.backward()
        return get(self.device).download(bound.dy)


class _OfThread(threading.local):
    """What a loss that works by itself keeps for one thread: its last pass."""

    bound: BoundLoss | None = None


def class_weights(weight: ArrayLike, name: str) -> Array:
    """Return factors of classes as a float64 array (K,) that stays as it is, or refuse them."""
    try:
        weights = np.atleast_1d(np.array(weight, np.float64))
    except (TypeError, ValueError, OverflowError):
        weights = np.empty((0, 0))
    if weights.ndim != 1 or not weights.size or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ArgumentError(f"{name}={weight!r} was given: give a finite number >= 0 for each class.")
    weights.flags.writeable = False  # another array is noticed where it is assigned; other numbers in it are not
    return weights


def as_rows(array: Array) -> Array:
    """Return a view (rows, K) of an array (..., K)."""
    return array.reshape(prod(array.shape[:-1]), array.shape[-1])
