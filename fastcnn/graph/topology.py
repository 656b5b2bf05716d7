"""Checks and orders on the parts of a network: its nodes, their order, the names of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Layer
from fastcnn.layers.node import Node

if TYPE_CHECKING:
    from fastcnn.graph.structure import Structure


Block: TypeAlias = "tuple[Structure, str] | None"


def name_layers(layers: Sequence[Layer | Structure]) -> None:
    """Name the unnamed layers, or blocks of layers, by kind, "conv1", "conv2", ..., and refuse a name used twice."""
    taken = Counter(layer.name for layer in layers if layer.name is not None)
    for name, uses in taken.items():
        if uses > 1:
            raise ArgumentError(f"{uses} layers are named {name!r}: give each a name of its own.")
    seen: Counter[str] = Counter()
    for layer in layers:
        seen[layer.kind] += 1
        if layer.name is None:
            while f"{layer.kind}{seen[layer.kind]}" in taken:
                seen[layer.kind] += 1
            layer.name = f"{layer.kind}{seen[layer.kind]}"


def name_parts(parts: Sequence[tuple[Block, Layer]]) -> dict[Layer, str]:
    """Return a network's layers with their names, after naming those that have none; in blocks, "block.layer".

    `parts` are the layers in order, each with the block that has brought it along, if one has.
    """
    name_layers(list(dict.fromkeys(block[0] if block else layer for block, layer in parts)))
    names: dict[Layer, str] = {}
    for block, layer in parts:
        names.setdefault(layer, f"{block[0].name}.{block[1]}" if block else layer.name or "")
    for name, uses in Counter(names.values()).items():
        if uses > 1:
            raise ArgumentError(f"{uses} layers are named {name!r}: give each a name of its own.")
    return names


def node_list(nodes: Node | Sequence[Node], what: str) -> list[Node]:
    """Return the nodes as a list, or refuse what is none."""
    listed: list[Any] = list(nodes) if isinstance(nodes, list | tuple) else [nodes]
    if not listed or not all(isinstance(node, Node) for node in listed):
        raise ArgumentError(f"a Graph got {what}={nodes!r}: give a node, or a list of nodes.")
    if len(set(listed)) < len(listed):
        raise ArgumentError(f"a Graph got one node twice among its {what}: list it once.")
    return listed


def leading_to(outputs: Sequence[Node], stop: Sequence[Node] = ()) -> set[Node]:
    """Return the nodes that some nodes need, and those themselves; nothing is followed beyond `stop`."""
    found: set[Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += () if node in stop else node.inputs
    return found


def in_order(inputs: Sequence[Node], outputs: Sequence[Node]) -> list[Node]:
    """Return the nodes that lead from the inputs to the outputs, every one after its inputs."""
    found = leading_to(outputs, stop=inputs)
    for node in found:
        if node.layer is None and node not in inputs:
            raise ArgumentError(f"the outputs need {node!r}: list it among the graph's inputs.")
    for node in inputs:
        if node.layer is not None or node not in found:
            problem = "is no Input" if node.layer is not None else "leads to no output"
            raise ArgumentError(f"a Graph got {node!r} as an input, which {problem}: leave it out.")
    return sorted(found, key=lambda node: node.serial)


def common_dtype(layers: Sequence[Layer]) -> np.dtype[Any]:
    """Return the widest dtype of some layers."""
    return max((layer.dtype for layer in layers), key=lambda d: d.itemsize, default=np.dtype("f4"))


def common_device(layers: Sequence[Layer]) -> str:
    """Return the one device that all layers stand on, or refuse several."""
    devices = sorted({layer.device for layer in layers})
    if len(devices) > 1:
        raise ArgumentError(f"the layers of a network stand on devices {' and '.join(devices)}: choose one.")
    return devices[0] if devices else "cpu"
