"""Networks that are a chain of layers, and blocks of layers for other networks."""

from __future__ import annotations

from collections.abc import Sequence

from fastcnn.graph.chain import Chain
from fastcnn.graph.graph import Graph
from fastcnn.layers.base import Layer


class Sequential(Chain, Graph):
    """A chain of layers.

    Parameters
    ----------
    layers
        Layers, and networks of one input and one output, which serve as layers: their own are named "block1.conv1", ...
    input_shape
        The shape of an input without the batch axis. Without it, the chain works inside other networks only.
    fuse, name
        As in `Graph`; by default a chain in another network is "sequential1", ...

    >>> from fastcnn.layers import Flatten, Linear, ReLU
    >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1))
    >>> len(net), net[1]
    (2, Linear(64, 10))
    >>> block = Sequential(Linear(10, 10), ReLU(), name="block")
    >>> deeper = Sequential(Flatten(), Linear(64, 10), block, input_shape=(8, 8, 1))
    >>> deeper[2][0] is block[0], [name for name, _ in deeper.named_layers()]
    (True, ['flatten1', 'linear1', 'block.linear1', 'block.relu1'])
    """

    def __init__(
        self,
        *layers: Layer | Graph,
        input_shape: Sequence[int] | None = None,
        fuse: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(*layers, input_shape=input_shape, name=name)
        self._prepare(fuse)
