"""Chains of layers, and blocks of layers for other networks, whatever they run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard, overload

from fastcnn.errors import ArgumentError
from fastcnn.graph.structure import Structure
from fastcnn.graph.topology import Block, name_layers, name_parts
from fastcnn.layers.base import Layer
from fastcnn.layers.node import Input, Node


def is_chain(part: Any) -> TypeGuard[Chain]:
    """Say whether a part of a chain is a chain itself, which called on a node calls its parts one after another."""
    return isinstance(part, Chain) and type(part).__call__ is Chain.__call__


def _unrolled(part: Layer | Structure) -> Iterator[Layer | Structure]:
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


class Chain(Structure):
    """The layers of a `Sequential`, and the order of its nodes where it has an `input_shape`."""

    kind = "sequential"

    def __init__(
        self, *layers: Layer | Structure, input_shape: Sequence[int] | None = None, name: str | None = None
    ) -> None:
        for layer in layers:
            if not isinstance(layer, Layer | Structure):
                raise ArgumentError(f"Sequential was given {layer!r}: it takes layers only.")
        name_layers(list(dict.fromkeys(layers)))
        self.chain = layers
        if input_shape is None:
            self._become_block(name)
            return
        if not isinstance(input_shape, list | tuple):
            raise ArgumentError(
                f"input_shape={input_shape!r} was given: give its axes without the batch, as (28, 28, 1)."
            )
        first = Input(*input_shape)
        Structure.__init__(self, first, self._run(first), name)  # not that of another class between the two

    def _become_block(self, name: str | None) -> None:
        self.name, self.inputs, self.outputs, self.nodes, self.input_names = name, [], [], [], []
        parts: list[tuple[Block, Layer]] = []
        for part in self.chain:
            if isinstance(part, Structure):
                parts += [((part, inner), layer) for layer, inner in part.names.items()]
            else:
                parts.append((None, part))
        self.names = name_parts(parts)

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
