"""Kernels compiled before anything needs them: those of a network, for batches of any size.

The network is planned on arrays that take addresses and no pages, as in `memory.py`. Its kernels are called and not
started: each is compiled, with what its shapes ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from fastcnn.engine.liveness import Returns
from fastcnn.engine.loss_heads import bind_heads
from fastcnn.engine.memory import targets_of, unfilled
from fastcnn.engine.plan import Plan
from fastcnn.errors import ShapeError
from fastcnn.losses import CrossEntropy, Loss, MeanSquaredError
from fastcnn.optimizers.rules import SGD, Adagrad, Adam, Optimizer, RMSprop

if TYPE_CHECKING:
    from fastcnn.graph.graph import Graph
    from fastcnn.graph.structure import Structure

OPTIMIZERS: tuple[Optimizer, ...] = (SGD(0.1), Adam(), RMSprop(), Adagrad())  # one for each kernel, tried once

# Kernels change with the batch where its work passes some size: the small batches, and from there on two for each
# doubling, on either side of the powers of two, where most of these sizes lie.
SMALL, LARGEST = 8, 1024
BATCH_SIZES = (
    *range(1, SMALL + 1),
    *(size + more for k in range(4, 11) for size in (1 << k, 3 << k - 1) for more in (0, 1) if size + more <= LARGEST),
)


def prepare(net: Graph, batch_sizes: Sequence[int] = BATCH_SIZES) -> None:
    """Compile the kernels of training, evaluation and prediction; the network stays as it is.

    Training is that by CrossEntropy (MeanSquaredError where there are several outputs) under any optimizer and limit
    of gradients.

    >>> from fastcnn import models
    >>> prepare(models.lenet5().to("reference"))  # NumPy needs nothing
    """
    twin, store = unfilled(net)

    def plan(batch_size: int, training: bool, returns: Returns) -> Plan:
        return Plan(twin.nodes, twin.inputs, twin.outputs, store, batch_size, net.fuse, training, returns)

    for batch_size in batch_sizes:
        optimizers = OPTIMIZERS if batch_size == max(batch_sizes[:SMALL]) else OPTIMIZERS[:1]
        # A batch may be too small for statistics, or too large for the addresses that the system lends.
        with suppress(ShapeError, MemoryError, OSError):
            _prepare_evaluation(twin, plan(batch_size, False, "nothing"))
            _prepare_training(twin, plan(batch_size, True, "parameters"), optimizers)
            passes = plan(batch_size, True, "inputs")
            passes.backend.prepare(passes.forward)
            passes.backend.prepare(passes.backward)


def _losses(net: Structure) -> list[tuple[Loss, float]]:
    return [(CrossEntropy() if len(net.outputs) == 1 else MeanSquaredError(), 1.0) for _ in net.outputs]


def _prepare_training(net: Structure, plan: Plan, optimizers: Sequence[Optimizer]) -> None:
    losses = _losses(net)
    heads = bind_heads(plan.backend, plan, losses, targets_of(plan, losses), True)
    for optimizer in optimizers:
        plan.backend.prepare(partial(heads.step.run, copy(optimizer), 1.0, 1.0))


def _prepare_evaluation(net: Structure, plan: Plan) -> None:
    losses = _losses(net)
    heads = bind_heads(plan.backend, plan, losses, targets_of(plan, losses), False)
    plan.backend.prepare(plan.forward)
    plan.backend.prepare(heads.forward)
    plan.backend.prepare(heads.count)
