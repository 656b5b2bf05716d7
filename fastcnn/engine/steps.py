"""The steps of a plan: nodes that one binding of kernels serves together.

A step reads the values of its `sources` and writes that of its last node, its `output`; what stands between exists
in caches and registers only. `fusion.py` chooses the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.layers.activation import Activation
from fastcnn.layers.base import UNBOUNDED, Bound, Bounds, Call, GradientSums, Layer, Statistics
from fastcnn.layers.batch_norm import ChannelNorm
from fastcnn.layers.conv import Conv
from fastcnn.layers.node import Node
from fastcnn.layers.norm import FLOAT64, GroupedNorm, new_statistics
from fastcnn.layers.pool import MaxPool
from fastcnn.layers.weighted import WeightedLayer


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

    @property
    def finishes_gradient(self) -> bool:
        """Whether the way back can add an array to the gradient by the first source, and sum it, as it fills it."""
        return self.layer.finishes_gradient

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls on these arrays."""
        return self.layer.bind(backend, xs, y, training and self.layer.training)


class Measured(Step):
    """A convolution whose kernel also takes the statistics that the batch normalization after it needs."""

    def __init__(self, node: Node, norm: ChannelNorm) -> None:
        super().__init__(node)
        self._norm = norm
        self.statistics: Statistics | None = None

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls, and make `statistics`."""
        conv, norm = self.layer, self._norm
        assert isinstance(conv, Conv)
        self.statistics = new_statistics(backend, 1, norm.num_features)
        return conv.bind_measured(backend, xs[0], y, training, norm.near_mean(backend), norm.eps, self.statistics)


class Activated(Step):
    """A convolution or linear layer, and what happens to its outputs while they are in registers or caches.

    A sum with another node, whose gradient is then what the way back leaves behind the activation; an activation
    (behind a sum, one that clips); or both.
    """

    @property
    def read_back(self) -> set[Node]:
        """The nodes whose values the way back reads."""
        return {self.sources[0], self.output} if self.activation else {self.sources[0]}

    @property
    def passes(self) -> Sequence[int]:
        """The sources whose gradient is what the way back leaves in the gradient by the output."""
        return range(1, len(self.sources))

    @property
    def activation(self) -> Activation | None:
        """The activation at the end, if there is one."""
        return self.output.layer if isinstance(self.output.layer, Activation) else None

    @property
    def bounds(self) -> Bounds:
        """Between what the activation brings its input."""
        return (self.activation and self.activation.bounds) or UNBOUNDED

    def epilogue(self, backend: Backend, xs: Sequence[Array], y: Array) -> Any:
        """Return what the kernel takes to finish its outputs."""
        if len(xs) > 1:
            return backend.activation.add_epilogue(xs[1], y, self.bounds)
        return self.activation.epilogue(backend, y.dtype) if self.activation else 0

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls; the way back takes the gradient through the activation in place, and sums it at once."""
        layer, activation = self.layer, self.activation
        assert isinstance(layer, WeightedLayer)
        inner = layer.bind(backend, xs[:1], y, training, self.epilogue(backend, xs, y))

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array], *finish: Any) -> list[Call]:
            if activation is None:
                return inner.backward(dy, dxs[:1], grads, *finish)
            if "bias" not in grads:
                through: Call = (activation.kernels(backend)[1], (y, dy, *activation.numbers(), dy))
            else:
                given = (activation.kernel, y, dy, activation.numbers(), grads["bias"])
                through = (backend.activation.backward_with_sums, given)
            others = {name: gradient for name, gradient in grads.items() if name != "bias"}
            return [through, *inner.backward(dy, dxs[:1], others, *finish)]

        return Bound(backward, inner.forward)


class Folded(Activated):
    """In prediction, a convolution or linear layer, the batch normalization after it, and what may follow.

    Weights are folded with the normalization where that is done once. In plans that do it in each pass they are where
    they are smaller than the output; else the normalization has a pass of its own, with all that follows.
    """

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls; there is no way back."""
        layer, norm = self.layer, self.nodes[1].layer
        assert isinstance(layer, WeightedLayer)
        assert isinstance(norm, ChannelNorm)
        own = None if layer.scaled is None else layer.own_params[layer.scaled]
        if own is not None and (own.size <= y.size or getattr(backend, "keeps", False)):
            weights = backend.empty(own.shape, own.dtype), backend.empty(layer.bias_shape, own.dtype)
            fold = norm.fold_call(backend, own, layer.own_params.get("bias"), *weights)
            bound = layer.bind(backend, xs[:1], y, training, self.epilogue(backend, xs, y), weights)
            return Bound(bound.backward, [fold, *bound.forward])
        bound = layer.bind(backend, xs[:1], y, training)
        after = norm.bind(backend, [y, *xs[1:]], y, training and norm.training, self.bounds)
        calls = [*bound.forward, *after.forward]
        if self.activation and not self.activation.bounds:
            calls.append((self.activation.kernels(backend)[0], (y, *self.activation.numbers(), y)))
        return Bound(bound.backward, calls)


class Pooled(Step):
    """A convolution, ReLU and max-pooling by windows side by side: the way back visits only the outputs that won."""

    finishes_gradient = False

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool) -> Bound:
        """Return the calls of one kernel each way."""
        conv, pool = self.layer, self.output.layer
        assert isinstance(conv, Conv)
        assert isinstance(pool, MaxPool)
        return conv.bind_pooled(backend, xs[0], y, pool.lead() + pool.kernel_size)


class Normalized(Step):
    """A norm, and what its kernel does to each number after it: a sum with another node, ReLU or ReLU6, or both.

    Where nothing is added, the way back finds out from the input what the activation let pass. A sum's other node takes
    over the gradient that the activation lets pass. Statistics are the norm's own, or those of a convolution before it.
    """

    def __init__(self, *nodes: Node, measured: Measured | None = None) -> None:
        super().__init__(*nodes)
        self._measured = measured
        self.summed = False  # whether the way back of the step after it sums the gradient by the output
        self.gradient_sums: GradientSums | None = None

    @property
    def takes_sums(self) -> bool:
        """Whether sums of the gradient by the output may come with it."""
        return self._measured is not None and len(self.sources) == 1

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
        layer, bounds = self.layer, self._bounds()
        assert isinstance(layer, GroupedNorm)
        if self._measured is None:
            return layer.bind(backend, xs, y, training and layer.training, bounds)
        assert isinstance(layer, ChannelNorm)
        statistics = self._measured.statistics
        assert statistics is not None
        if self.summed:
            sums = backend.zeros((2, layer.num_features), FLOAT64)
            self.gradient_sums = (xs[0], *layer.affine(backend), *statistics, layer.eps, bounds), sums
        training = training and layer.training
        return layer.bind(backend, xs, y, training, bounds, statistics, self.gradient_sums)
