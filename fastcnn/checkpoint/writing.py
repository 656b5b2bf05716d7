"""Networks written to safetensors files, with the architecture as JSON in their header (`architecture.py`).

All stands under one key, as safetensors leaves the order of several to chance: equal networks give equal files.
"""

from __future__ import annotations

import json
import os
from os import PathLike
from typing import TYPE_CHECKING, Any

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Array, Shape
from fastcnn.checkpoint.architecture import UNBUILDABLE, build, describe, describe_nodes
from fastcnn.checkpoint.chains import DEEPEST_JSON
from fastcnn.checkpoint.opening import LONGEST_JSON
from fastcnn.errors import ArgumentError, CheckpointError
from fastcnn.files import write_tensors
from fastcnn.graph.chain import Chain
from fastcnn.graph.structure import Structure
from fastcnn.layers import Layer

if TYPE_CHECKING:
    from fastcnn.graph.graph import Graph


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
    >>> from fastcnn.checkpoint.safetensors import load
    >>> from fastcnn.graph.sequential import Sequential
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
        found = json.loads(json.dumps(describe_nodes(build(wanted, Structure, Chain))))
        if any(found[key] != wanted[key] for key in ("sequential", "nodes", "inputs", "outputs")):
            raise ArgumentError("other names or nodes would come back")
    except UNBUILDABLE as error:
        raise ArgumentError(
            f"{net!r} cannot be saved, as no file would give it back ({str(error).rstrip('.')}): give its layers and "
            "blocks other, shorter names."
        ) from None
    return text


def _tensors(net: Graph) -> dict[str, Array]:
    store = net.own_store()
    tensors: dict[str, Array] = {}
    for name, layer in net.named_layers():
        for key in shapes_of(layer):
            tensor = f"{name}.{key}"
            if tensor in tensors:
                raise ArgumentError(f"two tensors of {net!r} are named {tensor!r}: give its layers other names.")
            tensors[tensor] = store.host_value(layer, key)
    return tensors


def shapes_of(layer: Layer) -> dict[str, Shape]:
    """Return the shapes of all that a layer keeps in a file."""
    return layer.parameter_shapes() | layer.state_shapes()
