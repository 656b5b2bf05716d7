"""What a network costs and sees, node by node: shapes, parameters, multiply-adds, receptive field.

The receptive field r of a node, in pixels of the input, follows its input's r and jump j (how many
input pixels lie between two neighbours): r' = r + (extent - 1) * j and j' = stride * j. A transposed
convolution lays its window on the finer grid: its stride is 1 / s, and r' = r + (extent - 1) * j / s, of which
the whole pixels count. Where an image was made smaller before it is enlarged, this is an upper bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

from fastcnn.arrays import Shape
from fastcnn.layers.base import Layer
from fastcnn.layers.node import Node


@dataclass(frozen=True)
class Measure:
    """One row: a node; `receptive_field` is None where positions are lost, as in Linear."""

    name: str
    layer: str
    output_shape: Shape
    parameters: int
    multiply_adds: int
    receptive_field: Shape | None
    trainable: bool = True

    @property
    def description(self) -> str:
        """The layer, and that it is frozen where it is."""
        return self.layer if self.trainable else f"{self.layer} (frozen)"


@dataclass(frozen=True)
class _Field:
    reach: tuple[int | Fraction, ...]
    jump: tuple[int | Fraction, ...]


def measure(nodes: Sequence[Node], names: Mapping[Layer, str]) -> list[Measure]:
    """Return a row for every layer's node; a layer used twice shows its parameters once."""
    fields: dict[Node, _Field | None] = {}
    rows: list[Measure] = []
    counted = set()
    for node in nodes:
        layer = node.layer
        fields[node] = field = _field(node, [fields[source] for source in node.inputs])
        if layer is None:
            continue
        rows.append(
            Measure(
                names[layer],
                repr(layer),
                node.shape,
                0 if layer in counted else layer.parameter_count,
                layer.multiply_adds(node.shape),
                tuple(map(floor, field.reach)) if field else None,
                layer.learns or not layer.parameter_count,
            )
        )
        counted.add(layer)
    return rows


def _field(node: Node, sources: Sequence[_Field | None]) -> _Field | None:
    rank = len(node.shape) - 1
    if rank < 1:
        return None
    if node.layer is None:
        return _Field((1,) * rank, (1,) * rank)
    known = [source for source in sources if source is not None]
    if len(known) < len(sources) or not node.layer.keeps_positions or {len(f.reach) for f in known} != {rank}:
        return None
    reach = tuple(max(axis) for axis in zip(*(source.reach for source in known), strict=True))
    jump = tuple(max(axis) for axis in zip(*(source.jump for source in known), strict=True))
    window = node.layer.window()
    if window is None:
        return _Field(reach, jump)
    extents, strides = window
    return _Field(
        tuple(r + (e - 1) * j * min(s, 1) for r, e, j, s in zip(reach, extents, jump, strides, strict=True)),
        tuple(j * s for j, s in zip(jump, strides, strict=True)),
    )


def table(rows: Sequence[Measure], parameters: int, trainable: int) -> str:
    """Return the rows as text, with a line of sums, and one of what is trainable where something is frozen."""
    cells = [("layer", "", "output", "parameters", "multiply-adds", "receptive field")]
    for row in rows:
        field = " x ".join(map(str, row.receptive_field)) if row.receptive_field else "all"
        shape = " x ".join(map(str, row.output_shape))
        cells.append((row.name, row.description, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}", field))
    total = sum(row.multiply_adds for row in rows)
    cells.append(("total", "", "", f"{parameters:,}", f"{total:,}", ""))
    if trainable < parameters:
        cells.append(("trainable", "", "", f"{trainable:,}", "", ""))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = (True, True, False, False, False, False)
    lines = [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)
