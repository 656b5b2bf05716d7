"""Chains of layers as JSON values, and back; nothing here calls itself, as chains nest deeper than Python's stack.

a layer              its name
a chain inside       {"name", "chain": its parts}, or, where JSON would nest too deep for its readers, {"name",
"parts": how many}, and then its parts follow in the list that it stands in
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from fastcnn.errors import ArgumentError
from fastcnn.graph.chain import Chain
from fastcnn.layers import Layer

# Python's readers of JSON go as deep as their stack allows, which depends on who calls them.
DEEPEST_JSON = 100

# Every chain adds its name to those of the layers in it.
DEEPEST_CHAIN = 1000


def describe_chain(net: Any, names: Mapping[Layer, str]) -> list[Any] | None:
    """Return a chain's parts, or None where it, or a network inside, is no chain."""
    if not isinstance(net, Chain):
        return None
    flat: list[Any] = []
    waiting: list[Any] = [*reversed(net.chain)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Chain):
            flat.append({"name": part.name, "parts": len(part.chain)})
            waiting += reversed(part.chain)
        elif isinstance(part, Layer):
            flat.append(names[part])
        else:
            return None
    return _nested(flat) or flat


def _nested(flat: list[Any]) -> list[Any] | None:
    """Return parts with chains inside them; None where they are nested too deep for that."""
    top: list[Any] = []
    chains: list[tuple[list[Any], float]] = [(top, inf)]
    for part in flat:
        if isinstance(part, dict):
            chain: list[Any] = []
            chains[-1][0].append({"name": part["name"], "chain": chain})
            chains.append((chain, part["parts"]))
        else:
            chains[-1][0].append(part)
        if 2 * len(chains) > DEEPEST_JSON:
            return None
        while len(chains[-1][0]) == chains[-1][1]:
            chains.pop()
    return top


def _flat(parts: list[Any]) -> Iterator[Any]:
    """Iterate over parts, those of a chain inside after its name and their number."""
    waiting = [*reversed(parts)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and "chain" in part:
            yield {"name": part["name"], "parts": len(part["chain"])}
            waiting += reversed(part["chain"])
        else:
            yield part


@dataclass
class _Open:
    """A chain that some of its parts are still missing of."""

    prefix: str
    name: str | None = None
    size: float = inf
    parts: list[Any] = field(default_factory=list)


def build_chain(parts: list[Any], layers: Mapping[str, Layer], make: type[Chain]) -> list[Any]:
    """Return the parts of a chain, made of layers by their names, with chains inside; what is there twice is one."""
    blocks: dict[str, Chain] = {}
    chains = [_Open("")]
    for part in _flat(parts):
        chain = chains[-1]
        if isinstance(part, dict):
            chains.append(_Open(f"{chain.prefix}{part['name']}.", part["name"], part["parts"]))
        else:
            layers[part].name = part.removeprefix(chain.prefix)
            chain.parts.append(layers[part])
        if len(chains) > DEEPEST_CHAIN:
            raise ArgumentError(f"its chains are nested more than {DEEPEST_CHAIN} deep")
        while len(chains[-1].parts) == chains[-1].size:
            done = chains.pop()
            if done.prefix not in blocks:
                blocks[done.prefix] = make(*done.parts, name=done.name)
            chains[-1].parts.append(blocks[done.prefix])
    if len(chains) > 1:
        raise ArgumentError(f"the chain {chains[-1].name!r} lacks parts")
    return chains[0].parts
