"""The trainer: epochs of shuffled batches through a network, a loss and an optimizer.

Everything is checked at the door; a step then runs the plan of its batch size, and allocates no
array that grows with the network. All that is random comes from one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arrays import Array
from fastcnn.errors import ArgumentError, DataError, TrainingError
from fastcnn.graph import Graph
from fastcnn.history import EpochRecord, Evaluation, History
from fastcnn.losses import BoundCrossEntropy, CrossEntropy
from fastcnn.optimizers import SGD
from fastcnn.plan import Plan
from fastcnn.progress import Bar
from fastcnn.shapes import whole

LabelledImages: TypeAlias = Iterable[ArrayLike]
"""Images (N, H, W, C) and labels (N,): a pair, or a fastcnn.data.Dataset."""

# Weights come from the seed itself, the order of the images from a stream beside it.
SHUFFLE_STREAM = 1


@dataclass
class _Batch:
    """A plan with its loss and labels: all that a step of one batch size touches."""

    plan: Plan
    labels: Array
    loss: BoundCrossEntropy


@dataclass
class _Sums:
    """Running sums over the images of an epoch."""

    images: int = 0
    loss: float = 0.0
    correct: int = 0

    def add(self, batch: _Batch, loss: float) -> None:
        self.images += len(batch.labels)
        self.loss += loss * len(batch.labels)
        self.correct += batch.loss.correct()

    def means(self) -> Evaluation:
        return Evaluation(self.loss / self.images, self.correct / self.images)


class Trainer:
    """Trains a network with one input and one output.

    Parameters
    ----------
    net, loss, optimizer
        What to train, what to lower and how.
    seed
        Draws the weights (where nobody has drawn or set them before) and the order of the images.
    device
        Moves the network there first; by default it stays where it is.
    progress
        Whether to draw a bar on standard error; by default on terminals only.

    >>> from fastcnn.graph import Sequential
    >>> from fastcnn.layers import Flatten, Linear
    >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1))
    >>> trainer = Trainer(net, CrossEntropy(), SGD(0.1), device="reference")
    >>> round(trainer.step(np.zeros((4, 8, 8, 1)), [0, 1, 2, 3]), 6)
    2.302585
    """

    def __init__(
        self,
        net: Graph,
        loss: CrossEntropy,
        optimizer: SGD,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> None:
        for given, kind, what in ((net, Graph, "net"), (loss, CrossEntropy, "loss"), (optimizer, SGD, "optimizer")):
            if not isinstance(given, kind):
                raise ArgumentError(
                    f"Trainer got {what}={given!r}: give a {kind.__name__}, as Trainer(net, loss, optimizer)."
                )
        if len(net.inputs) != 1 or len(net.outputs) != 1:
            raise ArgumentError(
                f"Trainer got a network with {len(net.inputs)} inputs, {len(net.outputs)} outputs: "
                "it trains those of one input and one output."
            )
        self.net = net if device is None else net.to(device)
        self.loss = loss
        self.optimizer = optimizer
        self.progress = progress
        self.epoch = 0
        self.steps = 0
        self._classes = loss.check_output(net.output_shapes[0])
        net.draw_missing(seed)
        self._shuffle = np.random.default_rng((seed, SHUFFLE_STREAM))
        self._batches: WeakKeyDictionary[Plan, _Batch] = WeakKeyDictionary()

    def fit(
        self,
        train: LabelledImages,
        epochs: int = 1,
        batch_size: int = 128,
        validation: LabelledImages | None = None,
        callback: Callable[[EpochRecord], None] | None = None,
    ) -> History:
        """Train for some epochs, and return a record of each.

        The images are shuffled every epoch, and the last, smaller batch is used. `callback` gets
        each epoch's record when it ends, and may change `optimizer.lr`.

        Raises
        ------
        DataError, ShapeError
            If images or labels do not fit the network; nothing has run then.
        TrainingError
            If a loss or gradient is not finite; the weights are those before that step.
        """
        images, labels = self._check(train, "training data")
        whole(epochs, 1, "epochs")
        whole(batch_size, 1, "batch_size")
        held_out = None
        if validation is not None:
            held_out = self._check(validation, "validation data")
        history = History()
        for number in range(epochs):
            self.epoch += 1
            with Bar(self.progress, f"epoch {number + 1}/{epochs}", len(images)) as bar:
                record = self._train_epoch(images, labels, batch_size, bar)
            if held_out is not None:
                result = self._evaluate(*held_out, batch_size)
                record["val_loss"], record["val_accuracy"] = result
            history.epochs.append(record)
            if callback is not None:
                callback(record)
        return history

    def step(self, x: ArrayLike, y: ArrayLike) -> float:
        """Do one forward, loss, backward and update on images `x` (N, H, W, C) with labels `y` (N,).

        Returns the mean loss of the batch before the update. Errors as `fit`.
        """
        images, labels = self._check((x, y), "batch")
        batch = self._batch(len(images), training=True)
        batch.plan.load([images])
        batch.plan.backend.copy(labels, batch.labels)
        return self._train_batch(batch)

    def evaluate(self, data: LabelledImages, batch_size: int = 256) -> Evaluation:
        """Return mean loss and accuracy over some data."""
        whole(batch_size, 1, "batch_size")
        return self._evaluate(*self._check(data, "evaluation data"), batch_size)

    def predict(self, images: ArrayLike, batch_size: int = 256) -> Array:
        """Return the logits (N, K) of any number of images."""
        logits: Array = self.net.predict(images, batch_size=batch_size)
        return logits

    def _check(self, data: LabelledImages, what: str) -> tuple[Array, Array]:
        """Return images and labels as the network takes them, or refuse them."""
        try:
            images, labels = data
        except (TypeError, ValueError):
            raise DataError(f"the {what} is no pair: give (images, labels) or a Dataset.") from None
        (array,) = self.net.check_inputs(images)
        if not len(array):
            raise DataError(f"the {what} holds no images: give at least one.")
        named = getattr(data, "classes", None)
        if named is not None and len(named) != self._classes:
            raise DataError(
                f"the {what} has {len(named)} classes, and the network {self._classes} outputs: "
                f"build it with classes={len(named)}."
            )
        targets = self.loss.check_targets(labels, len(array), self._classes)
        return np.ascontiguousarray(array, self.net.dtype), targets

    def _batch(self, size: int, training: bool) -> _Batch:
        plan = self.net.plan(size, training)
        batch = self._batches.get(plan)
        if batch is None:
            backend, logits = plan.backend, plan.outputs[0]
            labels = backend.zeros((size,), np.dtype(np.int64))
            if training:
                dlogits = plan.backward(inputs=False).output_gradients[0]
            else:
                dlogits = backend.empty((0, self._classes), logits.dtype)
            batch = _Batch(plan, labels, self.loss.bind(backend, logits, labels, dlogits))
            self._batches[plan] = batch
        return batch

    def _load(self, images: Array, labels: Array, rows: Array, training: bool) -> _Batch:
        batch = self._batch(len(rows), training)
        batch.plan.backend.gather(images, rows, batch.plan.inputs[0])
        batch.plan.backend.gather(labels, rows, batch.labels)
        return batch

    def _train_epoch(self, images: Array, labels: Array, batch_size: int, bar: Bar) -> EpochRecord:
        sums, start = _Sums(), perf_counter()
        order = self._shuffle.permutation(len(images))
        for first in range(0, len(order), batch_size):
            batch = self._load(images, labels, order[first : first + batch_size], training=True)
            sums.add(batch, self._train_batch(batch))
            bar.show(sums.images, *sums.means(), perf_counter() - start)
        seconds = perf_counter() - start
        loss, accuracy = sums.means()
        return {
            "loss": loss,
            "accuracy": accuracy,
            "val_loss": None,
            "val_accuracy": None,
            "images_per_s": sums.images / seconds,
            "seconds": seconds,
        }

    def _train_batch(self, batch: _Batch) -> float:
        plan, backend = batch.plan, batch.plan.backend
        self.steps += 1
        plan.forward()
        loss = batch.loss.forward()
        if not isfinite(loss):
            raise self._not_finite(plan, f"the loss is {loss}")
        batch.loss.backward()
        plan.backward(inputs=False).run()
        if not backend.all_finite(plan.store.gradients):
            raise self._not_finite(plan, "a gradient is not finite")
        self.optimizer.update(backend, plan.store.values, plan.store.gradients)
        return loss

    def _not_finite(self, plan: Plan, problem: str) -> TrainingError:
        culprit = plan.first_non_finite() or "the loss itself"
        when = f"epoch {self.epoch}, step {self.steps}" if self.epoch else f"step {self.steps}"
        return TrainingError(
            f"{problem} in {when}, first seen in {culprit}; "
            "the weights are those before this step: lower the learning rate or check the images."
        )

    def _evaluate(self, images: Array, labels: Array, batch_size: int) -> Evaluation:
        sums, order = _Sums(), np.arange(len(images))
        for first in range(0, len(order), batch_size):
            batch = self._load(images, labels, order[first : first + batch_size], training=False)
            batch.plan.forward()
            sums.add(batch, batch.loss.forward())
        return sums.means()
