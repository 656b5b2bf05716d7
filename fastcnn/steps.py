"""The steps of a plan: nodes that one binding of kernels serves together.

A step reads the values of its `sources` and writes that of its last node, its `output`; what stands between exists
in caches and registers only. `fusion.py` chooses the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.layers.activation import Activation
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.layers.conv import Conv
from fastcnn.layers.norm import UNBOUNDED, Bounds, GroupedNorm
from fastcnn.layers.pool import MaxPool
from fastcnn.layers.weighted import WeightedLayer
from fastcnn.node import Node


class Step:
    """A node by itself, and what all steps have in common."""

    def __init__(self, *nodes: Node) -> None:
        inside = set(nodes)
        self.nodes = nodes
        self.sources = tuple(source for node in nodes for source in node.inputs if source not in inside)
        self.output = nodes[-1]

    @property
    def layer(self) -> Layer:
        """The layer whose parameters the step uses."""
        layer = self.nodes[0].layer
        assert layer is not None
        return layer

    @property
    def label(self) -> str:
        """The step in an error."""
        return self.layer.label

    def is_view(self, training: bool) -> bool:
        """Say whether the output is the source, under another shape."""
        return self.layer.is_view_when(training and self.layer.training)

    @property
    def read_back(self) -> set[Node]:
        """The nodes whose values the way back reads."""
        sources = self.sources if "x" in self.layer.reads_back else ()
        return {*sources, self.output} if "y" in self.layer.reads_back else {*sources}

    @property
    def in_place(self) -> bool:
        """Whether the output may take the place of the first source, and its gradient that of the output's."""
        return self.layer.in_place

    @property
    def passes(self) -> Sequence[int]:
        """The sources whose gradient is what the way back leaves in the gradient by the output."""
        return range(len(self.sources)) if self.layer.passes_gradient else ()

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls on these arrays."""
        return self.layer.bind(backend, xs, y, training and self.layer.training)


class Activated(Step):
    """A convolution or linear layer, and the activation of its outputs while they are in registers or caches."""

    @property
    def read_back(self) -> set[Node]:
        """The nodes whose values the way back reads."""
        return {*self.sources, self.output}

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls; the way back takes the gradient through the activation in place."""
        layer, activation = self.layer, self.output.layer
        assert isinstance(layer, WeightedLayer)
        assert isinstance(activation, Activation)
        inner = layer.bind(backend, xs, y, training, activation.epilogue(backend, y.dtype))
        _, through = activation.kernels(backend)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [(through, (y, dy, *activation.numbers(), dy)), *inner.backward(dy, dxs, grads)]

        return Bound(backward, inner.forward)


class Pooled(Step):
    """A convolution, ReLU and max-pooling by windows side by side: the way back visits only the outputs that won."""

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls of one kernel each way."""
        conv, pool = self.layer, self.output.layer
        assert isinstance(conv, Conv)
        assert isinstance(pool, MaxPool)
        return conv.bind_pooled(backend, xs[0], y, pool.lead() + pool.kernel_size)


class Normalized(Step):
    """A norm, and what its kernel does to each number after it: a sum with another node, ReLU or ReLU6, or both.

    Where nothing is added, the way back finds out from the input what the activation let pass. A sum's other node takes
    over the gradient that the activation lets pass.
    """

    @property
    def read_back(self) -> set[Node]:
        """The nodes whose values the way back reads."""
        x, *residual = self.sources
        return {x, self.output} if residual and self._bounds() != UNBOUNDED else {x}

    @property
    def passes(self) -> Sequence[int]:
        """The sources whose gradient is what the way back leaves in the gradient by the output."""
        return range(1, len(self.sources))

    def _bounds(self) -> Bounds:
        return getattr(self.output.layer, "bounds", None) or UNBOUNDED

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls."""
        assert isinstance(self.layer, GroupedNorm)
        return self.layer.bind(backend, xs, y, training and self.layer.training, self._bounds())
