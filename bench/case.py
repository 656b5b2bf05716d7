"""One thing to measure: a call, its least cost, its error, and what to ask the peer for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A row before it is measured.

    `flops` counts a multiply-add as 2; `bytes` is what must cross the memory bus if every array
    crosses it once. `request` is the peer's version of the same work (see `peer_torch`).
    """

    name: str
    descriptor: str
    pass_name: str
    algorithm: str
    count: int
    flops: int
    bytes: int
    call: Callable[[], object]
    error: Callable[[], float]
    request: dict[str, Any]
    images: int | None = None
