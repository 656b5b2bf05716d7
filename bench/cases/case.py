"""One thing to measure: a call, its least cost, its error, and what to ask the peer for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastcnn.bench.shapes.named_sets import Problem

Work = tuple[Callable[[], object], Callable[[], float]]  # a call, and its error against float64


@dataclass(frozen=True)
class Case:
    """A row before it is measured.

    `layer` is a key of LAYERS, or "model". `flops` counts a multiply-add as 2; `bytes` is what must
    cross the memory bus if every array crosses it once. `least_flops` is how many of `flops` the algorithm surely does,
    so that its rate proves what the machine can do; 0 where nobody knows. `request` is the peer's version of the same
    work (see `peer_torch`).
    """

    layer: str
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
    least_flops: int = 0


def layer_case(
    layer: str,
    problem: Problem,
    pass_name: str,
    algorithm: str,
    dtype: str,
    flops: int,
    bytes: int,
    work: Work,
    least_flops: int = 0,
) -> Case:
    """Return the case of one pass of a layer."""
    descriptor = problem.descriptor()
    return Case(
        layer=layer,
        name=problem.name,
        descriptor=descriptor,
        pass_name=pass_name,
        algorithm=algorithm,
        count=problem.count,
        flops=flops,
        bytes=bytes,
        call=work[0],
        error=work[1],
        request={"work": layer, "descriptor": descriptor, "pass": pass_name, "dtype": dtype},
        images=problem.batch,
        least_flops=least_flops,
    )
