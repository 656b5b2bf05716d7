"""Plans: a graph lowered to lists of bound kernel calls on arrays that are allocated once.

A Plan serves one batch size. Making it walks the nodes in order, gives each an array, and collects
its forward calls; running it runs the list. An activation that is the only reader of a convolution or
linear layer runs inside that layer's kernel. `plan.backward` makes the list of the way back when it
is first wanted. A max-pooling that alone reads a ReLU there joins them where its windows stand side by
side: its backward pass then visits only the outputs that won.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ShapeError
from fastcnn.layers.activation import Activation, ReLU
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.layers.conv import Conv
from fastcnn.layers.pool import MaxPool
from fastcnn.layers.weighted import WeightedLayer
from fastcnn.node import Node
from fastcnn.parameters import Store


def run(calls: Sequence[Call]) -> None:
    """Run bound calls in order; what overflows becomes infinite without a warning, for the trainer to find."""
    with np.errstate(over="ignore", invalid="ignore"):
        for function, arguments in calls:
            function(*arguments)


class Plan:
    """The forward pass of some nodes for one batch size; `inputs` and `outputs` are its own arrays.

    `training` is handed to the layers: some do another thing then.
    `nodes` stand in an order in which every node follows its inputs.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Node],
        outputs: Sequence[Node],
        store: Store,
        batch: int,
        fuse: bool,
        training: bool,
        returns: bool = True,
    ) -> None:
        self.nodes, self.input_nodes, self.output_nodes = nodes, inputs, outputs
        self.store, self.backend, self.batch, self.training = store, store.backend, batch, training
        self.fused = fused_chains(nodes, outputs, batch, self.backend, returns) if fuse else {}
        self.absorbed = {node for chain in self.fused.values() for node in chain}
        self.values: dict[Node, Array] = {}
        self.bound: dict[Node, Bound] = {}
        self.generation = 0
        self._calls: list[Call] = []
        self._backward: dict[bool, BackwardPlan] = {}
        for node in nodes:
            self._add(node)
        self.inputs = [self.values[node] for node in inputs]
        self.outputs = [self.values[node] for node in outputs]

    def _add(self, node: Node) -> None:
        layer = node.layer
        if node in self.absorbed:
            return
        if layer is None:
            self.values[node] = self.backend.empty((self.batch, *node.shape), self.store.dtype)
            return
        chain = self.fused.get(node, ())
        last = chain[-1] if chain else node
        shape = (self.batch, *last.shape)
        xs = [self.values[source] for source in node.inputs]
        is_view = layer.is_view_when(self.training)
        y = xs[0].reshape(shape) if is_view else self.backend.empty(shape, self.store.dtype)
        self.values[last] = y
        self.bound[node] = self._bind(layer, xs, y, chain)
        self._calls += self.bound[node].forward

    def _bind(self, layer: Layer, xs: list[Array], y: Array, chain: Sequence[Node]) -> Bound:
        if not chain:
            return layer.bind(self.backend, xs, y, self.training)
        pool = chain[-1].layer
        if isinstance(pool, MaxPool):
            assert isinstance(layer, Conv)
            return layer.bind_pooled(self.backend, xs[0], y, pool.lead() + pool.kernel_size)
        activation = chain[-1].layer
        assert isinstance(layer, WeightedLayer)
        assert isinstance(activation, Activation)
        return layer.bind(self.backend, xs, y, self.training, activation.epilogue(self.backend, y.dtype))

    def serves(self, batch: int, shapes: Sequence[Shape], training: bool) -> bool:
        """Say whether the plan is one for this batch size, these input shapes and this mode."""
        return (batch, training) == (self.batch, self.training) and [node.shape for node in self.input_nodes] == list(
            shapes
        )

    def load(self, arrays: Sequence[Array]) -> None:
        """Copy arrays of fitting shapes into the inputs, cast to the plan's dtype."""
        for array, own in zip(arrays, self.inputs, strict=True):
            self.backend.copy(array, own)

    def forward(self) -> None:
        """Fill the outputs from the inputs."""
        self.generation += 1
        run(self._calls)

    def backward(self, inputs: bool) -> BackwardPlan:
        """Return the way back; with `inputs` it also fills the gradients by the inputs."""
        if inputs not in self._backward:
            self._backward[inputs] = BackwardPlan(self, inputs)
        return self._backward[inputs]

    def first_non_finite(self) -> str | None:
        """Return what first holds an infinity or NaN: the input, or a layer by its label."""
        for node in self.nodes:
            if node in self.values and not self.backend.all_finite(self.values[node]):
                if node.layer is None:
                    return "the input"
                source = next((s for s, chain in self.fused.items() if node in chain), node)
                return f"the output of {_label(source)}"
        for layer in dict.fromkeys(node.layer for node in self.nodes if node.layer):
            for name, gradient in layer.grads.items():
                if not self.backend.all_finite(gradient):
                    return f"the gradient of {name} in {layer.label}"
        return None


class BackwardPlan:
    """The backward pass of a plan: from `output_gradients` to all other gradients.

    A node that several others read adds up their gradients, the last reader's first. A layer that
    stands at several nodes adds up their parameter gradients in the same order.
    """

    def __init__(self, plan: Plan, inputs: bool) -> None:
        self.plan = plan
        self._calls: list[Call] = []
        self._gradients: dict[Node, Array] = {}
        self._filled: set[Layer] = set()
        for node in plan.output_nodes:
            self._gradients[node] = self._empty(node)
        self.output_gradients = [self._gradients[node] for node in plan.output_nodes]
        self._needed = needed_gradients(plan.nodes, inputs)
        for node in reversed(plan.nodes):
            if node.layer is not None and node not in plan.absorbed:
                self._add(node, node.layer)
        self.input_gradients: list[Array] = []
        if inputs:
            self.input_gradients = [self._gradients[node] for node in plan.input_nodes]

    def _empty(self, node: Node) -> Array:
        return self.plan.backend.empty((self.plan.batch, *node.shape), self.plan.store.dtype)

    def _add(self, node: Node, layer: Layer) -> None:
        backend, chain = self.plan.backend, self.plan.fused.get(node, ())
        if node not in self._needed:
            return
        last = chain[-1] if chain else node
        dy = self._gradients[last]
        if isinstance(last.layer, Activation) and chain:
            _, backward_input = last.layer.kernels(backend)
            self._calls.append((backward_input, (self.plan.values[last], dy, *last.layer.numbers(), dy)))
        is_view = layer.is_view_when(self.plan.training)
        if is_view and node.inputs[0] not in self._gradients:
            source = node.inputs[0]
            self._gradients[source] = dy.reshape((self.plan.batch, *source.shape))
            return
        self._add_calls(node, layer, dy)

    def _add_calls(self, node: Node, layer: Layer, dy: Array) -> None:
        backend, is_view = self.plan.backend, layer.is_view_when(self.plan.training)
        passes = layer.passes_gradient
        targets: list[Array | None] = []
        sums: list[Call] = []
        for source in node.inputs:
            if source not in self._needed:
                targets.append(None)
            elif source not in self._gradients and passes:
                # Nobody reads dy after this layer: one source takes it over, and the others get copies.
                self._gradients[source], passes = dy, False
                targets.append(None)
            elif source not in self._gradients:
                self._gradients[source] = self._empty(source)
                targets.append(self._gradients[source])
            else:
                total = self._gradients[source]
                part = dy.reshape(total.shape) if is_view else self._empty(source)
                targets.append(part)
                sums.append((backend.join.add_forward, ((total, part), total)))
        grads = layer.grads
        if layer in self._filled:
            grads = {name: backend.empty(g.shape, g.dtype) for name, g in grads.items()}
            sums += [(backend.add, (g, grads[name], g)) for name, g in layer.grads.items()]
        self._filled.add(layer)
        self._calls += self.plan.bound[node].backward(dy, targets, grads) + sums

    def load(self, gradients: Sequence[Array]) -> None:
        """Copy gradients by the outputs in, or refuse those of other shapes."""
        if len(gradients) != len(self.output_gradients):
            raise ShapeError(
                f"backward got {len(gradients)} gradients, outputs: {len(self.output_gradients)}; give one for each."
            )
        for gradient, own in zip(gradients, self.output_gradients, strict=True):
            if gradient.shape != own.shape:
                raise ShapeError(
                    f"backward got a gradient of shape {gradient.shape}, and the output has shape "
                    f"{own.shape}: give one of that shape."
                )
            self.plan.backend.copy(gradient, own)

    def run(self) -> None:
        """Fill all gradients from the output gradients, which are overwritten."""
        run(self._calls)


def fused_chains(
    nodes: Sequence[Node], outputs: Sequence[Node], batch: int, backend: Backend, returns: bool
) -> dict[Node, list[Node]]:
    """Return {convolution or linear node: the nodes after it that its kernel can take over}.

    Where a way back is wanted (`returns`), only functions whose gradient needs their output alone are taken over.
    """
    readers: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for source in node.inputs:
            readers[source].append(node)

    def only_reader(node: Node) -> Node | None:
        alone = len(readers[node]) == 1 and node not in outputs
        return readers[node][0] if alone else None

    fused = {}
    for node in nodes:
        after = only_reader(node) if isinstance(node.layer, WeightedLayer) else None
        if after is None or not isinstance(after.layer, Activation) or not after.layer.pointwise:
            continue
        if returns and not after.layer.keeps_output:
            continue
        pool = only_reader(after) if isinstance(after.layer, ReLU) else None
        joins = pool is not None and _joins_pool(node, pool, batch, backend)
        fused[node] = [after, pool] if pool is not None and joins else [after]
    return fused


def _joins_pool(node: Node, pool: Node, batch: int, backend: Backend) -> bool:
    conv, layer = node.layer, pool.layer
    if not isinstance(conv, Conv) or not isinstance(layer, MaxPool) or not layer.tiles_image():
        return False
    padded = [size + sum(pair) for size, pair in zip(node.inputs[0].shape, conv.pairs, strict=False)]
    suits = backend.conv_pool.suits(batch, prod(padded) * conv.in_channels, prod(layer.kernel_size))
    return conv.groups == 1 and bool(suits)


def needed_gradients(nodes: Sequence[Node], inputs: bool) -> set[Node]:
    """Return the nodes whose gradient leads to a parameter or, with `inputs`, to an input."""
    needed: set[Node] = set()
    for node in nodes:
        own = inputs if node.layer is None else bool(node.layer.parameter_shapes())
        if own or any(source in needed for source in node.inputs):
            needed.add(node)
    return needed


def _label(node: Node) -> str:
    return node.layer.label if node.layer else repr(node)
