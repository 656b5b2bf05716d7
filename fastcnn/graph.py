"""Networks: Graph for any shape of network, Sequential for a chain of layers.

A graph is static: its nodes, shapes and names are fixed and checked when it is made. It keeps all
its parameters in one store and a few plans, one for each batch size met lately.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arena import Arena
from fastcnn.arrays import Array, Shape, as_float, float_dtype
from fastcnn.backend import check_device, get
from fastcnn.errors import ArgumentError
from fastcnn.inputs import Inputs, check_inputs, input_names, listed
from fastcnn.layers.base import Layer
from fastcnn.layout import Returns
from fastcnn.measures import Measure, measure, table
from fastcnn.node import Input, Node
from fastcnn.parameters import FirstValues, Store, drawn
from fastcnn.plan import Modes, Plan, modes
from fastcnn.seeding import default_generator, seeded
from fastcnn.selection import choose_layers, node_names, unknown
from fastcnn.shapes import whole
from fastcnn.topology import common_device, common_dtype, in_order, leading_to, name_layers, node_list

if TYPE_CHECKING:
    from fastcnn.transfer import Loaded

# Training, its last partial batch, evaluation and its last partial batch.
PLANS_KEPT = 4


class Graph:
    """A network from input nodes to output nodes.

    Parameters
    ----------
    inputs, outputs
        One node or several; every Input that the outputs need must be listed.
    fuse
        Run a ReLU inside the convolution or linear layer before it; the results are the same.

    >>> from fastcnn.layers import Conv2d, ReLU
    >>> x = Input(8, 8, 3)
    >>> h = ReLU()(Conv2d(3, 4, 3, padding=1)(x))
    >>> net = Graph(x, h + Conv2d(4, 4, 1)(h))
    >>> net.parameter_count, net.output_shapes
    (132, [(8, 8, 4)])
    """

    def __init__(self, inputs: Node | Sequence[Node], outputs: Node | Sequence[Node], *, fuse: bool = True) -> None:
        self.inputs = node_list(inputs, "inputs")
        self.outputs = node_list(outputs, "outputs")
        self.nodes = in_order(self.inputs, self.outputs)
        self.input_names = input_names(self.inputs)
        self.layers = list(dict.fromkeys(node.layer for node in self.nodes if node.layer))
        self.fuse = fuse
        self.metadata: dict[str, Any] = {}
        name_layers(self.layers)
        self.dtype = common_dtype(self.layers)
        self.device = common_device(self.layers)
        self._store: Store | None = None
        self.training = True
        self._plans: OrderedDict[tuple[int, bool, Returns, Modes, tuple[Node, ...]], Plan] = OrderedDict()
        self._arenas: dict[bool, Arena] = {}
        self._last: tuple[Plan, int] | None = None

    # What it is

    @property
    def input_shapes(self) -> list[Shape]:
        """The shapes of the inputs, without the batch axis."""
        return [node.shape for node in self.inputs]

    @property
    def output_shapes(self) -> list[Shape]:
        """The shapes of the outputs, without the batch axis."""
        return [node.shape for node in self.outputs]

    @property
    def output_names(self) -> list[str]:
        """The names of the layers whose outputs are the network's."""
        inputs = dict(zip(self.inputs, self.input_names, strict=True))
        return [(node.layer.name or "") if node.layer else inputs[node] for node in self.outputs]

    @property
    def parameter_count(self) -> int:
        """How many numbers the network learns."""
        return sum(layer.parameter_count for layer in self.layers)

    @property
    def trainable_count(self) -> int:
        """How many numbers training changes: those of layers that are not frozen."""
        return sum(layer.parameter_count for layer in self.layers if layer.trainable)

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Iterate over (name, layer) in the order of execution."""
        return ((layer.name or "", layer) for layer in self.layers)

    def node(self, name: str) -> Node:
        """Return the node of a layer by name, to build on: `Graph(net.inputs, Linear(512, 10)(net.node("avgpool")))`.

        Where a layer is used several times, "name" is its first node, "name:2" the second, and so on.
        """
        named = node_names(self.nodes, {layer: name for name, layer in self.named_layers()})
        if name not in named:
            raise unknown("layer", name, list(named))
        return named[name]

    def trunk(self, *names: str) -> Graph:
        """Return the part of the network that leads to some layers, as a network whose outputs are theirs.

        The layers and their parameters are this network's own.

        >>> from fastcnn.layers import Linear, ReLU
        >>> net = Sequential(Linear(2, 3), ReLU(), Linear(3, 1), input_shape=(2,))
        >>> net.trunk("relu1").output_shapes
        [(3,)]
        """
        ends = [self.node(name) for name in names]
        used = leading_to(ends)
        return Graph([node for node in self.inputs if node in used], ends, fuse=self.fuse)

    def measures(self) -> list[Measure]:
        """Return what `summary` shows, a row a node."""
        return measure(self.nodes)

    def summary(self) -> str:
        """Return a table of output shapes, parameters, multiply-adds and receptive fields."""
        return table(self.measures(), self.parameter_count, self.trainable_count)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.layers)} layers, {self.parameter_count:,} parameters>"

    # Parameters

    def freeze(self, *what: str | Layer) -> Graph:
        """Let training leave some layers as they are, by default all, and return the network.

        Give names, prefixes ("layer1" is every layer "layer1.*"), or layers. Frozen parameters get no gradients, and
        optimizers change neither them nor what they keep for them. The way back ends at the first layer that learns,
        so a frozen trunk costs its forward pass only. As in PyTorch, normalizations go on tracking running statistics;
        `layer.eval()` holds these still, too. Files do not keep what was frozen.

        >>> from fastcnn.layers import Linear
        >>> net = Sequential(Linear(4, 8), Linear(8, 2), input_shape=(4,)).freeze().unfreeze("linear2")
        >>> net.trainable_count, net.parameter_count
        (18, 58)
        """
        return self._set_trainable(False, what)

    def unfreeze(self, *what: str | Layer) -> Graph:
        """Let training change some layers again, by default all, and return the network."""
        return self._set_trainable(True, what)

    def _set_trainable(self, value: bool, what: Sequence[str | Layer]) -> Graph:
        for layer in choose_layers(dict(self.named_layers()), what):
            layer.trainable = value
        return self

    def initialize(self, seed: int) -> None:
        """Draw all parameters anew from a seed."""
        generator = seeded(seed)
        for layer in self.layers:
            layer.store = None
        self.own_store(drawn(generator))

    def draw_missing(self, seed: int) -> None:
        """Draw from a seed those parameters that nobody has looked at or set yet."""
        self.own_store(drawn(seeded(seed)))

    def own_store(self, first: FirstValues | None = None) -> Store:
        """Return the store of all parameters; take back layers that another network has claimed."""
        if self._store is None or not self._store.owns(self.layers):
            self._store = Store(self.layers, get(self.device), self.dtype, first or drawn(default_generator()))
            self._plans.clear()
            self._arenas.clear()
        return self._store

    def astype(self, dtype: DTypeLike) -> Graph:
        """Change the network to float32 or float64, in place, and return it."""
        return self._move(float_dtype(dtype), self.device)

    def to(self, device: str) -> Graph:
        """Move the network to another device, in place, and return it."""
        return self._move(self.dtype, check_device(device))

    def _move(self, dtype: np.dtype[Any], device: str) -> Graph:
        if (dtype, device) != (self.dtype, self.device):
            self.dtype, self.device = dtype, device
            self._store = None
            self._last = None
            for layer in self.layers:
                layer.dtype, layer.device = dtype, device
        return self

    # Execution

    def train(self, mode: bool = True) -> Graph:
        """Let `forward` work as in training (or, by `mode` False, as in prediction), and return the network.

        A Trainer and `predict` choose by themselves.
        """
        self.training = bool(mode)
        return self

    def eval(self) -> Graph:
        """Let `forward` work as in prediction, and return the network."""
        return self.train(False)

    def plan(
        self, batch: int, training: bool, returns: Returns = "nothing", outputs: Sequence[Node] | None = None
    ) -> Plan:
        """Return the plan for a batch size, in training or prediction, with this way back.

        `outputs` may be any of the nodes in place of the network's outputs.

        Plans share two arenas, one for passes with a way back and one for those without: a forward pass that waits
        for its backward is left alone by predictions.
        """
        ends = tuple(self.outputs if outputs is None else outputs)
        key = batch, training, returns, modes(self.layers), ends
        store = self.own_store()
        plan = self._plans.pop(key, None)
        if plan is None:
            arena = partial(self._arena, returns != "nothing")
            used = leading_to(ends)
            nodes = [node for node in self.nodes if node in used]
            plan = Plan(nodes, self.inputs, ends, store, batch, self.fuse, training, returns, arena)
        self._plans[key] = plan
        while len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan

    def _arena(self, returns: bool, size: int) -> Arena:
        """Return the arena of plans with or without a way back; a larger one replaces it and the plans on it."""
        held = self._arenas.get(returns)
        if held is None or held.size < size:
            for key in [key for key, plan in self._plans.items() if plan.arena is held]:
                del self._plans[key]
            held = self._arenas[returns] = Arena(get(self.device), size)
        return held

    def forward(self, *xs: Inputs) -> Any:
        """Return the outputs for a batch, as in training (see `train` and `eval`), ready for `backward`.

        Takes an array (N, *input shape) of floats for each input, in any order in memory, or one dict
        {input's name: array}; returns an array (N, *output shape) in the network's dtype, or a tuple for
        several outputs. Raises ShapeError or DataError for arrays that do not fit.
        """
        arrays = self.check_inputs(*xs)
        plan = self.plan(arrays[0].shape[0], self.training, returns="inputs")
        plan.load(arrays)
        plan.forward()
        self._last = (plan, plan.arena.generation)
        return _single([plan.backend.to_host(y) for y in plan.outputs])

    def backward(self, *dys: ArrayLike) -> Any:
        """Fill the layers' `grads`; return the gradients by the inputs of the last `forward`.

        Takes the loss's gradient by each output, in that output's shape.
        """
        plan, generation = self._last or (None, 0)
        if plan is None or plan.arena.generation != generation or plan.store is not self.own_store():
            raise ArgumentError(f"{self!r} has no forward pass to go back from: call forward again first.")
        plan.load_gradients([as_float(dy, "the output gradient") for dy in dys])
        plan.backward()
        return _single([plan.backend.to_host(dx) for dx in plan.input_gradients])

    def predict(self, *xs: Inputs, batch_size: int = 256) -> Any:
        """Return the outputs for any number of inputs, computed in batches.

        Arrays and errors as `forward`. A classifier's outputs are its logits.

        >>> from fastcnn.layers import Flatten, Linear
        >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1)).to("reference")
        >>> net.predict(np.zeros((300, 8, 8, 1))).shape
        (300, 10)
        """
        return _single(self._values(self.outputs, self.check_inputs(*xs), batch_size))

    def activations(self, x: Any, *names: str, batch_size: int = 256) -> Any:
        """Return what some layers put out in prediction, for any number of inputs, computed in batches.

        Parameters
        ----------
        x
            An array (N, *input shape), or for several inputs a tuple or {input's name: array}.
        names
            Names of layers (see `node`), at least one.

        Returns
        -------
        An array (N, *shape) for one name; for several {name: array}, from one pass.

        Errors as `predict`, and ArgumentError for a name that no layer has.

        >>> from fastcnn.layers import Linear, ReLU
        >>> net = Sequential(Linear(2, 3), ReLU(), Linear(3, 1), input_shape=(2,)).to("reference")
        >>> net.activations(np.ones((5, 2)), "relu1").shape
        (5, 3)
        """
        if not names:
            raise ArgumentError("activations was given no name: name one or several layers whose outputs to return.")
        nodes = {name: self.node(name) for name in names}
        arrays = self.check_inputs(*listed(x, len(self.inputs)))
        found = dict(zip(nodes, self._values(list(dict.fromkeys(nodes.values())), arrays, batch_size), strict=True))
        return found if len(names) > 1 else found[names[0]]

    def _values(self, nodes: Sequence[Node], arrays: Sequence[Array], batch_size: int) -> list[Array]:
        """Return the values of some nodes in prediction."""
        whole(batch_size, 1, "batch_size")
        total = arrays[0].shape[0]
        results = [np.empty((total, *node.shape), self.dtype) for node in nodes]
        for start in range(0, total, batch_size):
            rows = slice(start, min(start + batch_size, total))
            plan = self.plan(rows.stop - start, training=False, outputs=nodes)
            plan.load([array[rows] for array in arrays])
            plan.forward()
            for result, y in zip(results, plan.outputs, strict=True):
                result[rows] = plan.backend.to_host(y)
        return results

    def check_inputs(self, *xs: Inputs) -> list[Array]:
        """Return the inputs as float arrays, or refuse those that do not fit the network."""
        return check_inputs(xs, self.input_names, self.input_shapes)

    def load_parameters(self, path: str | PathLike[str], strict: bool = True) -> Loaded:
        """Fill parameters and states by name from a safetensors file, and return what matched and what did not.

        See `fastcnn.transfer.load_parameters`.
        """
        from fastcnn.transfer import load_parameters

        return load_parameters(self, path, strict)

    def save(self, path: str | PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Write the network to a safetensors file.

        `metadata`, a dict of JSON values, replaces `net.metadata`.
        """
        from fastcnn.checkpoint import save

        save(self, path, metadata)


class Sequential(Graph):
    """A chain of layers.

    >>> from fastcnn.layers import Flatten, Linear
    >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1))
    >>> len(net), net[1]
    (2, Linear(64, 10))
    """

    def __init__(self, *layers: Layer, input_shape: Sequence[int], fuse: bool = True) -> None:
        for layer in layers:
            if not isinstance(layer, Layer):
                raise ArgumentError(f"Sequential was given {layer!r}: it takes layers only.")
        name_layers(list(dict.fromkeys(layers)))
        self.chain = layers
        if not isinstance(input_shape, list | tuple):
            raise ArgumentError(
                f"input_shape={input_shape!r} was given: give its axes without the batch, as (28, 28, 1)."
            )
        first = Input(*input_shape)
        node: Node = first
        for layer in layers:
            node = layer(node)
        super().__init__(first, node, fuse=fuse)

    def __len__(self) -> int:
        return len(self.chain)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.chain)

    @overload
    def __getitem__(self, index: int) -> Layer: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Layer, ...]: ...

    def __getitem__(self, index: int | slice) -> Layer | tuple[Layer, ...]:
        return self.chain[index]


def _single(results: list[Array]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)
