"""Where windows meet the image, axis by axis, and the tables of `window_code.py` made of it.

An axis lists, for each output, the pixels that it meets and a value for each, and one value for the output itself.
Its transpose lists, for each pixel, the outputs that meet it: the way back is the same sweep over other tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.problem import Triple
from fastcnn.kernels.sampling import adaptive_span

Meeting = tuple[int, float]


class Axis(NamedTuple):
    """The meetings along one axis: of each output (pixel, value) in order, and the output's own value."""

    size: int  # pixels
    meetings: list[list[Meeting]]
    values: list[float]

    def transpose(self, value: float = 1.0) -> "Axis":
        """Return the axis of the way back; a meeting keeps its value, and `value` is that of every pixel."""
        back: list[list[Meeting]] = [[] for _ in range(self.size)]
        for output, met in enumerate(self.meetings):
            for pixel, number in met:
                back[pixel].append((output, number))
        return Axis(len(self.meetings), back, [value] * self.size)

    def tiles(self) -> bool:
        """Say whether every pixel meets one output."""
        return [pixel for met in self.meetings for pixel, _ in met] == list(range(self.size))


def window_axis(size: int, outputs: int, taps: int, stride: int, before: int, dilation: int = 1) -> Axis:
    """Return the axis of windows: tap t of output o meets pixel o * stride + t * dilation - before; its value is t."""
    found: list[list[Meeting]] = []
    for output in range(outputs):
        start = output * stride - before
        first, last = max(0, -(start // dilation)), min(taps, -((start - size) // dilation))
        found.append([(start + tap * dilation, tap) for tap in range(first, last)])
    return Axis(size, found, [1.0] * outputs)


def adaptive_axis(size: int, outputs: int) -> Axis:
    """Return the axis of adaptive windows (see `adaptive_span`): the value of a meeting is the tap."""
    spans = [adaptive_span(size, outputs, output) for output in range(outputs)]
    return Axis(size, [[(i, i - a) for i in range(a, b)] for a, b in spans], [float(b - a) for a, b in spans])


def coded(axes: Sequence[Axis], window: Triple) -> list[Axis]:
    """Return axes whose values add up to the number (t * R + r) * S + s of the tap in its window (T, R, S)."""
    scales = window[1] * window[2], window[2], 1
    return [
        axis._replace(meetings=[[(pixel, tap * scale) for pixel, tap in met] for met in axis.meetings])
        for axis, scale in zip(axes, scales, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Tables:
    """What a sweep reads, in the order of `window_code.py`; rows of outputs are counted through depth and height."""

    starts: np.ndarray  # (rows + 1,): the first row entry of each row
    rows: np.ndarray  # (row entries, 2)
    row_values: np.ndarray  # (rows,): doubles as int64
    segments: np.ndarray  # (segments, 5)
    columns: np.ndarray  # (column entries, 2)
    row: int  # elements of a row of outputs
    image: int  # elements of the pixels of one image
    longest: int  # elements of the longest segment
    pitch: int  # elements of a row of pixels


def tables(axes: Sequence[Axis], C: int, codes: bool) -> Tables:
    """Return the tables of three axes: values of meetings add up where they are `codes`, else they multiply."""
    depth, height, width = axes
    starts, rows, row_values = [0], [], []
    for o, deep in enumerate(depth.meetings):
        for p, high in enumerate(height.meetings):
            rows += [
                ((d * height.size + h) * width.size * C, a + b if codes else a * b) for d, a in deep for h, b in high
            ]
            starts.append(len(rows))
            row_values.append(depth.values[o] * height.values[p])
    segments, columns = _segments(width, C)
    return Tables(
        np.array(starts), _entries(rows, codes), _bits(row_values), segments, _entries(columns, codes),
        len(width.meetings) * C, depth.size * height.size * width.size * C, int(segments[:, 1].max(initial=0)),
        width.size * C,
    )  # fmt: skip


def _segments(width: Axis, C: int) -> tuple[np.ndarray, list[Meeting]]:
    """Return the segments of a row and their column entries; neighbours that meet the same taps are one segment."""
    segments: list[list[int]] = []
    columns: list[Meeting] = []
    values: list[float] = []
    before: list[Meeting] | None = None
    for output, met in enumerate(width.meetings):
        if before is not None and values[-1] == width.values[output] and _follows(before, met):
            segments[-1][1] += C
        else:
            segments.append([output * C, C, len(columns), len(met)])
            values.append(width.values[output])
            columns += [(pixel * C, value) for pixel, value in met]
        before = met
    table = np.array(segments, np.int64).reshape(-1, 4)
    return np.column_stack([table, _bits(values)]), columns


def _follows(before: list[Meeting], met: list[Meeting]) -> bool:
    """Say whether an output meets the pixels after those of the output before it, with the same values."""
    return len(before) == len(met) and all(
        one + 1 == other and a == b for (one, a), (other, b) in zip(before, met, strict=True)
    )


def _bits(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float64).view(np.int64)


def _entries(entries: list[Meeting], codes: bool) -> np.ndarray:
    """Return (offset, value) as int64, and an entry more: a reader may look at the place after the last."""
    places = np.array([place for place, _ in [*entries, (0, 0)]], np.int64)
    values = [value for _, value in [*entries, (0, 0)]]
    return np.column_stack([places, np.array(values, np.int64) if codes else _bits(values)])
