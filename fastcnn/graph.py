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
from fastcnn.arrays import Array, Shape, as_float, channels_first_hint, float_dtype
from fastcnn.backend import check_device, get
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.layers.base import Layer
from fastcnn.layout import Returns
from fastcnn.measures import Measure, measure, table
from fastcnn.node import Input, Node
from fastcnn.parameters import FirstValues, Store, drawn
from fastcnn.plan import Plan
from fastcnn.seeding import default_generator, seeded
from fastcnn.shapes import whole
from fastcnn.topology import common_device, common_dtype, in_order, name_layers, node_list

if TYPE_CHECKING:
    from fastcnn.losses import Loss, MultiTask
    from fastcnn.memory import Memory
    from fastcnn.optimizers import Optimizer

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
        self.layers = list(dict.fromkeys(node.layer for node in self.nodes if node.layer))
        self.fuse = fuse
        self.metadata: dict[str, Any] = {}
        name_layers(self.layers)
        self.dtype = common_dtype(self.layers)
        self.device = common_device(self.layers)
        self._store: Store | None = None
        self.training = True
        self._plans: OrderedDict[tuple[int, bool, Returns], Plan] = OrderedDict()
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
        return [(node.layer.name or "") if node.layer else "input" for node in self.outputs]

    @property
    def parameter_count(self) -> int:
        """How many numbers the network learns."""
        return sum(layer.parameter_count for layer in self.layers)

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Iterate over (name, layer) in the order of execution."""
        return ((layer.name or "", layer) for layer in self.layers)

    def measures(self) -> list[Measure]:
        """Return what `summary` shows, a row a node."""
        return measure(self.nodes)

    def summary(self) -> str:
        """Return a table of output shapes, parameters, multiply-adds and receptive fields."""
        return table(self.measures(), self.parameter_count)

    def memory(
        self,
        batch_size: int = 128,
        training: bool = True,
        optimizer: Optimizer | None = None,
        loss: Loss | MultiTask | None = None,
    ) -> Memory:
        """Return the bytes that a training step, or a prediction, of so many images holds; nothing runs.

        By default the optimizer is SGD with momentum, and the loss CrossEntropy at each output.

        >>> from fastcnn.layers import Flatten, Linear
        >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1)).to("reference")
        >>> needed = net.memory(256)
        >>> needed.parameters, needed.gradients, needed.optimizer
        (2624, 2624, 2624)
        """
        from fastcnn.heads import losses_by_output
        from fastcnn.losses import CrossEntropy
        from fastcnn.memory import memory_of
        from fastcnn.optimizers import SGD

        whole(batch_size, 1, "batch_size")
        losses = losses_by_output(self, loss) if loss else [(CrossEntropy(), 1.0) for _ in self.outputs]
        return memory_of(self, batch_size, bool(training), optimizer or SGD(momentum=0.9), losses)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.layers)} layers, {self.parameter_count:,} parameters>"

    # Parameters

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

    def plan(self, batch: int, training: bool, returns: Returns = "nothing") -> Plan:
        """Return the plan for a batch size, in training or prediction, with this way back.

        Plans share two arenas, one for passes with a way back and one for those without: a forward pass that waits
        for its backward is left alone by predictions.
        """
        key = batch, training, returns
        store = self.own_store()
        plan = self._plans.pop(key, None)
        if plan is None:
            arena = partial(self._arena, returns != "nothing")
            plan = Plan(self.nodes, self.inputs, self.outputs, store, batch, self.fuse, training, returns, arena)
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

    def forward(self, *xs: ArrayLike) -> Any:
        """Return the outputs for a batch, as in training (see `train` and `eval`), ready for `backward`.

        Takes an array (N, *input shape) of floats for each input, in any order in memory; returns an
        array (N, *output shape) in the network's dtype, or a tuple for several outputs. Raises
        ShapeError or DataError for arrays that do not fit.
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

    def predict(self, *xs: ArrayLike, batch_size: int = 256) -> Any:
        """Return the outputs for any number of inputs, computed in batches.

        Arrays and errors as `forward`. A classifier's outputs are its logits.

        >>> from fastcnn.layers import Flatten, Linear
        >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1)).to("reference")
        >>> net.predict(np.zeros((300, 8, 8, 1))).shape
        (300, 10)
        """
        whole(batch_size, 1, "batch_size")
        arrays = self.check_inputs(*xs)
        total = arrays[0].shape[0]
        results = [np.empty((total, *shape), self.dtype) for shape in self.output_shapes]
        for start in range(0, total, batch_size):
            rows = slice(start, min(start + batch_size, total))
            plan = self.plan(rows.stop - start, training=False)
            plan.load([array[rows] for array in arrays])
            plan.forward()
            for result, y in zip(results, plan.outputs, strict=True):
                result[rows] = plan.backend.to_host(y)
        return _single(results)

    def check_inputs(self, *xs: ArrayLike) -> list[Array]:
        """Return the inputs as float arrays, or refuse those that do not fit the network."""
        if len(xs) != len(self.inputs):
            raise ShapeError(f"the network got {len(xs)} inputs and has {len(self.inputs)}: give one for each.")
        arrays = [as_float(x, "the network's input") for x in xs]
        for array, shape in zip(arrays, self.input_shapes, strict=True):
            if array.shape[1:] != shape or array.ndim == 0:
                raise _wrong_input(array.shape, shape)
        if len({array.shape[0] for array in arrays}) > 1:
            counts = ", ".join(str(array.shape[0]) for array in arrays)
            raise ShapeError(f"the inputs hold {counts} images: give as many in each.")
        return arrays

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


def _wrong_input(got: Shape, needed: Shape) -> ShapeError:
    axes = ", ".join(map(str, needed))
    hint = channels_first_hint(got[1:], needed)
    if not hint and got == needed:
        hint = "a batch axis is missing: add one with x[None]."
    if not hint and (*got[1:], 1) == needed:
        hint = "the channel axis is missing: add one with x[..., None]."
    return ShapeError(
        f"the network got an array of shape {got}, and needs (N, {axes}): "
        + (hint or "resize the images or build the network for their shape.")
    )


def _single(results: list[Array]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)
