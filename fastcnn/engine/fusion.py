"""Which nodes of a graph one step of a plan serves together."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fastcnn.backend import Backend, Fused
from fastcnn.engine.steps import Activated, Folded, Measured, Normalized, Pooled, Step
from fastcnn.layers.activation import Activation, ReLU
from fastcnn.layers.batch_norm import ChannelNorm
from fastcnn.layers.conv import Conv
from fastcnn.layers.join import Add
from fastcnn.layers.node import Node
from fastcnn.layers.norm import GroupedNorm
from fastcnn.layers.pool import MaxPool
from fastcnn.layers.weighted import WeightedLayer


class Fusion:
    """The rules, for one batch size; `needed` are the nodes that the way back goes through."""

    def __init__(
        self,
        nodes: Sequence[Node],
        outputs: Sequence[Node],
        batch: int,
        backend: Backend,
        training: bool,
        needed: set[Node],
    ) -> None:
        self._nodes, self._outputs, self._batch, self._backend, self._needed = nodes, outputs, batch, backend, needed
        self._training, self._fuses = training, backend.fuses
        self._taken: set[Node | None] = set()
        self._measured: dict[Node, Measured] = {}
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
        nodes = [node]
        norm = self._only_reader(node)
        if norm is not None and Fused.FOLDED_NORM in self._fuses and self._folds(norm):
            nodes.append(norm)
        adds = Fused.RESIDUAL in self._fuses and self._take_sum(nodes)
        after = self._only_reader(nodes[-1]) if Fused.ACTIVATION in self._fuses else None
        if after is not None and isinstance(after.layer, Activation) and self._finishes(after, adds):
            nodes.append(after)
        if isinstance(nodes[1:] and nodes[1].layer, ChannelNorm):
            return Folded(*(one for one in nodes if one not in self._needed))  # the way back to a shortcut is not its
        pools = Fused.POOL in self._fuses and isinstance(nodes[-1].layer, ReLU) and not adds
        pool = self._only_reader(nodes[-1]) if pools else None
        if pool is not None and self._joins_pool(node, pool):
            return Pooled(*nodes, pool)
        return Activated(*nodes) if len(nodes) > 1 else self._alone(node)

    def _alone(self, node: Node) -> Step:
        """Return the step of a convolution or linear layer that finishes nothing else, but may measure its outputs."""
        norms = [reader.layer for reader in self._readers[node] if isinstance(reader.layer, ChannelNorm)]
        measuring = [norm for norm in norms if norm.measures(self._training and norm.training)]
        if not measuring or not isinstance(node.layer, Conv) or Fused.STATISTICS not in self._fuses:
            return Step(node)
        self._measured[node] = Measured(node, measuring[0])
        return self._measured[node]

    def _folds(self, norm: Node) -> bool:
        """Say whether a node is a normalization by running statistics that no way back goes through."""
        if not isinstance(norm.layer, ChannelNorm) or not norm.layer.tracks or norm in self._needed:
            return False
        return not (self._training and norm.layer.training)

    def _finishes(self, after: Node, adds: bool) -> bool:
        """Say whether a node's activation can run on outputs that a kernel has just finished, or added up."""
        activation = after.layer
        assert isinstance(activation, Activation)
        known = activation.bounds is not None if adds else activation.pointwise
        return known and (after not in self._needed or activation.reads_back == "y")

    def _take_sum(self, nodes: list[Node]) -> bool:
        """Append the sum of two that alone reads the last node, if there is one; say so."""
        total = self._only_reader(nodes[-1])
        if total is None or not isinstance(total.layer, Add) or len(total.inputs) != 2:
            return False
        nodes.append(total)
        return True

    def _normalized(self, node: Node) -> Step:
        nodes = [node]
        if Fused.NORM_RESIDUAL in self._fuses:
            self._take_sum(nodes)
        clip = self._only_reader(nodes[-1]) if Fused.NORM_ACTIVATION in self._fuses else None
        if clip is not None and getattr(clip.layer, "bounds", None):
            nodes.append(clip)
        norm = node.layer
        measures = isinstance(norm, ChannelNorm) and norm.measures(self._training and norm.training)
        return Normalized(*nodes, measured=self._measured.get(node.inputs[0]) if measures else None)

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
