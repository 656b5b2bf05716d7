"""Model files: safetensors that hold parameters and states, and the architecture as JSON in their header.

    "fastcnn"   {"version", "dtype", "sequential", "layers": {name: {"class", "arguments"}},
                 (a Sequential's chain as in `graph/chains.py`; else null)
                 "nodes": [{"input": shape, "name": text or null} or {"layer": name, "inputs": [node, ...]}],
                 "inputs": [node, ...], "outputs": [node, ...],
                 "metadata": {whatever the user wants to keep with the network}}
    tensors     "conv1.weight", "conv1.bias", ...

All stands under one key, as safetensors leaves the order of several to chance: equal networks give
equal files.

Reading runs no code from the file: class names are looked up in the tables of layers and
initializers, and every tensor's shape is compared before memory is taken for it.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Array, Shape, float_dtype
from fastcnn.backend import check_device
from fastcnn.errors import ArgumentError, CheckpointError, FastcnnError
from fastcnn.files import write_tensors
from fastcnn.graph.chains import DEEPEST_JSON, build_chain, describe_chain
from fastcnn.graph.graph import Graph
from fastcnn.graph.sequential import Sequential
from fastcnn.initializers import INITIALIZERS, Initializer
from fastcnn.layers import LAYERS, Layer
from fastcnn.layers.node import Input, Node

VERSION = 1

# Far above any network's description, far below what would fill the memory.
LONGEST_JSON = 16 * 1024 * 1024

UNBUILDABLE = (
    FastcnnError, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""What a malformed description makes `build` raise."""

OTHER_LAYOUT = (
    "a PyTorch state_dict keeps filters as (out, in, R, S) and linear weights as (out, in), where fastcnn has "
    "(R, S, in, out) and (in, out)"
)

TENSOR_DTYPES = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}


@checks_arguments
def save(net: Graph, path: str | PathLike[str], metadata: dict[str, Any] | None = None) -> None:
    """Write a network to a file, which then holds either all of it or what it held before.

    Parameters
    ----------
    net
        The network, a Graph or Sequential.
    path
        The file, by custom with the ending ".safetensors".
    metadata
        JSON values to keep with it, in place of `net.metadata`; None keeps those.

    Raises
    ------
    CheckpointError
        If the file cannot be written.
    ArgumentError
        If the metadata is no dict of JSON values, a layer is not fastcnn's own, or names run into each other;
        nothing is written then.

    >>> import tempfile
    >>> from fastcnn.layers import Linear
    >>> net = Sequential(Linear(3, 2), input_shape=(3,)).to("reference")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(net, f"{folder}/net.safetensors", metadata={"classes": ["a", "b"]})
    ...     again = load(f"{folder}/net.safetensors", device="reference")
    >>> again[0], again.metadata
    (Linear(3, 2), {'classes': ['a', 'b']})
    """
    kept = check_metadata(net.metadata if metadata is None else metadata)
    header = {"fastcnn": _description(net, kept)}
    try:
        write_tensors(path, _tensors(net), header)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"the model file {os.fspath(path)} cannot be written ({reason}): choose another place."
        ) from None
    net.metadata = kept


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Return metadata, or refuse what would not come back from a file: more than dicts of texts and JSON values.

    >>> check_metadata({"classes": ["a", "b"], "mean": 0.5})
    {'classes': ['a', 'b'], 'mean': 0.5}
    """
    if not isinstance(metadata, dict):
        raise ArgumentError(
            f"metadata={metadata!r} was given, and a dict of JSON values is needed: give it a name, as in "
            "{'note': 'the first try'}."
        )
    waiting: list[tuple[Any, int]] = [(metadata, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST_JSON:
            raise ArgumentError(
                f"metadata is nested more than {DEEPEST_JSON} deep, where readers may give up: make it flatter."
            )
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ArgumentError(
                        f"metadata has the key {key!r}, and JSON has texts as keys only: write it as {str(key)!r}."
                    )
            waiting += ((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list | tuple):
            waiting += ((inner, depth + 1) for inner in value)
    try:
        length = len(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"metadata cannot be written as JSON ({error}): use dicts, lists, strings and numbers."
        ) from None
    if length > LONGEST_JSON // 2:  # the other half is the network's
        raise ArgumentError(
            f"metadata has {length:,} characters as JSON, and {LONGEST_JSON // 2:,} are kept: put what is long into a "
            "file of its own."
        )
    return metadata


def _description(net: Graph, metadata: dict[str, Any]) -> str:
    """Return a network's description as text, or refuse one that would not give it back, as where names collide."""
    described = describe(net) | {"metadata": metadata}
    try:
        text = json.dumps(described)
        if len(text) > LONGEST_JSON:
            raise ArgumentError(f"its description has {len(text)} characters, and {LONGEST_JSON} are read")
        wanted = json.loads(text)
        found = json.loads(json.dumps(describe(build(wanted))))
        if any(found[key] != wanted[key] for key in ("sequential", "nodes", "inputs", "outputs")):
            raise ArgumentError("other names or nodes would come back")
    except UNBUILDABLE as error:
        raise ArgumentError(
            f"{net!r} cannot be saved, as no file would give it back ({str(error).rstrip('.')}): give its layers and "
            "blocks other, shorter names."
        ) from None
    return text


@checks_arguments
def load(path: str | PathLike[str], device: str = "cpu") -> Graph:
    """Return the network in a file that `save` wrote, on a device.

    Parameters
    ----------
    path
        The file.
    device
        "cpu" or "reference".

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or not one of fastcnn's; the sentence says which.
    """
    check_device(device)
    with open_tensors(path) as file:
        return _read(file, str(path), device)


@contextmanager
def open_tensors(path: str | PathLike[str]) -> Iterator[Any]:
    """Open a safetensors file to read; what goes wrong with it becomes a CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        with Path(path).open("rb"):
            pass
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise _unreadable(path, f"is damaged or no safetensors file ({error})") from None
    except CheckpointError:
        raise
    except OSError as error:
        raise _unreadable(path, f"cannot be read ({error.strerror or error})") from None


def _read(file: Any, path: str, device: str) -> Graph:
    header = file.metadata() or {}
    if "fastcnn" not in header:
        raise CheckpointError(
            f"the model file {path} holds tensors but no fastcnn architecture: build the network in Python, and bring "
            f"each tensor into `params` by hand; {OTHER_LAYOUT}."
        )
    description = _json(header["fastcnn"], path)
    if description.get("version") != VERSION:
        raise _unreadable(path, f"has format version {description.get('version')!r}, and {VERSION} is known")
    try:
        net = build(description)
        net.metadata = dict(description["metadata"])
    except UNBUILDABLE as error:
        detail = str(error).rstrip(".")
        raise _unreadable(path, f"describes a network that cannot be built ({detail})") from None
    _compare(file, net, path)
    net.to(device).own_store(lambda layer, key: file.get_tensor(f"{net.names[layer]}.{key}"))
    return net


def _compare(file: Any, net: Graph, path: str) -> None:
    """Refuse a file whose tensors are not exactly the network's parameters and states."""
    needed = {f"{name}.{key}": shape for name, layer in net.named_layers() for key, shape in _shapes(layer).items()}
    found = set(file.keys())
    for names, problem in ((needed.keys() - found, "lacks"), (found - needed.keys(), "also holds")):
        if names:
            raise _unreadable(path, f"{problem} the tensor {min(names)!r}")
    for name, shape in needed.items():
        tensor = file.get_slice(name)
        if tuple(tensor.get_shape()) != shape:
            got = tuple(tensor.get_shape())
            raise _unreadable(path, f"holds {name} of shape {got}, where {shape} is needed")
        if TENSOR_DTYPES.get(tensor.get_dtype()) != net.dtype:
            got = tensor.get_dtype()
            raise _unreadable(path, f"holds {name} of type {got}, where {net.dtype} is needed")


def describe(net: Graph) -> dict[str, Any]:
    """Return a network's architecture as JSON values."""
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
        "version": VERSION,
        "dtype": net.dtype.name,
        "sequential": describe_chain(net, net.names),
        "layers": {name: _describe_layer(layer) for name, layer in net.named_layers()},
        "nodes": nodes,
        "inputs": [numbers[node] for node in net.inputs],
        "outputs": [numbers[node] for node in net.outputs],
        "metadata": net.metadata,
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


def build(description: dict[str, Any]) -> Graph:
    """Return the network that `describe` described; whatever is malformed raises."""
    dtype = float_dtype(description["dtype"])
    layers = {name: _build_layer(name, dtype.name, **entry) for name, entry in description["layers"].items()}
    if description["sequential"] is not None:
        first, *rest = description["nodes"]
        net = Sequential(*build_chain(description["sequential"], layers), input_shape=first["input"])
        if [net.names[node.layer] for node in net.nodes if node.layer] != [entry["layer"] for entry in rest]:
            raise ArgumentError("the chain and the nodes differ")
        return net
    nodes: list[Node] = []
    for entry in description["nodes"]:
        if "input" in entry:
            nodes.append(Input(*entry["input"], name=entry["name"]))
        else:
            nodes.append(layers[entry["layer"]](*(nodes[number] for number in entry["inputs"])))
    ends = ([nodes[number] for number in description[end]] for end in ("inputs", "outputs"))
    return Graph(*ends)


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


def _tensors(net: Graph) -> dict[str, Array]:
    store = net.own_store()
    tensors: dict[str, Array] = {}
    for name, layer in net.named_layers():
        for key in _shapes(layer):
            tensor = f"{name}.{key}"
            if tensor in tensors:
                raise ArgumentError(f"two tensors of {net!r} are named {tensor!r}: give its layers other names.")
            tensors[tensor] = store.host_value(layer, key)
    return tensors


def _shapes(layer: Layer) -> dict[str, Shape]:
    """Return the shapes of all that a layer keeps in a file."""
    return layer.parameter_shapes() | layer.state_shapes()


def _json(text: str, path: str) -> dict[str, Any]:
    if len(text) > LONGEST_JSON:
        raise _unreadable(path, f"has a description of {len(text)} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _unreadable(path, "has a malformed description")
    return value


def _unreadable(path: str | PathLike[str], problem: str) -> CheckpointError:
    return CheckpointError(f"the model file {os.fspath(path)} {problem}: give a file that fastcnn has saved.")
