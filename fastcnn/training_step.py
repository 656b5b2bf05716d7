"""A training step as one program: forward, losses, backward, what is done to gradients, and the optimizer's update.

Two guards stand in it. Where the loss is not finite, or a gradient is not, nothing behind them runs: the weights and
the optimizer's state are those before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastcnn.arrays import Array
from fastcnn.backend import Backend, Call
from fastcnn.optimizers import Optimizer
from fastcnn.plan import Plan
from fastcnn.update import Update

COUNT = np.dtype(np.int64)
DOUBLE = np.dtype(np.float64)


class TrainingStep:
    """What a step does once its images and targets are loaded.

    Parameters
    ----------
    plan
        The passes; its way back ends at the parameters.
    middle
        The calls where forward turns into backward.
    """

    def __init__(self, plan: Plan, middle: Sequence[Call]) -> None:
        self._plan, self._middle = plan, middle
        self._limits: tuple[float | None, float | None] = None, None
        self._update: Update | None = None
        self._program: Any = None

    def run(self, optimizer: Optimizer, clip_value: float | None = None, clip_norm: float | None = None) -> None:
        """Take a step, with limits of gradients as those of a Trainer; the backend's GuardError tells of a guard."""
        update = self._ready(optimizer, (clip_value, clip_norm))
        self._plan.begin()
        self._program.run()
        update.end()

    def _ready(self, optimizer: Optimizer, limits: tuple[float | None, float | None]) -> Update:
        """Return the update with its numbers written; another one, and another program, where those do not serve."""
        update = self._update
        if update is not None and update.optimizer is optimizer and self._limits == limits and update.begin():
            return update
        plan, backend, store = self._plan, self._plan.backend, self._plan.store
        update = Update(optimizer, backend, store.own_values, store.gradients, store.decayed, plan.trained)
        update.begin()
        passes = *plan.forward_calls, *self._middle, *plan.backward_calls
        clip = clip_calls(backend, _trained_gradients(plan), *limits)
        self._program = backend.program.Program([*passes, *check_calls(plan), *clip, *update.calls])
        self._update, self._limits = update, limits
        return update


def _trained_gradients(plan: Plan) -> list[Array]:
    return [plan.store.gradients[part] for part in plan.trained]


def check_calls(plan: Plan) -> list[Call]:
    """Return the calls that stop a program where a gradient is not finite."""
    backend, parts = plan.backend, _trained_gradients(plan)
    counts = backend.zeros((len(parts),), COUNT)
    looks: list[Call] = [(backend.optimizer.non_finite, (part, counts[i : i + 1])) for i, part in enumerate(parts)]
    return [*looks, (backend.guard.stop_if_any, (counts,))]


def clip_calls(backend: Backend, parts: Sequence[Array], value: float | None, norm: float | None) -> list[Call]:
    """Return the calls that bring every gradient within a value, and then all together within a norm."""
    kernels, calls = backend.optimizer, list[Call]()
    if value is not None:
        calls += [(kernels.clamp, (part, value)) for part in parts]
    if norm is not None:
        squares, factor = backend.zeros((len(parts),), DOUBLE), backend.zeros((1,), DOUBLE)
        calls += [(kernels.square_sum, (part, squares[i : i + 1])) for i, part in enumerate(parts)]
        calls.append((kernels.norm_factor, (squares, norm, factor)))
        calls += [(kernels.shrink, (part, factor)) for part in parts]
    return calls
