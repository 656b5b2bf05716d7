"""Nodes of a graph: what a layer returns when it is called on other nodes, and the graph's inputs.

A node is a layer applied to earlier nodes, with the shape of its result (without the batch axis).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING

from fastcnn.arguments import check_arguments
from fastcnn.arrays import Shape
from fastcnn.errors import ArgumentError
from fastcnn.representation import written_call
from fastcnn.shapes import is_int

if TYPE_CHECKING:
    from fastcnn.graph.structure import Structure
    from fastcnn.layers.base import Layer

# Nodes are numbered as they are made, so an input's number is always below its consumer's.
_serial = count()

OPERATORS: dict[str, Callable[[Node, Node], Node]] = {}
"""What `a + b` and `a * b` make of two nodes: set by `join.py`, whose layers are made of nodes themselves."""


class Node:
    """The result of one layer in a graph; `a + b` adds two of them, `a * b` multiplies them.

    Parameters
    ----------
    layer
        The layer; None for an input. Calling the layer on nodes makes the node.
    inputs
        The nodes that it is applied to.
    shape
        The result's shape without the batch axis.
    """

    def __init__(self, layer: Layer | None, inputs: Sequence[Node], shape: Shape) -> None:
        self.layer = layer
        self.inputs = tuple(inputs)
        self.shape = shape
        self.serial = next(_serial)
        self.block: tuple[Structure, str] | None = None
        """The network inside another one that has put the node there, and the layer's name in it."""

    def __add__(self, other: Node) -> Node:
        return OPERATORS["+"](self, other) if isinstance(other, Node) else NotImplemented

    def __mul__(self, other: Node) -> Node:
        return OPERATORS["*"](self, other) if isinstance(other, Node) else NotImplemented

    def __repr__(self) -> str:
        return f"<node {self.layer!r} of shape {self.shape}>"


@check_arguments
class Input(Node):
    """An input of a graph, by its shape without the batch axis: `Input(32, 32, 3)`.

    Parameters
    ----------
    *shape
        The axes without the batch axis, whole numbers >= 1.
    name
        As in `Input(32, 32, 3, name="left")`; it lets networks of several inputs take {name: array}.

    Raises
    ------
    ArgumentError
        If an axis is no whole number >= 1, or the name no text.

    >>> Input(32, 32, 3, name="left")
    Input(32, 32, 3, name='left')
    """

    def __init__(self, *shape: int, name: str | None = None) -> None:
        if not shape or not all(is_int(size) and size > 0 for size in shape):
            given = ", ".join(map(repr, shape))
            raise ArgumentError(
                f"Input({given}) was given: give its axes as whole numbers >= 1, as in Input(28, 28, 1)."
            )
        if name is not None and (not isinstance(name, str) or not name):
            raise ArgumentError(f"Input got name={name!r}: give a text, such as 'left'.")
        super().__init__(None, (), tuple(map(int, shape)))
        self.name = name

    def __repr__(self) -> str:
        return written_call(type(self), {"shape": self.shape, "name": self.name})
