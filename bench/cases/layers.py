"""The layers that can be measured alone: one entry each.

What a layer's shapes are called is known here, and a wrong name refused, before any compiler is imported; its
`module` brings the kernels in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from fastcnn.bench.cases.case import Case
from fastcnn.bench.shapes import activation, conv_transpose, linear, loss, named_sets, norm, optimizer, pool, regroup
from fastcnn.bench.shapes import random as random_shapes
from fastcnn.bench.shapes.convolution import parse


class Kernels(Protocol):
    """What a layer's module holds; the first of ALGORITHMS is the default."""

    PASSES: tuple[str, ...]
    ALGORITHMS: tuple[str, ...]

    def served_by(self, problem: Any, pass_name: str, algorithm: str, dtype: str) -> str:
        """Return the algorithm that serves a pass, or raise a ValueError if the one named does not take it."""

    def case(self, problem: Any, pass_name: str, algorithm: str, dtype: str) -> Case:
        """Return one pass, with its arrays made."""


@dataclass(frozen=True)
class Layer:
    """How a layer is measured: its module, the sets of its named_sets, how one is written, and drawn at random."""

    module: str
    sets: Mapping[str, Callable[[], list[Any]]]
    default: tuple[str, ...]
    parse: Callable[[str], Any]
    draw: Callable[[str, int | None], list[Any]] | None = None

    def kernels(self) -> Kernels:
        """Import and return the module."""
        return cast(Kernels, import_module(f"fastcnn.bench.cases.{self.module}"))

    def resolve(self, text: str, batch: int | None = None) -> list[Any]:
        """Return the shapes of a set, a file, `random:N[:SEED]` or a descriptor, at this batch size if one is given.

        Raises
        ------
        ShapeError, DataError
            If the text is none of these, or a line of the file is no descriptor.
        """
        if self.draw and random_shapes.is_random(text):
            return self.draw(text, batch)
        found = named_sets.resolve(text, self.sets, self.parse)
        return found if batch is None else [problem.with_batch(batch) for problem in found]


def _draw_depthwise(text: str, batch: int | None) -> list[Any]:
    return random_shapes.resolve(text, batch, depthwise=True)


def _draw_transposed(text: str, batch: int | None) -> list[Any]:
    return [conv_transpose.Transposed(c) for c in random_shapes.resolve(text, batch)]


LAYERS: dict[str, Layer] = {
    "conv": Layer("conv", named_sets.SETS, ("resnet50",), parse, random_shapes.resolve),
    "depthwise": Layer("conv", named_sets.DEPTHWISE_SETS, ("mobilenet",), named_sets.parse_depthwise, _draw_depthwise),
    "conv_transpose": Layer(
        "conv_transpose", conv_transpose.SETS, ("dcgan", "unet"), conv_transpose.parse, _draw_transposed
    ),
    "pool": Layer("pool", pool.SETS, ("googlenet", "kinds"), pool.parse),
    "linear": Layer("linear", linear.SETS, ("alexnet",), linear.parse),
    "regroup": Layer("regroup", regroup.SETS, tuple(regroup.SETS), regroup.parse),
    "activation": Layer("activation", activation.SETS, ("resnet50",), activation.parse),
    "norm": Layer("norm", norm.SETS, ("norms",), norm.parse),
    "loss": Layer("loss", loss.SETS, tuple(loss.SETS), loss.parse),
    "optimizer": Layer("optimizer", optimizer.SETS, ("lenet5", "resnet50"), optimizer.parse),
}
