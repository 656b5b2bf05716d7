"""The plans of a network that share an arena, because one of them runs at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeAlias

from fastcnn.backend import Backend
from fastcnn.engine.arena import Arena
from fastcnn.engine.plan import Plan

# Training, its last partial batch, and two for inputs of other sizes; or as many in evaluation.
PLANS_KEPT = 4

Make: TypeAlias = Callable[[Callable[[int], Arena]], Plan]
"""A maker of a plan, from a function that returns an arena of at least some bytes."""


class Plans:
    """A few plans by what they are for, those met lately, and their arena."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._arena: Arena | None = None

    def get(self, key: Hashable) -> Plan | None:
        """Return the plan for a key, if there is one."""
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
        return plan

    def add(self, key: Hashable, make: Make) -> Plan:
        """Make the plan for a key, keep it, and return it."""
        plan = self._plans[key] = make(self._arena_of)
        while len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan

    def _arena_of(self, size: int) -> Arena:
        """Return an arena of at least so many bytes; a larger one replaces the one held, and the plans on it."""
        if self._arena is None or self._arena.size < size:
            self._plans.clear()
            self._arena = None
            self._arena = Arena(self._backend, size)
        return self._arena

    def __contains__(self, plan: Plan) -> bool:
        return any(held is plan for held in list(self._plans.values()))  # others may add some
