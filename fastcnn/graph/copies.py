"""Copies of networks: what copies and pickles take along of their nodes, and copies without values.

Nodes become a table, as a chain of nodes may be longer than the recursion that follows it.
"""

from __future__ import annotations

from typing import Any

from fastcnn.graph.structure import Structure
from fastcnn.layers.node import Input, Node


def nodes_state(net: Structure) -> dict[str, Any]:
    """Return the nodes of a network as rows (layer, numbers of its inputs, shape, name of an input, block)."""
    numbers = {node: number for number, node in enumerate(net.nodes)}
    rows = [
        (node.layer, [numbers[source] for source in node.inputs], node.shape, getattr(node, "name", None), node.block)
        for node in net.nodes
    ]
    return {"nodes": rows} | {ends: [numbers[node] for node in getattr(net, ends)] for ends in ("inputs", "outputs")}


def set_nodes(net: Structure) -> None:
    """Put nodes in the place of what `nodes_state` has made of them."""
    made: list[Node] = []
    rows: list[Any] = net.nodes
    for layer, sources, shape, name, block in rows:
        node = Input(*shape, name=name) if layer is None else Node(layer, [made[number] for number in sources], shape)
        node.block = block
        made.append(node)
    ends: list[Any] = [net.inputs, net.outputs]
    net.inputs, net.outputs = ([made[number] for number in numbers] for numbers in ends)
    net.nodes = made


def copy_without_values(net: Structure) -> Structure:
    """Return the nodes of a network with layers of the same arguments and modes that have no parameters yet."""
    layers = {layer: layer.without_values() for layer in net.layers}
    made: dict[Node, Node] = {}
    for node in net.nodes:
        if node.layer is None:
            made[node] = Input(*node.shape, name=getattr(node, "name", None))
        else:
            made[node] = Node(layers[node.layer], [made[source] for source in node.inputs], node.shape)
    return Structure([made[node] for node in net.inputs], [made[node] for node in net.outputs], net.name)
