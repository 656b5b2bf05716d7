"""Which nodes of a graph one step of a plan serves together."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fastcnn.backend import Backend
from fastcnn.layers.activation import Activation, ReLU
from fastcnn.layers.conv import Conv
from fastcnn.layers.join import Add
from fastcnn.layers.norm import GroupedNorm
from fastcnn.layers.pool import MaxPool
from fastcnn.layers.weighted import WeightedLayer
from fastcnn.node import Node
from fastcnn.steps import Activated, Normalized, Pooled, Step


class Fusion:
    """The rules, for one batch size; `needed` are the nodes that the way back goes through."""

    def __init__(
        self, nodes: Sequence[Node], outputs: Sequence[Node], batch: int, backend: Backend, needed: set[Node]
    ) -> None:
        self._nodes, self._outputs, self._batch, self._backend, self._needed = nodes, outputs, batch, backend, needed
        self._taken: set[Node | None] = set()
        self._readers: dict[Node, list[Node]] = {node: [] for node in nodes}
        for node in nodes:
            for source in node.inputs:
                self._readers[source].append(node)

    def steps(self) -> list[Step]:
        """Return the steps in the order of their last nodes."""
        steps: list[Step] = []
        for node in self._nodes:
            if node.layer is not None and node not in self._taken:
                steps.append(self._step(node))
                self._taken.update(steps[-1].nodes)
        places = {node: place for place, node in enumerate(self._nodes)}
        return sorted(steps, key=lambda step: places[step.output])

    def _step(self, node: Node) -> Step:
        if isinstance(node.layer, WeightedLayer):
            return self._weighted(node)
        if isinstance(node.layer, GroupedNorm):
            return self._normalized(node)
        return Step(node)

    def _weighted(self, node: Node) -> Step:
        after = self._only_reader(node)
        if after is None or not isinstance(after.layer, Activation) or not after.layer.pointwise:
            return Step(node)
        if node in self._needed and after.layer.reads_back != "y":
            return Step(node)
        pool = self._only_reader(after) if isinstance(after.layer, ReLU) else None
        if pool is not None and self._joins_pool(node, pool):
            return Pooled(node, after, pool)
        return Activated(node, after)

    def _normalized(self, node: Node) -> Step:
        nodes = [node]
        total = self._only_reader(node)
        if total is not None and isinstance(total.layer, Add) and len(total.inputs) == 2:
            nodes.append(total)
        clip = self._only_reader(nodes[-1])
        if clip is not None and getattr(clip.layer, "bounds", None):
            nodes.append(clip)
        return Normalized(*nodes)

    def _only_reader(self, node: Node) -> Node | None:
        alone = len(self._readers[node]) == 1 and node not in self._outputs
        reader = self._readers[node][0] if alone else None
        return None if reader in self._taken else reader

    def _joins_pool(self, node: Node, pool: Node) -> bool:
        conv, layer = node.layer, pool.layer
        if not isinstance(conv, Conv) or not isinstance(layer, MaxPool) or not layer.tiles_image():
            return False
        if node in self._needed and not conv.learns:
            return False  # the kernel's way back always sums the weight gradient
        padded = [size + sum(pair) for size, pair in zip(node.inputs[0].shape, conv.pairs, strict=False)]
        elements = prod(padded) * conv.in_channels
        suits = self._backend.conv_pool.suits(self._batch, elements, prod(conv.weight_shape), prod(layer.kernel_size))
        return conv.groups == 1 and bool(suits)
