"""What a network is made of, whatever it runs on: nodes, layers and their names, shapes, what learns.

A network also serves as a layer of others. Called on nodes, it puts its own layers there anew: both networks then hold
the same layers, and so the same parameters. In the outer network its layers are named after it: "block1.conv1".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Shape
from fastcnn.errors import ArgumentError
from fastcnn.graph.inputs import input_names
from fastcnn.graph.selection import choose_layers, node_names, unknown
from fastcnn.graph.summary import Measure, measure, table
from fastcnn.graph.topology import in_order, leading_to, name_parts, node_list
from fastcnn.layers.base import Layer
from fastcnn.layers.node import Node


class Structure(ChecksArguments):
    """The nodes from some inputs to some outputs. A block without any, made of layers, works inside networks only."""

    kind: ClassVar[str] = "graph"
    """The stem of automatic names."""

    def __init__(
        self,
        inputs: Node | Sequence[Node],
        outputs: Node | Sequence[Node],
        name: str | None = None,
    ) -> None:
        self.name = name
        self.inputs = node_list(inputs, "inputs")
        self.outputs = node_list(outputs, "outputs")
        self.nodes = in_order(self.inputs, self.outputs)
        self.input_names = input_names(self.inputs)
        self.names = name_parts([(node.block, node.layer) for node in self.nodes if node.layer is not None])

    def __call__(self, *nodes: Node) -> Any:
        """Put the network's layers on nodes of another network; return a node, or a tuple for several outputs."""
        self.check_complete()
        if len(nodes) != len(self.inputs):
            raise ArgumentError(
                f"{self!r} was called on {len(nodes)} nodes and has {len(self.inputs)} inputs: give one each."
            )
        self.check_nodes(nodes)
        made = dict(zip(self.inputs, nodes, strict=True))
        for node in self.nodes:
            if node.layer is not None:
                made[node] = node.layer(*(made[source] for source in node.inputs))
        ends = [made[node] for node in self.outputs]
        self.own_nodes(nodes, ends)
        return ends[0] if len(ends) == 1 else tuple(ends)

    def check_nodes(self, nodes: Sequence[Any]) -> None:
        """Refuse what is no node."""
        if not all(isinstance(node, Node) for node in nodes):
            raise ArgumentError(
                f"{self!r} was called on something that is no node of a graph: use its forward or predict for arrays."
            )

    def own_nodes(self, starts: Sequence[Node], ends: Sequence[Node]) -> None:
        """Let the nodes between some nodes and some others be named after this network."""
        for node in leading_to(ends, stop=starts):
            if node not in starts and node.layer is not None:
                node.block = (self, self.names[node.layer])

    def check_complete(self) -> None:
        """Refuse a block whose input shape nobody knows."""
        if not self.inputs:
            raise ArgumentError(
                f"{self!r} was made without an input_shape, and works inside another network only: give input_shape=..."
            )

    @property
    def layers(self) -> list[Layer]:
        """The layers in the order of execution, each once."""
        return list(self.names)

    @property
    def input_shapes(self) -> list[Shape]:
        """The shapes of the inputs, without the batch axis."""
        return [node.shape for node in self.inputs]

    @property
    def output_shapes(self) -> list[Shape]:
        """The shapes of the outputs, without the batch axis."""
        return [node.shape for node in self.outputs]

    @property
    def output_names(self) -> list[str]:
        """The names of the layers whose outputs are the network's."""
        inputs = dict(zip(self.inputs, self.input_names, strict=True))
        return [self.names[node.layer] if node.layer else inputs[node] for node in self.outputs]

    @property
    def parameter_count(self) -> int:
        """How many numbers the network learns."""
        return sum(layer.parameter_count for layer in self.layers)

    @property
    def trainable_count(self) -> int:
        """How many numbers training changes: those of layers that are not frozen."""
        return sum(layer.parameter_count for layer in self.layers if layer.trainable)

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Iterate over (name, layer) in the order of execution."""
        return ((name, layer) for layer, name in self.names.items())

    def node(self, name: str) -> Node:
        """Return the node of a layer by name, to build on: `Graph(net.inputs, Linear(512, 10)(net.node("avgpool")))`.

        Where a layer is used several times, "name" is its first node, "name:2" the second, and so on.

        Parameters
        ----------
        name
            A layer's name in this network.
        """
        self.check_complete()
        named = node_names(self.nodes, self.names)
        if name not in named:
            raise unknown("layer", name, list(named))
        return named[name]

    def measures(self) -> list[Measure]:
        """Return what `summary` shows, a row a node."""
        self.check_complete()
        return measure(self.nodes, self.names)

    def summary(self) -> str:
        """Return a table of output shapes, parameters, multiply-adds and receptive fields."""
        return table(self.measures(), self.parameter_count, self.trainable_count)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.layers)} layers, {self.parameter_count:,} parameters>"

    def freeze(self, *what: str | Layer | Structure) -> Self:
        """Let training leave some layers as they are, by default all, and return the network.

        Give names, prefixes ("layer1" is every layer "layer1.*"), layers or blocks of layers. Frozen parameters get no
        gradients, and optimizers change neither them nor what they keep for them. The way back ends at the first layer
        that learns, so a frozen trunk costs its forward pass only. As in PyTorch, normalizations go on tracking running
        statistics; `layer.eval()` holds these still, too. Files do not keep what was frozen.

        Parameters
        ----------
        *what
            Names, prefixes, layers or blocks of layers; all where there are none.

        >>> from fastcnn.graph.sequential import Sequential
        >>> from fastcnn.layers import Linear
        >>> net = Sequential(Linear(4, 8), Linear(8, 2), input_shape=(4,)).freeze().unfreeze("linear2")
        >>> net.trainable_count, net.parameter_count
        (18, 58)
        """
        return self._set_trainable(False, what)

    def unfreeze(self, *what: str | Layer | Structure) -> Self:
        """Let training change some layers again, by default all, and return the network.

        Parameters
        ----------
        *what
            Names, prefixes, layers or blocks of layers; all where there are none.
        """
        return self._set_trainable(True, what)

    def _set_trainable(self, value: bool, what: Sequence[str | Layer | Structure]) -> Self:
        for layer in choose_layers(dict(self.named_layers()), what):
            layer.trainable = value
        return self
