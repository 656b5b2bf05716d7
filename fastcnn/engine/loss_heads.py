"""Where forward turns into backward: the outputs of a plan with their losses, and sums over an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastcnn.arrays import Array
from fastcnn.backend import Backend, Call
from fastcnn.engine.plan import Plan
from fastcnn.engine.training_step import TrainingStep
from fastcnn.errors import ArgumentError
from fastcnn.losses import BoundLoss, Loss, MultiTask
from fastcnn.losses.base import DOUBLE, ROW
from fastcnn.training.history import Evaluation

if TYPE_CHECKING:
    from fastcnn.graph.graph import Graph


@dataclass
class Head:
    """An output of the network with its loss: all that is done where forward turns into backward."""

    bound: BoundLoss
    targets: Array
    weight: float


@dataclass
class Batch:
    """A plan with its losses and targets: all that a step of one batch size touches."""

    plan: Plan
    heads: list[Head]
    losses: Sequence[tuple[Loss, float]]

    def __post_init__(self) -> None:
        backend = self.plan.backend
        self._changes = [loss.changes for loss, _ in self.losses]
        losses = backend.zeros((len(self.heads),), DOUBLE)
        self._report = backend.zeros((1 + ROW * len(self.heads),), DOUBLE)
        self._loss = self._report[:1]
        forward: list[Call] = []
        for i, head in enumerate(self.heads):
            head.bound.report_in(self._report[1 + ROW * i :][:ROW])
            forward += head.bound.forward_calls(head.weight, losses[i : i + 1])
        forward.append((backend.loss.sum_values, (losses, self._loss)))
        back = [call for head in self.heads for call in head.bound.gradient_calls()]
        counts = [call for head in self.heads for call in head.bound.count_calls()]
        self._forward, self._backward, self._counts = (
            backend.program.Program(calls) for calls in (forward, back, counts)
        )
        self.step = TrainingStep(self.plan, [*forward, (backend.program.stop_unless_finite, (self._loss,)), *back])

    def takes(self, losses: Sequence[tuple[Loss, float]], targets: list[Array]) -> bool:
        """Say whether the losses are as they were bound, and targets of the kind that they are bound to."""
        if losses is not self.losses or [loss.changes for loss, _ in losses] != self._changes:
            return False
        for head, given in zip(self.heads, targets, strict=True):
            own = head.targets
            if own.dtype != given.dtype or own.shape[1:] != given.shape[1:]:
                return False
        return True

    @property
    def loss(self) -> float:
        """The weighted sum of the heads' losses in the last forward pass."""
        loss: float = self.plan.backend.read(self._loss)[0]
        return loss

    def forward(self) -> None:
        """Compute the losses of the plan's outputs."""
        self._forward.run()

    def backward(self) -> None:
        """Fill the gradients by the plan's outputs."""
        self._backward.run()

    def count(self) -> None:
        """Count in the report which outputs of the last forward pass are right."""
        self._counts.run()

    def report(self) -> list[list[float]]:
        """Return what the last pass and `count` have left of each head: one wait for all of them."""
        self.count()
        numbers = self.plan.backend.read(self._report)
        return [numbers[first : first + ROW] for first in range(1, len(numbers), ROW)]


@dataclass
class Sums:
    """Running sums over the images of an epoch; `terms` and `samples` by head."""

    images: int = 0
    terms: list[float] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    correct: float = 0
    counted: float = 0

    def add(self, batch: Batch) -> None:
        """Count a batch that has gone forward."""
        if not self.terms:
            self.terms, self.samples = [0.0] * len(batch.heads), [0.0] * len(batch.heads)
        self.images += batch.plan.batch
        for i, (head, row) in enumerate(zip(batch.heads, batch.report(), strict=True)):
            self.terms[i] += head.weight * head.bound.total(row)
            self.samples[i] += head.bound.samples(row)
            self.correct, self.counted = self.correct + row[2], self.counted + row[3]

    def means(self) -> Evaluation:
        """Return the means so far."""
        loss = sum(terms / samples for terms, samples in zip(self.terms, self.samples, strict=True) if samples)
        return Evaluation(loss, self.correct / self.counted if self.counted else None)


def bind_heads(
    backend: Backend, plan: Plan, losses: Sequence[tuple[Loss, float]], targets: Sequence[Array], training: bool
) -> Batch:
    """Return a plan with a loss and its weight for each output, on arrays of the backend.

    `targets` show the shapes of one image's targets. Without training there is no gradient to fill.
    """
    none = [backend.empty((0, *y.shape[1:]), y.dtype) for y in plan.outputs]
    gradients = plan.output_gradients if training else none
    heads = []
    for (loss, weight), y, t, dy in zip(losses, plan.outputs, targets, gradients, strict=True):
        own = backend.zeros((plan.batch, *t.shape[1:]), t.dtype)
        heads.append(Head(loss.bind(backend, y, own, dy), own, weight))
    return Batch(plan, heads, losses)


def losses_by_output(net: Graph, loss: Loss | MultiTask) -> list[tuple[Loss, float]]:
    """Return a loss and its weight for each output, or refuse losses that do not fit them."""
    names = net.output_names
    if isinstance(loss, MultiTask):
        if sorted(names) != sorted(loss.heads):
            raise ArgumentError(
                f"MultiTask has the heads {', '.join(loss.heads)}, and the network the outputs {', '.join(names)}: "
                "give a loss for each output, under the name of its layer."
            )
        return [loss.heads[name] for name in names]
    if len(names) != 1:
        raise ArgumentError(
            f"Trainer got a network with {len(names)} outputs, and one loss: give a MultiTask with a loss for each."
        )
    return [(loss, 1.0)]
