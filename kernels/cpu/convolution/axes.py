"""The axes of a convolution: where the taps of an output pixel lie, and those of its gradient."""

from math import gcd
from typing import NamedTuple


class Axis(NamedTuple):
    """One axis of a gather. taps: filter indices by rising offset; offsets: their places, the first 0."""

    taps: tuple[int, ...]
    offsets: tuple[int, ...]
    start: int
    step: int
    out_start: int
    out_step: int
    outputs: int

    @property
    def extent(self) -> int:
        """The span of the taps in source pixels."""
        return self.offsets[-1] + 1 if self.offsets else 1

    def outside(self, size: int) -> bool:
        """Whether some tap falls outside a source axis of this size."""
        return bool(self.taps) and (self.start < 0 or self.start + (self.outputs - 1) * self.step + self.extent > size)


def forward_axis(taps: int, stride: int, before: int, dilation: int, count: int) -> Axis:
    """Return the axis of a forward pass with `count` outputs."""
    offsets = tuple(tap * dilation for tap in range(taps))
    return Axis(tuple(range(taps)), offsets, -before, stride, 0, 1, count)


def reaching(axis: Axis, size: int) -> Axis:
    """Return the axis without the taps that meet padding alone on a source axis of this size."""
    last = (axis.outputs - 1) * axis.step
    met = [(tap, at) for tap, at in zip(axis.taps, axis.offsets, strict=True) if -last <= axis.start + at < size]
    first = met[0][1] if met else 0
    taps, offsets = tuple(tap for tap, _ in met), tuple(at - first for _, at in met)
    return axis._replace(taps=taps, offsets=offsets, start=axis.start + first)


def sampled(axis: Axis) -> tuple[Axis, int]:
    """Return the axis on every skip-th source pixel alone, and skip, where the taps meet no others."""
    skip = gcd(axis.step, *axis.offsets)
    return axis._replace(step=axis.step // skip, offsets=tuple(offset // skip for offset in axis.offsets)), skip


def input_gradient_axes(taps: int, stride: int, before: int, dilation: int, size: int) -> list[Axis]:
    """Return the phases of the gradient by an input axis of `size` pixels.

    dx[h] reads dy[(h + before - r * dilation) / stride] for the taps r where that is a whole number.
    """
    axes = []
    for phase in range(min(stride, size)):
        met = [r for r in range(taps) if (phase + before - r * dilation) % stride == 0]
        places = sorted(((phase + before - r * dilation) // stride, r) for r in met)
        start = places[0][0] if places else 0
        offsets = tuple(place - start for place, _ in places)
        count = (size - phase + stride - 1) // stride
        axes.append(Axis(tuple(r for _, r in places), offsets, start, 1, phase, stride, count))
    return axes
