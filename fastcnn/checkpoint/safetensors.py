"""Model files: safetensors that hold parameters and states, and the architecture as JSON in their header.

    "fastcnn"   {"version", "dtype", "sequential", "layers": {name: {"class", "arguments"}},
                 (a Sequential's chain as in `chains.py`; else null)
                 "nodes": [{"input": shape, "name": text or null} or {"layer": name, "inputs": [node, ...]}],
                 "inputs": [node, ...], "outputs": [node, ...],
                 "metadata": {whatever the user wants to keep with the network}}
    tensors     "conv1.weight", "conv1.bias", ...

All stands under one key, as safetensors leaves the order of several to chance: equal networks give
equal files.

Reading runs no code from the file: class names are looked up in the tables of layers and
initializers, and every tensor's shape is compared before memory is taken for it.

`architecture.py` makes the JSON, and networks of it; `writing.py` writes.
"""

from __future__ import annotations

import json
from os import PathLike
from typing import Any, cast

from fastcnn.arguments import checks_arguments
from fastcnn.backend import check_device
from fastcnn.checkpoint.architecture import UNBUILDABLE, VERSION, build, describe
from fastcnn.checkpoint.opening import LONGEST_JSON, OTHER_LAYOUT, TENSOR_DTYPES, open_tensors, unreadable
from fastcnn.checkpoint.writing import check_metadata, save, shapes_of
from fastcnn.errors import CheckpointError
from fastcnn.graph.graph import Graph
from fastcnn.graph.sequential import Sequential

__all__ = ["LONGEST_JSON", "check_metadata", "describe", "load", "save"]


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


def _read(file: Any, path: str, device: str) -> Graph:
    header = file.metadata() or {}
    if "fastcnn" not in header:
        raise CheckpointError(
            f"the model file {path} holds tensors but no fastcnn architecture: build the network in Python, and bring "
            f"each tensor into `params` by hand; {OTHER_LAYOUT}."
        )
    description = _json(header["fastcnn"], path)
    if description.get("version") != VERSION:
        raise unreadable(path, f"has format version {description.get('version')!r}, and {VERSION} is known")
    try:
        net = cast(Graph, build(description, Graph, Sequential))
        net.metadata = dict(description["metadata"])
    except UNBUILDABLE as error:
        detail = str(error).rstrip(".")
        raise unreadable(path, f"describes a network that cannot be built ({detail})") from None
    _compare(file, net, path)
    net.to(device).own_store(lambda layer, key: file.get_tensor(f"{net.names[layer]}.{key}"))
    return net


def _compare(file: Any, net: Graph, path: str) -> None:
    """Refuse a file whose tensors are not exactly the network's parameters and states."""
    needed = {f"{name}.{key}": shape for name, layer in net.named_layers() for key, shape in shapes_of(layer).items()}
    found = set(file.keys())
    for names, problem in ((needed.keys() - found, "lacks"), (found - needed.keys(), "also holds")):
        if names:
            raise unreadable(path, f"{problem} the tensor {min(names)!r}")
    for name, shape in needed.items():
        tensor = file.get_slice(name)
        if tuple(tensor.get_shape()) != shape:
            got = tuple(tensor.get_shape())
            raise unreadable(path, f"holds {name} of shape {got}, where {shape} is needed")
        if TENSOR_DTYPES.get(tensor.get_dtype()) != net.dtype:
            got = tensor.get_dtype()
            raise unreadable(path, f"holds {name} of type {got}, where {net.dtype} is needed")


def _json(text: str, path: str) -> dict[str, Any]:
    if len(text) > LONGEST_JSON:
        raise unreadable(path, f"has a description of {len(text)} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise unreadable(path, "has a malformed description")
    return value
