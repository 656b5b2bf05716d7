"""Layers and nodes of a network by name: exact names, and prefixes that stand for a whole part of it.

The prefix "layer1" stands for every layer whose name begins with "layer1.", as in "layer1.0.conv2".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Layer
from fastcnn.layers.node import Node

# Enough to see how names are made, few enough for one sentence.
NAMES_TOLD = 8


def choose_layers(named: Mapping[str, Layer], what: Sequence[Any]) -> list[Layer]:
    """Return the layers that names, prefixes, layers or blocks of layers stand for; all of them for nothing."""
    chosen = [layer for one in what for layer in _layers(named, one)] if what else named.values()
    return list(dict.fromkeys(chosen))


def _layers(named: Mapping[str, Layer], one: Any) -> Sequence[Layer]:
    if isinstance(one, str):
        found = [layer for name, layer in named.items() if name == one or name.startswith(f"{one}.")]
        if not found:
            raise unknown("layer", one, list(named))
        return found
    wanted = [one] if isinstance(one, Layer) else getattr(one, "layers", None)
    if not wanted or any(layer not in named.values() for layer in wanted):
        raise ArgumentError(f"{one!r} was given, which is no layer of this network: give one of its layers or names.")
    return list(wanted)


def node_names(nodes: Sequence[Node], names: Mapping[Layer, str]) -> dict[str, Node]:
    """Return nodes by the names of their layers; where a layer is used again, its nodes are "name:2", "name:3", ..."""
    found: dict[str, Node] = {}
    uses: dict[Layer, int] = {}
    for node in nodes:
        if node.layer is not None:
            uses[node.layer] = uses.get(node.layer, 0) + 1
            suffix = f":{uses[node.layer]}" if uses[node.layer] > 1 else ""
            found[names[node.layer] + suffix] = node
    return found


def unknown(kind: str, name: Any, names: Sequence[str]) -> ArgumentError:
    """Return the error for a name that a network does not have, with the nearest ones."""
    near = get_close_matches(str(name), names) or [*names[:NAMES_TOLD], *["..."][: len(names) > NAMES_TOLD]]
    return ArgumentError(f"{name!r} names no {kind} of this network: give a name such as {', '.join(near)}.")
