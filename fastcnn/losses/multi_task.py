"""The loss of a network of several outputs: one trunk, a loss for each head."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from fastcnn.arguments import ChecksArguments
from fastcnn.errors import ArgumentError, DataError
from fastcnn.losses.base import Loss
from fastcnn.representation import written_call
from fastcnn.shapes import number

Losses: TypeAlias = "Mapping[str, tuple[Loss, float]]"


class MultiTask(ChecksArguments):
    """The weighted sum of losses, one for each output of a network: {head: (loss, weight)}.

    A Trainer matches heads and
    outputs by name, and takes targets as {head: array}, or as a tuple in the order of the network's outputs. `forward`
    by itself takes dicts, or tuples in the order of the heads here.

    Parameters
    ----------
    heads
        {head: (loss, weight)}, a weight >= 0 for each loss. A head is the name of the layer whose output it is, as in
        `Linear(500, 4, name="box")`.

    Raises
    ------
    ArgumentError
        If `heads` is none of that.
    DataError
        If outputs or targets are given for other heads.

    >>> from fastcnn.losses import L1, CrossEntropy
    >>> loss = MultiTask({"class": (CrossEntropy(device="reference"), 1.0), "box": (L1(device="reference"), 0.5)})
    >>> round(loss.forward(([[0.0, 0.0]], [[1.0, 3.0]]), ([1], [[0.0, 0.0]])), 6)
    1.693147
    >>> loss.backward()
    (array([[ 0.5, -0.5]]), array([[0.25, 0.25]]))
    """

    def __init__(self, heads: Losses) -> None:
        if not isinstance(heads, Mapping) or not heads:
            raise ArgumentError(f"MultiTask got {heads!r}: give {{head: (loss, weight)}}, a head for each output.")
        found: dict[str, tuple[Loss, float]] = {}
        for name, entry in heads.items():
            if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[0], Loss):
                raise ArgumentError(f"MultiTask got {entry!r} for head {name!r}: give (loss, weight).")
            found[str(name)] = (entry[0], number(entry[1], f"the weight of head {name!r}", 0))
        self._start(found)

    def _start(self, heads: dict[str, tuple[Loss, float]]) -> None:
        self.heads = MappingProxyType(heads)  # other heads are another loss
        self._thread = _OfThread()

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.heads)

    def __setstate__(self, heads: dict[str, Any]) -> None:
        self._start(heads)

    def __repr__(self) -> str:
        return written_call(type(self), {"heads": dict(self.heads)})

    def select(self, values: Any, what: str, names: Sequence[str] | None = None) -> list[Any]:
        """Return {head: value}, or a tuple in the order of `names` (by default the heads), as a list in that order."""
        names = list(self.heads) if names is None else names
        if isinstance(values, Mapping):
            if set(values) != set(names):
                raise DataError(
                    f"{what} for {', '.join(map(str, values)) or 'no head'} were given, and the heads are "
                    f"{', '.join(names)}: give one for each."
                )
            return [values[name] for name in names]
        if not isinstance(values, tuple | list) or len(values) != len(names):
            given = f"{len(values)} arrays" if isinstance(values, tuple | list) else type(values).__name__
            raise DataError(f"{what} were given as {given}: give a dict or a tuple for {', '.join(names)}.")
        return list(values)

    def forward(self, y: Any, t: Any) -> float:
        """Return the weighted sum of the heads' losses.

        Parameters
        ----------
        y, t
            {head: outputs} and {head: targets}, or tuples in the order of the heads.
        """
        self._thread.is_ready = False
        outputs, targets = self.select(y, "outputs"), self.select(t, "targets")
        entries = zip(self.heads.values(), outputs, targets, strict=True)
        total = sum(weight * loss.forward(output, target) for (loss, weight), output, target in entries)
        self._thread.as_dict, self._thread.is_ready = isinstance(y, Mapping), True
        return float(total)

    def backward(self) -> Any:
        """Return the gradients of the last `forward` by its outputs: a dict where it was given one, else a tuple."""
        if not self._thread.is_ready:
            raise ArgumentError("MultiTask cannot go backward yet: call its forward first.")
        gradients = {name: weight * loss.backward() for name, (loss, weight) in self.heads.items()}
        return gradients if self._thread.as_dict else tuple(gradients.values())


class _OfThread(threading.local):
    """Whether a thread has gone forward, and with dicts."""

    as_dict = False
    is_ready = False
