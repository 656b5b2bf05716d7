"""The layers that can be measured alone: one entry each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastcnn.bench import shapes
from fastcnn.bench.case import Case

DEFAULT_SHAPES = "resnet50"


@dataclass(frozen=True)
class Layer:
    """How a layer is measured.

    `resolve` turns a set's name, a file or a descriptor into problems, each with a `with_batch`;
    `case` turns (problem, pass, algorithm, dtype) into something to run, which names the algorithm
    that "auto" came to.
    """

    passes: tuple[str, ...]
    algorithms: tuple[str, ...]
    resolve: Callable[[str], list[Any]]
    case: Callable[[Any, str, str, str], Case]


def _conv() -> Layer:
    from fastcnn.bench import conv

    return Layer(conv.PASSES, conv.ALGORITHMS, shapes.resolve, conv.case)


# Behind functions: a name is known, and a wrong one refused, before any compiler is imported.
LAYERS: dict[str, Callable[[], Layer]] = {"conv": _conv}
