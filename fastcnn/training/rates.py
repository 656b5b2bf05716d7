"""Learning rate and momentum during training: what a schedule is told, and when."""

from __future__ import annotations

from math import inf

from fastcnn.errors import ArgumentError
from fastcnn.optimizers.rules import Optimizer
from fastcnn.schedules import Moment, Schedule
from fastcnn.training.history import EpochRecord


class Rates:
    """The learning rates and momenta of one `fit`, by a schedule, if there is one."""

    def __init__(self, optimizer: Optimizer, schedule: Schedule | None, epochs: int, per_epoch: int) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.first, self.first_momentum = optimizer.lr, optimizer.momentum
        self.record: EpochRecord | None = None
        self.step, self.epochs, self.per_epoch = 0, epochs, per_epoch
        if schedule is not None:
            schedule.start()

    def before_epoch(self, done: int) -> None:
        """Set the rate of an epoch."""
        if self.schedule is not None and self.schedule.by == "epoch":
            self._set(self.schedule, Moment(done, self.epochs, 1, self.record, self.first))

    def before_step(self) -> None:
        """Set the rate of a step."""
        if self.schedule is not None and self.schedule.by == "step":
            steps = self.epochs * self.per_epoch
            self._set(self.schedule, Moment(self.step, steps, self.per_epoch, self.record, self.first))
            self.record = None
            self.step += 1

    def _set(self, schedule: Schedule, moment: Moment) -> None:
        try:
            lr = self.first * schedule.at(moment)
        except OverflowError:
            lr = inf
        if not 0 <= lr < inf:
            raise ArgumentError(
                f"{type(schedule).__name__} gives the learning rate {lr} when {moment.step} of {moment.steps} "
                f"{schedule.by}s are done: let its factor be a finite number >= 0."
            )
        self.optimizer.lr = lr
        if schedule.cycle_momentum:
            self.optimizer.momentum = schedule.momentum_at(moment)

    def restore(self) -> None:
        """Give the optimizer its first rate and momentum back."""
        if self.schedule is None:
            return
        self.optimizer.lr = self.first
        if self.schedule.cycle_momentum:
            self.optimizer.momentum = self.first_momentum


def check_momentum(schedule: Schedule | None, optimizer: Optimizer) -> None:
    """Refuse a schedule that sets the momentum of an optimizer without one."""
    if schedule is not None and schedule.cycle_momentum and optimizer.momentum is None:
        raise ArgumentError(
            f"the schedule cycles the momentum, and {type(optimizer).__name__} has none: "
            "give OneCycle(cycle_momentum=False)."
        )


def check_metric(metric: str | None, validates: bool, classifies: bool) -> None:
    """Refuse a schedule that watches what no epoch will tell."""
    if metric is None:
        return
    if metric not in ("loss", "accuracy", "val_loss", "val_accuracy"):
        raise ArgumentError(f"the schedule watches {metric!r}: choose loss, accuracy, val_loss or val_accuracy.")
    if metric.startswith("val_") and not validates:
        raise ArgumentError(f"the schedule watches {metric}, and there is no validation data: give some to fit.")
    if metric.endswith("accuracy") and not classifies:
        raise ArgumentError(f"the schedule watches {metric}, and the loss has no classes: let it watch a loss.")
