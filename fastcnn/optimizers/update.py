"""The steps of an optimizer as calls on fixed arrays: the numbers that change from one to the next stand in memory.

Rates, momenta and counts may be others in every step. Kernels read them from a row of `rules`, which is written before
the calls run: so a program can repeat them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fastcnn.arrays import Array
from fastcnn.backend import Backend, Call
from fastcnn.optimizers.step_counts import Stretch, add_step

if TYPE_CHECKING:
    from fastcnn.optimizers.rules import Optimizer

Part: TypeAlias = tuple[int, int, int, float]
"""The first and last element of a stretch, the steps that it has then taken, and its weight decay."""


class Update:
    """Steps of an optimizer on flat parameters; arguments as those of `Optimizer.update`.

    `begin` prepares a step, the `calls` take it, and `end` counts it. Until then the optimizer's state is as it was.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        backend: Backend,
        values: Array,
        gradients: Array,
        decayed: int | None = None,
        trained: Sequence[slice] | None = None,
    ) -> None:
        self.optimizer, self._values, self._decayed = optimizer, values, decayed
        self._trained = [(0, values.size)] if trained is None else [(part.start, part.stop) for part in trained]
        self._is_whole = sum(stop - start for start, stop in self._trained) == values.size
        self._held = optimizer.held(values)
        self._arrays = optimizer.first_state(backend, values) if self._held is None else self._held
        self._stretches = self._next_stretches()
        parts = self._parts()
        self._bounds = [part[:2] for part in parts]
        rules = backend.zeros((len(parts), len(optimizer.rule(1, 0.0))), np.dtype(np.float64))
        self._rules, self._write = [rules[i] for i in range(len(parts))], backend.write
        kernel, none = getattr(backend.optimizer, optimizer.kernel), values[:0]
        self.calls: list[Call] = []
        for (start, stop), rule in zip(self._bounds, self._rules, strict=True):
            states = [self._arrays[name][start:stop] if name in self._arrays else none for name in optimizer.arrays]
            self.calls.append((kernel, (values[start:stop], gradients[start:stop], *states, rule)))
        self._program = backend.program.Program(self.calls)

    def begin(self) -> bool:
        """Write the numbers of the next step; say whether the calls take it, or those of another Update would."""
        if self._goes_on():
            return True
        self._stretches = self._next_stretches()
        parts = self._parts()
        if [part[:2] for part in parts] != self._bounds or not _same(self.optimizer.held(self._values), self._held):
            return False
        for rule, (_, _, steps, decay) in zip(self._rules, parts, strict=True):
            self._write(rule, self.optimizer.rule(steps, decay))
        return True

    def _goes_on(self) -> bool:
        """Do what `begin` does, where one stretch of all values takes a step more with the state of the last one."""
        optimizer, state = self.optimizer, self.optimizer.state
        if self._held is None or not self._is_whole or len(self._bounds) != 1 or "taken" in state:
            return False
        spares = self._decayed is not None and optimizer.weight_decay and not optimizer.decay_bias
        if spares or len(state) != len(self._held) + 1 or any(name not in self._held for name in optimizer.kept()):
            return False
        for name, array in self._held.items():
            if state.get(name) is not array:
                return False
        steps = int(state["step"]) + 1
        self._stretches = [((0, self._values.size, steps), True)]
        self._write(self._rules[0], optimizer.rule(steps, optimizer.weight_decay))
        return True

    def end(self) -> None:
        """Count the step that was taken."""
        state = self.optimizer.state
        if self._held is None:
            state.clear()
            state.update(self._arrays, step=np.zeros((), np.int64))
            self._held = self._arrays
        state["step"] += 1
        if not self._is_whole or "taken" in state:
            state["taken"] = np.array([row for row, _ in self._stretches], np.int64).reshape(-1, 3)

    def run(self) -> None:
        """Take a step by itself."""
        self.begin()
        self._program.run()
        self.end()

    def _next_stretches(self) -> list[tuple[Stretch, bool]]:
        """Return the stretches and the steps that they will have taken, and whether each takes the next one.

        Parameters that were frozen for a while have taken fewer steps than others: the corrections of their running
        means, and what a rule does in the first step, follow their own count, as in PyTorch.
        """
        size, steps = self._values.size, self.optimizer.steps if self._held is not None else 0
        taken = self.optimizer.state.get("taken") if self._held is not None else None
        if self._is_whole and taken is None:
            return [((0, size, steps + 1), True)]
        before = [(0, size, steps)] if taken is None else [(int(a), int(b), int(n)) for a, b, n in taken]
        return add_step(before, self._trained)

    def _parts(self) -> list[Part]:
        """Cut the stretches that take the step where weight decay ends."""
        optimizer = self.optimizer
        spares = self._decayed is not None and optimizer.weight_decay and not optimizer.decay_bias
        parts: list[Part] = []
        for (start, stop, steps), takes in self._stretches:
            middle = min(max(start, self._decayed), stop) if spares and self._decayed is not None else stop
            for first, last, decay in ((start, middle, optimizer.weight_decay), (middle, stop, 0.0)):
                if takes and first < last:
                    parts.append((first, last, steps, decay))
        return parts


def _same(held: dict[str, Array] | None, before: dict[str, Array] | None) -> bool:
    """Say whether two states are none, or the same arrays."""
    if held is None or before is None:
        return held is before
    return held.keys() == before.keys() and all(held[name] is before[name] for name in held)
