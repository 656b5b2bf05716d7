"""Networks that are a chain of layers, and blocks of layers for other networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard, overload

from fastcnn.errors import ArgumentError
from fastcnn.graph.graph import Graph
from fastcnn.graph.topology import Block, name_layers, name_parts
from fastcnn.layers.base import Layer
from fastcnn.layers.node import Input, Node


def is_chain(part: Any) -> TypeGuard[Sequential]:
    """Say whether a part of a chain is a chain itself, which called on a node calls its parts one after another."""
    return isinstance(part, Sequential) and type(part).__call__ is Sequential.__call__


def _unrolled(part: Layer | Graph) -> Iterator[Layer | Graph]:
    """Iterate over the parts of a chain, and of chains in it however deep, in order; a layer is its own only part.

    Python's stack bounds how deep functions call each other, and networks may be nested deeper.
    """
    waiting = [part]
    while waiting:
        first = waiting.pop()
        if is_chain(first):
            waiting += reversed(first.chain)
        else:
            yield first


class Sequential(Graph):
    """A chain of layers.

    Parameters
    ----------
    layers
        Layers, and networks of one input and one output, which serve as layers: their own are named "block1.conv1", ...
    input_shape
        The shape of an input without the batch axis. Without it, the chain works inside other networks only.
    fuse, name
        As in `Graph`; by default a chain in another network is "sequential1", ...

    >>> from fastcnn.layers import Flatten, Linear, ReLU
    >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1))
    >>> len(net), net[1]
    (2, Linear(64, 10))
    >>> block = Sequential(Linear(10, 10), ReLU(), name="block")
    >>> deeper = Sequential(Flatten(), Linear(64, 10), block, input_shape=(8, 8, 1))
    >>> deeper[2][0] is block[0], [name for name, _ in deeper.named_layers()]
    (True, ['flatten1', 'linear1', 'block.linear1', 'block.relu1'])
    """

    kind = "sequential"

    def __init__(
        self,
        *layers: Layer | Graph,
        input_shape: Sequence[int] | None = None,
        fuse: bool = True,
        name: str | None = None,
    ) -> None:
        for layer in layers:
            if not isinstance(layer, Layer | Graph):
                raise ArgumentError(f"Sequential was given {layer!r}: it takes layers only.")
        name_layers(list(dict.fromkeys(layers)))
        self.chain = layers
        if input_shape is None:
            self._become_block(fuse, name)
            return
        if not isinstance(input_shape, list | tuple):
            raise ArgumentError(
                f"input_shape={input_shape!r} was given: give its axes without the batch, as (28, 28, 1)."
            )
        first = Input(*input_shape)
        super().__init__(first, self._run(first), fuse=fuse, name=name)

    def _become_block(self, fuse: bool, name: str | None) -> None:
        self.name, self.inputs, self.outputs, self.nodes, self.input_names = name, [], [], [], []
        parts: list[tuple[Block, Layer]] = []
        for part in self.chain:
            if isinstance(part, Graph):
                parts += [((part, inner), layer) for layer, inner in part.names.items()]
            else:
                parts.append((None, part))
        self.names = name_parts(parts)
        self._prepare(fuse)

    def _run(self, node: Node) -> Node:
        for part in self.chain:
            start = node
            for layer in _unrolled(part):
                end = layer(node)
                if not isinstance(end, Node):
                    raise ArgumentError(f"Sequential was given {layer!r}: in a chain, each part has one output.")
                node = end
            if is_chain(part):
                part.own_nodes([start], [node])
        return node

    def __call__(self, *nodes: Node) -> Node:
        """Put the layers on a node of another network, and return its last node."""
        self.check_nodes(nodes)
        if len(nodes) != 1:
            raise ArgumentError(f"{self!r} was called on {len(nodes)} nodes: a chain takes one.")
        end = self._run(nodes[0])
        self.own_nodes(nodes, [end])
        return end

    def __len__(self) -> int:
        return len(self.chain)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.chain)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self.chain[index]
