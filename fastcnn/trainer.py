"""The trainer: epochs of shuffled batches through a network, a loss and an optimizer.

Everything is checked at the door; a step then runs the plan of its batch size, and allocates no
array that grows with the network. All that is random comes from one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from time import perf_counter
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array
from fastcnn.augment import Augmentations, Mover
from fastcnn.errors import ArgumentError, DataError, TrainingError
from fastcnn.graph import Graph
from fastcnn.heads import Batch, Sums, bind_heads, losses_by_output
from fastcnn.history import EpochRecord, Evaluation, History
from fastcnn.inputs import listed
from fastcnn.losses import Loss, MultiTask
from fastcnn.optimizers import Optimizer
from fastcnn.plan import Plan
from fastcnn.progress import Bar
from fastcnn.rates import Rates, check_metric, check_momentum
from fastcnn.schedules import Schedule
from fastcnn.shapes import number, whole

LabelledImages: TypeAlias = Iterable[Any]
"""Images (N, H, W, C) and targets: a pair, or a fastcnn.data.Dataset. See `Trainer` for several inputs."""

Arrays: TypeAlias = list[Array]
"""Checked images, an array for each input of the network."""

Targets: TypeAlias = list[Array]
"""Checked targets, an array for each output of the network."""

# Weights come from the seed itself, the order of the images and how they move from streams beside it.
SHUFFLE_STREAM, AUGMENT_STREAM = 1, 2


class Trainer(ChecksArguments):
    """Trains a network.

    Training data are (images, targets): images (N, *input shape), for several inputs a tuple or {input's name: array};
    targets as the loss takes them, for several outputs a tuple or {output's name: targets} (`MultiTask`).

    Parameters
    ----------
    net, loss, optimizer
        What to train, what to lower and how. A network of several outputs needs a MultiTask.
    seed
        Draws the weights (where nobody has drawn or set them before), the order of the images and how they move.
    device
        Moves the network there first; by default it stays where it is.
    progress
        Whether to draw a bar on standard error; by default on terminals only.
    schedule
        Changes `optimizer.lr`, and `OneCycle` the momentum, during `fit`, which ends with those it began with.
    clip_value, clip_norm
        Bring every gradient between -clip_value and clip_value; then shrink all together so that their Euclidean norm
        is at most clip_norm (Pascanu et al. 2013).
    augment
        Moves the images of training batches at random, in `fit`: a RandomFlip or RandomShift of `fastcnn.augment`, or a
        tuple of several.

    >>> from fastcnn.sequential import Sequential
    >>> from fastcnn.layers import Flatten, Linear
    >>> from fastcnn.losses import CrossEntropy
    >>> from fastcnn.optimizers import SGD
    >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1))
    >>> trainer = Trainer(net, CrossEntropy(), SGD(0.1), device="reference")
    >>> round(trainer.step(np.zeros((4, 8, 8, 1)), [0, 1, 2, 3]), 6)
    2.302585
    """

    def __init__(
        self,
        net: Graph,
        loss: Loss | MultiTask,
        optimizer: Optimizer,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        *,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        augment: Augmentations | None = None,
    ) -> None:
        kinds = ((net, Graph, "net"), (loss, Loss | MultiTask, "loss"), (optimizer, Optimizer, "optimizer"))
        for given, kind, what in kinds:
            if not isinstance(given, kind):
                name = getattr(kind, "__name__", "Loss")
                raise ArgumentError(f"Trainer got {what}={given!r}: give a {name}, as Trainer(net, loss, optimizer).")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise ArgumentError(
                f"Trainer got schedule={schedule!r}: give a Schedule, such as fastcnn.schedules.Cosine()."
            )
        net.check_complete()
        check_momentum(schedule, optimizer)
        if augment is not None and len(net.inputs) != 1:
            raise ArgumentError(
                f"augment was given for a network of {len(net.inputs)} inputs: it moves the images of one; "
                "move yours before training."
            )
        self._losses = losses_by_output(net, loss)
        self.net = net if device is None else net.to(device)
        self.loss = loss
        self.optimizer = optimizer
        self.progress = progress
        self.schedule = schedule
        self.clip_norm, self.clip_value = (
            None if limit is None else number(limit, name, 0)
            for limit, name in ((clip_norm, "clip_norm"), (clip_value, "clip_value"))
        )
        self.epoch = 0
        self.steps = 0
        for (single, _), shape in zip(self._losses, net.output_shapes, strict=True):
            single.check_output(shape)
        net.draw_missing(seed)
        self._shuffle = np.random.default_rng((seed, SHUFFLE_STREAM))
        generator = np.random.default_rng((seed, AUGMENT_STREAM))
        self._mover = None if augment is None else Mover(augment, net.input_shapes[0], net.dtype, generator)
        self._batches: WeakKeyDictionary[Plan, Batch] = WeakKeyDictionary()

    def fit(
        self,
        train: LabelledImages,
        epochs: int = 1,
        batch_size: int = 128,
        validation: LabelledImages | None = None,
        callback: Callable[[EpochRecord], bool | None] | None = None,
    ) -> History:
        """Train for some epochs, and return a record of each.

        The images are shuffled every epoch, and the last, smaller batch is used. `callback` gets
        each epoch's record when it ends; it may change `optimizer.lr` where there is no schedule, and ends the training
        by returning True.
        Accuracies are None where the loss has no classes.

        Raises
        ------
        DataError, ShapeError
            If images or labels do not fit the network; nothing has run then.
        TrainingError
            If a loss or gradient is not finite; the weights are those before that step.
        """
        images, targets = self._check_all(train, "training data")
        self._check_learns()
        whole(epochs, 1, "epochs")
        whole(batch_size, 1, "batch_size")
        held_out = None
        if validation is not None:
            held_out = self._check_all(validation, "validation data")
        if self.schedule is not None:
            classifies = any(loss.classifies for loss, _ in self._losses)
            check_metric(self.schedule.watches(), held_out is not None, classifies)
        rates = Rates(self.optimizer, self.schedule, epochs, -(-len(images[0]) // batch_size))
        history = History()
        try:
            for done in range(epochs):
                self.epoch += 1
                rates.before_epoch(done)
                with Bar(self.progress, f"epoch {done + 1}/{epochs}", len(images[0])) as bar:
                    record = self._train_epoch(images, targets, batch_size, bar, rates)
                if held_out is not None:
                    result = self._evaluate(*held_out, batch_size)
                    record["val_loss"], record["val_accuracy"] = result
                history.epochs.append(record)
                rates.record = record
                if callback is not None and callback(record):
                    break
        finally:
            rates.restore()
        return history

    def step(self, x: Any, y: Any) -> float:
        """Do one forward, loss, backward and update on images `x` (N, H, W, C) with targets `y`, such as labels (N,).

        Several inputs or outputs come as in `fit`. Returns the loss of the batch before the update. Errors as `fit`; a
        schedule works in `fit` only.
        """
        images, targets = self._check((x, y), "batch")
        self._check_learns()
        batch = self._batch(len(images[0]), targets, training=True)
        batch.plan.load(images)
        for given, head in zip(targets, batch.heads, strict=True):
            batch.plan.backend.copy(given, head.targets)
        return self._train_batch(batch)

    def evaluate(self, data: LabelledImages, batch_size: int = 256) -> Evaluation:
        """Return mean loss and accuracy over some data; no accuracy, None, where the loss has no classes."""
        whole(batch_size, 1, "batch_size")
        return self._evaluate(*self._check_all(data, "evaluation data"), batch_size)

    def predict(self, images: Any, batch_size: int = 256) -> Any:
        """Return the outputs (N, ...) for any number of images: logits (N, K) of a classifier."""
        return self.net.predict(*listed(images, len(self.net.inputs)), batch_size=batch_size)

    def _check_learns(self) -> None:
        if not any(layer.learns for layer in self.net.layers) and self.net.parameter_count:
            raise ArgumentError(f"all layers of {self.net!r} are frozen: let some learn, as by net.unfreeze().")

    def _check(self, data: LabelledImages, what: str) -> tuple[Arrays, Targets]:
        """Return images, floats of any width, and targets as the network takes them, or refuse them."""
        try:
            images, given = data
        except (TypeError, ValueError):
            raise DataError(f"the {what} is no pair: give (images, labels) or a Dataset.") from None
        arrays = self.net.check_inputs(*listed(images, len(self.net.inputs)))
        count = len(arrays[0])
        if not count:
            raise DataError(f"the {what} holds no images: give at least one.")
        classes = [loss.classes(shape) for (loss, _), shape in zip(self._losses, self.net.output_shapes, strict=True)]
        named = getattr(data, "classes", None)
        if named is not None and classes[0] is not None and len(named) != classes[0]:
            raise DataError(
                f"the {what} has {len(named)} classes, and the network {classes[0]} outputs: "
                f"build it with classes={len(named)}."
            )
        several = [given]
        if isinstance(self.loss, MultiTask):
            several = self.loss.select(given, "targets", self.net.output_names)
        heads = zip(self._losses, several, self.net.output_shapes, strict=True)
        targets = [loss.check_targets(t, count, shape, self.net.dtype) for (loss, _), t, shape in heads]
        return arrays, targets

    def _check_all(self, data: LabelledImages, what: str) -> tuple[Arrays, Targets]:
        """Return what `_check` does; batches are gathered from images in the network's dtype, in order in memory."""
        images, targets = self._check(data, what)
        return [np.ascontiguousarray(array, self.net.dtype) for array in images], targets

    def _batch(self, size: int, targets: Targets, training: bool) -> Batch:
        """Return what a step of this batch size touches; `targets` show the shapes of one image's targets."""
        plan = self.net.plan(size, training, returns="parameters" if training else "nothing")
        batch = self._batches.get(plan)
        if batch is None or not batch.takes(targets):
            batch = self._batches[plan] = bind_heads(plan.backend, plan, self._losses, targets, training)
        return batch

    def _load(self, images: Arrays, targets: Targets, rows: Array, training: bool) -> Batch:
        batch = self._batch(len(rows), targets, training)
        for array, own in zip(images, batch.plan.inputs, strict=True):
            if training and self._mover is not None:
                self._mover.gather(batch.plan.backend, array, rows, own)
            else:
                batch.plan.backend.gather(array, rows, own)
        for given, head in zip(targets, batch.heads, strict=True):
            batch.plan.backend.gather(given, rows, head.targets)
        return batch

    def _train_epoch(self, images: Arrays, targets: Targets, batch_size: int, bar: Bar, rates: Rates) -> EpochRecord:
        sums, start = Sums(), perf_counter()
        order = self._shuffle.permutation(len(images[0]))
        for first in range(0, len(order), batch_size):
            rates.before_step()
            batch = self._load(images, targets, order[first : first + batch_size], training=True)
            self._train_batch(batch)
            sums.add(batch)
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

    def _train_batch(self, batch: Batch) -> float:
        self.steps += 1
        try:
            batch.step.run(self.optimizer, self.clip_value, self.clip_norm)
        except batch.plan.backend.guard.GuardError:
            problem = "a gradient is not finite" if isfinite(batch.loss) else f"the loss is {batch.loss}"
            raise self._not_finite(batch, problem) from None
        return batch.loss

    def _not_finite(self, batch: Batch, problem: str) -> TrainingError:
        given = (np.isfinite(head.targets).all() for head in batch.heads)
        culprit = batch.plan.first_non_finite() or ("the loss itself" if all(given) else "the targets")
        when = f"epoch {self.epoch}, step {self.steps}" if self.epoch else f"step {self.steps}"
        return TrainingError(
            f"{problem} in {when}, first seen in {culprit}; "
            "the weights are those before this step: lower the learning rate or check the images."
        )

    def _evaluate(self, images: Arrays, targets: Targets, batch_size: int) -> Evaluation:
        sums, order = Sums(), np.arange(len(images[0]))
        for first in range(0, len(order), batch_size):
            batch = self._load(images, targets, order[first : first + batch_size], training=False)
            batch.plan.forward()
            batch.forward()
            sums.add(batch)
        return sums.means()
