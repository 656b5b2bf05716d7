"""The trainer: epochs of shuffled batches through a network, a loss and an optimizer.

Everything is checked at the door; a step then runs the plan of its batch size, and allocates no
array that grows with the network. All that is random comes from one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import isfinite
from time import perf_counter
from typing import Any, ClassVar, TypeAlias

import numpy as np

from fastcnn.arguments import ChecksArguments, checks_arguments
from fastcnn.arrays import Array
from fastcnn.augment import Augmentations, Mover
from fastcnn.backend import get
from fastcnn.checked import Check, Checked, optional
from fastcnn.concurrency.passes import Pass
from fastcnn.engine.loss_heads import Batch, Sums, bind_heads, losses_by_output
from fastcnn.engine.plan import Plan
from fastcnn.errors import ArgumentError, DataError, ShapeError, TrainingError
from fastcnn.graph.graph import Graph
from fastcnn.graph.inputs import listed
from fastcnn.losses import Loss, MultiTask
from fastcnn.optimizers.rules import Optimizer
from fastcnn.schedules import Schedule
from fastcnn.shapes import number, whole
from fastcnn.training.history import EpochRecord, Evaluation, History
from fastcnn.training.progress import Bar
from fastcnn.training.rates import Rates, check_metric, check_momentum

LabelledImages: TypeAlias = Iterable[Any]
"""Images (N, H, W, C) and targets: a pair, or a fastcnn.data.Dataset. See `Trainer` for several inputs."""

Arrays: TypeAlias = list[Array]
"""Checked images, an array for each input of the network."""

Targets: TypeAlias = list[Array]
"""Checked targets, an array for each output of the network."""

# Weights come from the seed itself, the order of the images and how they move from streams beside it.
SHUFFLE_STREAM, AUGMENT_STREAM = 1, 2


def _optimizer(value: Any, name: str) -> Optimizer:
    if not isinstance(value, Optimizer):
        raise ArgumentError(f"Trainer got {name}={value!r}: give an Optimizer, as Trainer(net, loss, optimizer).")
    return value


def _schedule(value: Any, name: str) -> Schedule:
    if not isinstance(value, Schedule):
        raise ArgumentError(f"Trainer got {name}={value!r}: give a Schedule, such as fastcnn.schedules.Cosine().")
    return value


class Trainer(ChecksArguments, Checked):
    """Trains a network.

    Training data are (images, targets): images (N, *input shape), for several inputs a tuple or {input's name: array};
    targets as the loss takes them, for several outputs a tuple or {output's name: targets} (`MultiTask`).

    Parameters
    ----------
    net, loss, optimizer
        What to train, what to lower and how. A network of several outputs needs a MultiTask. An optimizer keeps its
        moments and counts apart for each network.
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

    >>> from fastcnn.graph.sequential import Sequential
    >>> from fastcnn.layers import Flatten, Linear
    >>> from fastcnn.losses import CrossEntropy
    >>> from fastcnn.optimizers.rules import SGD
    >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1))
    >>> trainer = Trainer(net, CrossEntropy(), SGD(0.1), device="reference")
    >>> round(trainer.step(np.zeros((4, 8, 8, 1)), [0, 1, 2, 3]), 6)
    2.302585
    """

    checks: ClassVar[dict[str, Check]] = {
        "optimizer": _optimizer, "schedule": optional(_schedule),
        "clip_norm": optional(partial(number, low=0)), "clip_value": optional(partial(number, low=0)),
    }  # fmt: skip

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
        if not isinstance(net, Graph):
            raise ArgumentError(f"Trainer got net={net!r}: give a Graph, as Trainer(net, loss, optimizer).")
        net.check_complete()
        self.net = net
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        check_momentum(schedule, optimizer)
        if augment is not None and len(net.inputs) != 1:
            raise ArgumentError(
                f"augment was given for a network of {len(net.inputs)} inputs: it moves the images of one; "
                "move yours before training."
            )
        if device is not None:
            net.to(device)
        self.progress = progress
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.epoch = 0
        self.steps = 0
        net.draw_missing(seed)
        self._shuffle = np.random.default_rng((seed, SHUFFLE_STREAM))
        generator = np.random.default_rng((seed, AUGMENT_STREAM))
        self._mover = None if augment is None else Mover(augment, net.input_shapes[0], net.dtype, generator)
        self._batches: dict[Plan, Batch] = {}

    @property
    def loss(self) -> Loss | MultiTask:
        """What to lower; another one counts from the next step."""
        return self._loss

    @loss.setter
    def loss(self, loss: Loss | MultiTask) -> None:
        if not isinstance(loss, Loss | MultiTask):
            raise ArgumentError(f"Trainer got loss={loss!r}: give a Loss, as Trainer(net, loss, optimizer).")
        losses = losses_by_output(self.net, loss)
        for (single, _), shape in zip(losses, self.net.output_shapes, strict=True):
            single.check_output(shape)
        self._loss, self._losses = loss, losses

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy, or a pickle, takes along: all but the arrays of steps."""
        return vars(self) | {"_batches": {}}

    @checks_arguments
    def fit(
        self,
        train: LabelledImages,
        epochs: int = 1,
        batch_size: int = 128,
        validation: LabelledImages | None = None,
        callback: Callable[[EpochRecord], bool | None] | None = None,
    ) -> History:
        """Train for some epochs, and return a record of each.

        The images are shuffled every epoch, and the last, smaller batch is used; one that a layer does not take, such
        as a single row for BatchNorm1d, is refused before the first step. `callback` gets
        each epoch's record when it ends; it may change `optimizer.lr` where there is no schedule, and ends the training
        by returning True.
        Accuracies are None where the loss has no classes.

        Parameters
        ----------
        train
            A pair (images, targets), such as a Dataset; see `Trainer`.
        epochs
            How often all images are used, at least 1.
        batch_size
            Images of a step, at least 1.
        validation
            Data like `train` to evaluate after each epoch, or None.
        callback
            Called with each epoch's record, or None.

        Raises
        ------
        DataError, ShapeError
            If images or labels do not fit the network, or a layer does not take a batch of some size that batch_size
            leaves; nothing has run then.
        TrainingError
            If a loss, a gradient or a running statistic is not finite; weights and the layers' states (running
            statistics, what dropout counts) are those before that step.
        """
        images, targets = self._check_all(train, "training data")
        self._check_learns()
        whole(epochs, 1, "epochs")
        whole(batch_size, 1, "batch_size")
        held_out = None
        if validation is not None:
            held_out = self._check_all(validation, "validation data")
        self._check_batches("training data", targets, batch_size, training=True)
        if held_out is not None:
            self._check_batches("validation data", held_out[1], batch_size, training=False)
        check_momentum(self.schedule, self.optimizer)
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

    def __repr__(self) -> str:
        net = f"{type(self.net).__name__} of {self.net.parameter_count:,} parameters"
        return f"Trainer({net}, {self.loss!r}, {self.optimizer!r})"

    def step(self, x: Any, y: Any) -> float:
        """Do one forward, loss, backward and update on images `x` (N, H, W, C) with targets `y`, such as labels (N,).

        Several inputs or outputs come as in `fit`. Returns the loss of the batch before the update. Errors as `fit`; a
        schedule works in `fit` only.

        Parameters
        ----------
        x, y
            Images and their targets.
        """
        images, targets = self._check((x, y), "batch")
        with self.net.changing() as held:
            batch = self._batch(held, len(images[0]), targets, training=True)
            if not batch.plan.trained:
                self._check_learns()
            batch.plan.load(images)
            for given, head in zip(targets, batch.heads, strict=True):
                batch.plan.backend.upload(given, head.targets)
            self._train_batch(batch)
            return batch.loss

    @checks_arguments
    def evaluate(self, data: LabelledImages, batch_size: int = 256) -> Evaluation:
        """Return mean loss and accuracy over some data; no accuracy, None, where the loss has no classes.

        Parameters
        ----------
        data
            A pair (images, targets), such as a Dataset; see `Trainer`.
        batch_size
            Images at a time, at least 1: more take more memory.
        """
        whole(batch_size, 1, "batch_size")
        images, targets = self._check_all(data, "evaluation data")
        self._check_batches("evaluation data", targets, batch_size, training=False)
        return self._evaluate(images, targets, batch_size)

    @checks_arguments
    def predict(self, images: Any, batch_size: int = 256) -> Any:
        """Return the outputs (N, ...) for any number of images: logits (N, K) of a classifier.

        Parameters
        ----------
        images
            An array (N, *input shape) of floats, for several inputs a tuple or {input's name: array}.
        batch_size
            Images at a time, at least 1: more take more memory.
        """
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
        shapes = self.net.output_shapes
        named = getattr(data, "classes", None)
        if named is not None:
            classes = self._losses[0][0].classes(shapes[0])
            if classes is not None and len(named) != classes:
                raise DataError(
                    f"the {what} has {len(named)} classes, and the network {classes} outputs: "
                    f"build it with classes={len(named)}."
                )
        several = [given]
        if isinstance(self.loss, MultiTask):
            several = self.loss.select(given, "targets", self.net.output_names)
        heads = zip(self._losses, several, shapes, strict=True)
        targets = [loss.check_targets(t, count, shape, self.net.dtype) for (loss, _), t, shape in heads]
        return arrays, targets

    def _check_all(self, data: LabelledImages, what: str) -> tuple[Arrays, Targets]:
        """Return what `_check` does as arrays that batches are gathered from, images in the network's dtype."""
        images, targets = self._check(data, what)
        resident = get(self.net.device).resident
        arrays = [resident(np.ascontiguousarray(array, self.net.dtype)) for array in images]
        return arrays, [resident(one) for one in targets]

    def _batch(self, held: Pass, size: int, targets: Targets, training: bool) -> Batch:
        """Return what a step of this batch size touches; `targets` show the shapes of one image's targets."""
        plan = self.net.plan_on(held.store, held.stream, size, training, "parameters" if training else "nothing")
        batch = self._batches.get(plan)
        if batch is None or not batch.takes(self._losses, targets):
            for dropped in [other for other in list(self._batches) if not self.net.keeps(other)]:
                self._batches.pop(dropped, None)
            for (loss, _), shape in zip(self._losses, self.net.output_shapes, strict=True):
                loss.check_output(shape)
            batch = self._batches[plan] = bind_heads(plan.backend, plan, self._losses, targets, training)
        return batch

    def _check_batches(self, what: str, targets: Targets, batch_size: int, training: bool) -> None:
        """Plan batches of all sizes that will come, or refuse one that a layer does not take."""
        count = len(targets[0])
        for size in dict.fromkeys((min(batch_size, count), count % batch_size or batch_size)):
            try:
                with self.net.changing() if training else self.net.reading() as held:
                    self._batch(held, size, targets, training)
            except ShapeError as error:
                ends = "ends with a batch" if size != batch_size else "comes in batches"
                raise ShapeError(
                    f"the {what} of {count} images {ends} of {size} where batch_size={batch_size}: {error}"
                ) from None

    def _load(self, held: Pass, images: Arrays, targets: Targets, rows: Array, training: bool) -> Batch:
        batch = self._batch(held, len(rows), targets, training)
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
            with self.net.changing() as held:
                batch = self._load(held, images, targets, order[first : first + batch_size], training=True)
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

    def _train_batch(self, batch: Batch) -> None:
        self.steps += 1
        optimizer = self.optimizer
        try:
            with optimizer.lock:
                optimizer.turn_to(self.net)
                batch.step.run(optimizer, self.clip_value, self.clip_norm)
        except batch.plan.backend.program.GuardError:
            raise self._not_finite(batch) from None

    def _not_finite(self, batch: Batch) -> TrainingError:
        backend, store = batch.plan.backend, batch.plan.store
        problem = "a layer's state is no longer finite"
        if not isfinite(batch.loss):
            problem = f"the loss is {batch.loss}"
        elif not all(backend.all_finite(store.gradients[part]) for part in batch.plan.trained):
            problem = "a gradient is not finite"
        given = (np.isfinite(backend.download(head.targets)).all() for head in batch.heads)
        culprit = batch.plan.first_non_finite() or ("the loss itself" if all(given) else "the targets")
        when = f"epoch {self.epoch}, step {self.steps}" if self.epoch else f"step {self.steps}"
        return TrainingError(
            f"{problem} in {when}, first seen in {culprit}; the weights are those before this step, and so are "
            "running statistics: lower the learning rate or check the images."
        )

    def _evaluate(self, images: Arrays, targets: Targets, batch_size: int) -> Evaluation:
        sums, order = Sums(), np.arange(len(images[0]))
        for first in range(0, len(order), batch_size):
            with self.net.reading() as held:
                batch = self._load(held, images, targets, order[first : first + batch_size], training=False)
                batch.plan.forward()
                batch.forward()
                sums.add(batch)
        return sums.means()
