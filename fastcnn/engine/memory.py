"""How much memory a network needs, told before anything runs.

The network is planned as it would be for the batch size, on arrays that take addresses and no pages. Its kernels
are called and not started: each asks for its scratch memory first.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fastcnn.arrays import Array
from fastcnn.backend import get
from fastcnn.engine.loss_heads import Batch, bind_heads
from fastcnn.engine.plan import Plan, Workshop
from fastcnn.errors import ArgumentError, FastcnnError
from fastcnn.graph.copies import copy_without_values
from fastcnn.layers.parameters import Store
from fastcnn.losses import Loss
from fastcnn.optimizers.rules import Optimizer

if TYPE_CHECKING:
    from fastcnn.graph.graph import Graph
    from fastcnn.graph.structure import Structure

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Memory:
    """The bytes that a network holds at its peak, beside the images it is given.

    `arena` holds the values and gradients of all layers, `arrays` what layers keep beside it (winners of pooling,
    padded images), `parameters` the running statistics, too. `scratch` is what the kernels need while they run, on as
    many threads as are set. In prediction there are no gradients, no optimizer and no loss. Code and libraries come on
    top: about 180 MiB for Python, NumPy, the compiler and the kernels.
    """

    batch_size: int
    training: bool
    arena: int
    arrays: int
    scratch: int
    parameters: int
    gradients: int
    optimizer: int
    loss: int

    @property
    def total(self) -> int:
        """All of it together, in bytes."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the bytes of each part by its name."""
        names = [field.name for field in fields(self)]
        return {name: getattr(self, name) for name in names if name not in ("batch_size", "training")}

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / MEBIBYTE:.1f}" for name, size in self.parts().items() if size)
        what = "training step" if self.training else "prediction"
        return f"{what}, batch {self.batch_size}: {self.total / MEBIBYTE:.1f} MiB ({parts})"


def memory_of(
    net: Graph, batch_size: int, training: bool, optimizer: Optimizer, losses: Sequence[tuple[Loss, float]]
) -> Memory:
    """Return what a network would hold; a loss and its weight for each output."""
    try:
        return _planned(net, batch_size, training, optimizer, losses)
    except FastcnnError:
        raise
    except (OSError, OverflowError, ValueError, MemoryError) as error:  # of addresses, not of what the machine has
        raise ArgumentError(
            f"batch_size={batch_size} was given: {net!r} then needs arrays larger than this system can address "
            f"({error}); give a smaller one."
        ) from None


def _planned(
    net: Graph, batch_size: int, training: bool, optimizer: Optimizer, losses: Sequence[tuple[Loss, float]]
) -> Memory:
    twin, store = unfilled(net)
    how = twin.nodes, twin.inputs, twin.outputs, store, batch_size, net.fuse, training
    plan = Plan(*how, "parameters" if training else "nothing")
    workshop: Any = Workshop(plan.backend)
    heads: Batch | None = None
    if training:
        optimizer = copy(optimizer)
        optimizer.state = {}
        heads = bind_heads(workshop, plan, losses, targets_of(plan, losses), training)
    scratch = plan.backend.scratch_bytes(lambda: _rehearse(plan, heads, optimizer))
    state = sum(array.nbytes for arrays in store.state.values() for array in arrays.values())
    return Memory(
        batch_size=batch_size,
        training=training,
        arena=plan.arena.size,
        arrays=plan.bytes - plan.arena.size + plan.kept_bytes,
        scratch=scratch,
        parameters=store.own_values.nbytes + state,
        gradients=store.gradients.nbytes if training else 0,
        optimizer=len(optimizer.kept()) * store.own_values.nbytes if training else 0,
        loss=workshop.bytes,
    )


def unfilled(net: Graph) -> tuple[Structure, Store]:
    """Return a network's twin with parameters that have no values, and take no memory until somebody writes them."""
    twin = copy_without_values(net)
    store = Store(twin.layers, get(net.device).unwritten(), net.dtype)
    store.undrawn.clear()
    return twin, store


def targets_of(plan: Plan, losses: Sequence[tuple[Loss, float]]) -> list[Array]:
    """Return targets of no image for each output: labels where a loss has classes, otherwise numbers."""
    made = []
    for (loss, _), y in zip(losses, plan.outputs, strict=True):
        labels = loss.classes(y.shape[1:]) is not None
        made.append(np.empty((0, *y.shape[1:-1]), np.int64) if labels else np.empty((0, *y.shape[1:]), y.dtype))
    return made


def _rehearse(plan: Plan, heads: Batch | None, optimizer: Optimizer) -> None:
    if heads is None:
        plan.forward()
    else:
        heads.step.run(optimizer)
