"""The architecture of networks as JSON values, as the header of a model file holds it, and networks made of them.

    "fastcnn"   {"version", "dtype", "sequential", "layers": {name: {"class", "arguments"}},
                 (a Sequential's chain as in `chains.py`; else null)
                 "nodes": [{"input": shape, "name": text or null} or {"layer": name, "inputs": [node, ...]}],
                 "inputs": [node, ...], "outputs": [node, ...],
                 "metadata": {whatever the user wants to keep with the network}}

Class names are looked up in the tables of layers and initializers.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from fastcnn.arrays import float_dtype
from fastcnn.checkpoint.chains import build_chain, describe_chain
from fastcnn.errors import ArgumentError, FastcnnError
from fastcnn.graph.chain import Chain
from fastcnn.graph.structure import Structure
from fastcnn.initializers import INITIALIZERS, Initializer
from fastcnn.layers import LAYERS, Layer
from fastcnn.layers.node import Input, Node

if TYPE_CHECKING:
    from fastcnn.graph.graph import Graph

VERSION = 1

UNBUILDABLE = (
    FastcnnError, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""What a malformed description makes `build` raise."""


def describe(net: Graph) -> dict[str, Any]:
    """Return a network's architecture as JSON values."""
    return {"version": VERSION, "dtype": net.dtype.name} | describe_nodes(net) | {"metadata": net.metadata}


def describe_nodes(net: Structure) -> dict[str, Any]:
    """Return what `describe` tells of layers and nodes."""
    net.check_complete()
    numbers = {node: number for number, node in enumerate(net.nodes)}
    nodes: list[dict[str, Any]] = []
    for node in net.nodes:
        if node.layer is None:
            nodes.append({"input": list(node.shape), "name": getattr(node, "name", None)})
        else:
            sources = [numbers[source] for source in node.inputs]
            nodes.append({"layer": net.names[node.layer], "inputs": sources})
    return {
        "sequential": describe_chain(net, net.names),
        "layers": {name: _describe_layer(layer) for name, layer in net.named_layers()},
        "nodes": nodes,
        "inputs": [numbers[node] for node in net.inputs],
        "outputs": [numbers[node] for node in net.outputs],
    }


def _describe_layer(layer: Layer) -> dict[str, Any]:
    name = type(layer).__name__
    if layer.holds_code:
        raise ArgumentError(
            f"{layer.label} is made of functions, and a file holds no code: keep `params` of the other layers by "
            "yourself, or put a layer of fastcnn's own in its place."
        )
    if LAYERS.get(name) is not type(layer):
        raise ArgumentError(f"{layer.label} is no layer of fastcnn's own, and cannot be saved.")
    arguments = {key: _plain(value) for key, value in layer.config().items()}
    return {"class": name, "arguments": arguments}


def _plain(value: Any) -> Any:
    if isinstance(value, Initializer):
        rule = type(value)
        if INITIALIZERS.get(rule.__name__) is not rule:
            raise ArgumentError(f"{value!r} is no initializer of fastcnn's own, and cannot be saved.")
        return {"initializer": rule.__name__, "arguments": dataclasses.asdict(value)}  # type: ignore[call-overload]
    return value


def build(description: dict[str, Any], graph: type[Structure], chain: type[Chain]) -> Structure:
    """Return the network that `describe` described, a `graph` or a `chain`; whatever is malformed raises."""
    dtype = float_dtype(description["dtype"])
    layers = {name: _build_layer(name, dtype.name, **entry) for name, entry in description["layers"].items()}
    if description["sequential"] is not None:
        first, *rest = description["nodes"]
        net = chain(*build_chain(description["sequential"], layers, chain), input_shape=first["input"])
        if [net.names[node.layer] for node in net.nodes if node.layer] != [entry["layer"] for entry in rest]:
            raise ArgumentError("the chain and the nodes differ")
        return net
    nodes: list[Node] = []
    for entry in description["nodes"]:
        if "input" in entry:
            nodes.append(Input(*entry["input"], name=entry["name"]))
        else:
            nodes.append(layers[entry["layer"]](*(nodes[number] for number in entry["inputs"])))
    inputs, outputs = ([nodes[number] for number in description[end]] for end in ("inputs", "outputs"))
    return graph(inputs, outputs)


def _build_layer(name: str, dtype: str, **entry: Any) -> Layer:
    kind, arguments = entry["class"], dict(entry["arguments"])
    if kind not in LAYERS:
        raise ArgumentError(f"there is no layer class {kind!r}")
    rule = arguments.get("weight_init")
    if rule is not None:
        arguments["weight_init"] = INITIALIZERS[rule["initializer"]](**rule["arguments"])
    if arguments.keys() & {"name", "dtype", "device"}:
        raise ArgumentError(f"layer {name!r} has arguments that a file does not set")
    parameters = inspect.signature(LAYERS[kind]).parameters.values()
    variadic = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    listed = [value for key in variadic for value in arguments.pop(key)]
    return LAYERS[kind](*listed, **arguments, name=name, dtype=dtype)
