"""Where every array of a plan stands: a slot for each value and gradient, for as long as something needs it.

Time runs through the steps, then, where a way back is wanted, through them in reverse. A value lives until its last
reader, and until the way back of the steps that read it there; a gradient from its first part until its own step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from fastcnn.backend import Backend, Fused
from fastcnn.engine.arena import Slot, place
from fastcnn.engine.steps import Normalized, Step
from fastcnn.layers.node import Node

Returns: TypeAlias = Literal["nothing", "parameters", "inputs"]
"""What a way back fills: no gradient, those by the parameters, or those by the inputs of the network too."""


@dataclass
class Way:
    """A step's way back: from the gradient `dy` to `targets`, one a source (None: not wanted, or dy itself).

    `total` is added to the first target as it is filled, which is summed for the step `summed`, if there is one.
    `sums` are added up afterwards: (source, its gradient so far, the part to add).
    """

    step: Step
    dy: Slot
    targets: list[Slot | None]
    sums: list[tuple[Node, Slot, Slot]]
    total: Slot | None = None
    summed: Normalized | None = None


class Layout:
    """The slots of a plan's `values` and `gradients`, its `ways` back in order, and the `size` of all in bytes.

    `gradients` are where a way back ends, `starts` those by the outputs where it begins.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        inputs: Sequence[Node],
        outputs: Sequence[Node],
        pixel: int,
        fuse: bool,
        training: bool,
        returns: Returns,
        needed: set[Node],
        backend: Backend,
    ) -> None:
        """`pixel`: bytes of one number of a node's shape, for the whole batch; `fuse`: kernels may add gradients up.

        `needed` as `needed_gradients` returns them; the backend says where slots start, and what is fused.
        """
        self._steps, self._pixel, self._training, self._needed = steps, pixel, training, needed
        self._sums = fuse and Fused.GRADIENT_SUM in backend.fuses
        self._end = 2 * len(steps) + 1
        self._again = returns == "inputs"  # such a way back may be run several times
        self._slots: list[Slot] = []
        self.values: dict[Node, Slot] = {}
        self.gradients: dict[Node, Slot] = {}
        self.starts: dict[Node, Slot] = {}
        self.ways: list[Way] = []
        for node in inputs:
            self.values[node] = self._slot(node, 0, self._end)
        self._find_roots({*inputs, *outputs})
        for time, step in enumerate(steps, 1):
            self._go(time, step)
        for node in outputs:
            self.values[node].touch(self._end)
        if returns != "nothing":
            for node in outputs:
                self.gradients[node] = self._slot(node, len(steps) + 1, len(steps) + 1)
            self.starts = dict(self.gradients)
            for time, step in enumerate(reversed(steps), len(steps) + 1):
                if step.output in self._needed:
                    self._return(time, step)
            if Fused.GRADIENT_MOMENTS in backend.fuses:
                self._sum_gradients()
        for node in inputs if returns == "inputs" else ():
            self.gradients[node].touch(self._end)
        self.size = place(self._slots, backend.alignment)

    def _slot(self, node: Node, first: int, last: int) -> Slot:
        self._slots.append(Slot(prod(node.shape) * self._pixel, first, last))
        return self._slots[-1]

    def _find_roots(self, fixed: set[Node]) -> None:
        """Find, for each node, the one whose array it sees, who reads it last, and which are wanted later."""
        self._root: dict[Node, Node] = {}
        self._last_read: dict[Node, int] = {}
        kept = set(fixed)
        for time, step in enumerate(self._steps, 1):
            roots = [self._root.get(source, source) for source in step.sources]
            self._root[step.output] = roots[0] if step.is_view(self._training) else step.output
            self._last_read |= dict.fromkeys(roots, time)
            kept |= self._read_back(step)
        self._kept = {self._root.get(node, node) for node in kept}

    def _read_back(self, step: Step) -> set[Node]:
        """Return the nodes whose values the way back of a step reads."""
        if step.output not in self._needed or step.is_view(self._training):
            return set()
        return step.read_back

    def _go(self, time: int, step: Step) -> None:
        for source in step.sources:
            self.values[source].touch(time)
        if step.is_view(self._training) or (step.in_place and self._overwritable(step, time)):
            self.values[step.output] = self.values[step.sources[0]]
        else:
            self.values[step.output] = self._slot(step.output, time, time)

    def _overwritable(self, step: Step, time: int) -> bool:
        roots = [self._root.get(source, source) for source in step.sources]
        return roots[0] not in self._kept and self._last_read[roots[0]] == time and roots.count(roots[0]) == 1

    def _return(self, time: int, step: Step) -> None:
        dy = self.gradients[step.output]
        dy.touch(time)
        for node in self._read_back(step):
            self.values[node].touch(self._end if self._again else time)
        view = step.is_view(self._training)
        way = Way(step, dy, [], [])
        left = True  # nobody has taken dy over
        for k, source in enumerate(step.sources):
            total, target = self.gradients.get(source), None
            if source in self._needed:
                passes = view or k in step.passes
                if total is not None and k == 0 and self._sums and step.finishes_gradient:
                    way.total = total
                    total.touch(time)
                    target = self.gradients[source] = self._slot(source, time, time)
                elif total is not None:
                    reads_dy = passes and total is not dy  # dy itself grows where a source is met again
                    part = dy if reads_dy else self._slot(source, time, time)
                    target = None if reads_dy else part
                    total.touch(time)
                    way.sums.append((source, total, part))
                elif left and (passes or step.in_place):
                    self.gradients[source], left = dy, False
                    target = None if passes else dy
                else:
                    target = self.gradients[source] = self._slot(source, time, time)
            way.targets.append(target)
        way.sums.sort(key=lambda entry: entry[1] is dy)  # what others read of dy, they read before it grows
        self.ways.append(way)

    def _sum_gradients(self) -> None:
        """Have the gradient by a normalization's output summed by the step that fills it last, if it finishes it."""
        last: dict[Node, tuple[Way, int]] = {}
        for way in self.ways:
            last.update({source: (way, k) for k, source in enumerate(way.step.sources) if source in self._needed})
        for step in self._steps:
            if isinstance(step, Normalized) and step.takes_sums and step.output in last:
                way, k = last[step.output]
                whole = all(source is not step.output for source, *_ in way.sums)  # not added up afterwards
                if k == 0 and whole and way.step.finishes_gradient and step.output not in self.starts:
                    way.summed, step.summed = step, True


def needed_gradients(inputs: Sequence[Node], nodes: Sequence[Node], returns: Returns) -> set[Node]:
    """Return those of the nodes, in order, whose gradient leads to a parameter that learns or to a wanted input."""
    needed: set[Node] = set(inputs) if returns == "inputs" else set()
    for node in nodes if returns != "nothing" else ():
        if node.layer is not None and (node.layer.learns or any(source in needed for source in node.inputs)):
            needed.add(node)
    return needed
