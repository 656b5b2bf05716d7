"""A training step as one program: forward, losses, backward, what is done to gradients, and the optimizer's update.

Three guards stand in it. Where the loss is not finite, or a gradient is not, or a layer's state would no longer be,
nothing behind them runs: the weights and the optimizer's state are those before the step. The passes have moved the
layers' states by then (running statistics, what dropout counts). So copies are taken first, and brought back where a
step fails or is interrupted before its end; the step itself notes how far it has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastcnn.arrays import Array
from fastcnn.backend import Backend, Call
from fastcnn.engine.plan import Plan
from fastcnn.optimizers.rules import Optimizer
from fastcnn.optimizers.update import Update

COUNT = np.dtype(np.int64)
DOUBLE = np.dtype(np.float64)
KEPT, ENDED = range(2)  # what a step has come to: the states are kept, the update is done
NOWHERE = (0, 0)


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
        self._states = _States(plan)
        self._reached, self._one = plan.backend.zeros((2,), COUNT), plan.backend.from_host(np.ones(1, COUNT))

    def run(self, optimizer: Optimizer, clip_value: float | None = None, clip_norm: float | None = None) -> None:
        """Take a step, with limits of gradients as those of a Trainer; the backend's GuardError tells of a guard."""
        update = self._ready(optimizer, (clip_value, clip_norm))
        self._plan.begin()
        self._plan.backend.write(self._reached, NOWHERE)
        try:
            self._program.run()
        except BaseException:  # an interrupt may come before the first call or behind the last one
            reached = self._plan.backend.read(self._reached)
            if reached[ENDED]:
                update.end()
            elif reached[KEPT]:
                self._states.bring_back()
            raise
        update.end()

    def _ready(self, optimizer: Optimizer, limits: tuple[float | None, float | None]) -> Update:
        """Return the update with its numbers written; another one, and another program, where those do not serve."""
        update = self._update
        if update is not None and update.optimizer is optimizer and self._limits == limits and update.begin():
            return update
        plan, backend, store = self._plan, self._plan.backend, self._plan.store
        update = Update(optimizer, backend, store.own_values, store.gradients, store.decayed, plan.trained)
        update.begin()
        states = self._states
        before = states.keep_calls()
        if before:
            before.append(self._note(KEPT))
        passes = *plan.forward_calls, *self._middle, *plan.backward_calls
        checks = *check_calls(plan), *states.check_calls()
        clip = clip_calls(backend, _trained_gradients(plan), *limits)
        calls = *before, *passes, *checks, *clip, *update.calls, self._note(ENDED)
        self._program = backend.program.Program(calls)
        self._update, self._limits = update, limits
        return update

    def _note(self, place: int) -> Call:
        """Return the call that notes that a step has come to a place."""
        return self._plan.backend.program.keep, ([self._one], self._reached[place : place + 1])


class _States:
    """The states of a plan's layers as they were before a step."""

    def __init__(self, plan: Plan) -> None:
        self._backend = plan.backend
        self._arrays = [array for layer in plan.layers for array in plan.store.state[layer].values()]
        self._kept = plan.backend.empty((sum(array.size for array in self._arrays),), plan.store.dtype)

    def keep_calls(self) -> list[Call]:
        """Return the calls that take the copies."""
        return [(self._backend.program.keep, (self._arrays, self._kept))] if self._arrays else []

    def check_calls(self) -> list[Call]:
        """Return the calls that stop a program where a state was finite, and is no longer."""
        return [(self._backend.program.stop_if_spoilt, (self._arrays, self._kept))] if self._arrays else []

    def bring_back(self) -> None:
        """Make the states what they were."""
        start = 0
        for array in self._arrays:
            stop = start + array.size
            self._backend.copy(self._kept[start:stop].reshape(array.shape), array)
            start = stop


def _trained_gradients(plan: Plan) -> list[Array]:
    return [plan.store.gradients[part] for part in plan.trained]


def check_calls(plan: Plan) -> list[Call]:
    """Return the calls that stop a program where a gradient is not finite."""
    backend, parts = plan.backend, _trained_gradients(plan)
    counts = backend.zeros((len(parts),), COUNT)
    looks: list[Call] = [(backend.optimizer.non_finite, (part, counts[i : i + 1])) for i, part in enumerate(parts)]
    return [*looks, (backend.program.stop_if_any, (counts,))]


def clip_calls(backend: Backend, parts: Sequence[Array], value: float | None, norm: float | None) -> list[Call]:
    """Return the calls that bring every gradient within a value, and then all together within a norm."""
    kernels, calls = backend.optimizer, list[Call]()
    if value is not None:
        calls += [(kernels.clamp, (part, value)) for part in parts]
    if norm is not None:
        squares, scaled, factor = (backend.zeros((size,), DOUBLE) for size in (len(parts), len(parts), 2))
        for i, part in enumerate(parts):
            calls.append((kernels.square_sum, (part, squares[i : i + 1], scaled[i : i + 1])))
        calls.append((kernels.norm_factor, (squares, norm, factor, scaled)))
        calls += [(kernels.shrink, (part, factor)) for part in parts]
    return calls
