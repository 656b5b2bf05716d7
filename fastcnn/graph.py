"""Networks of any shape; `sequential.py` has those that are a chain.

A graph is static: its nodes, shapes and names are fixed and checked when it is made. It keeps all
its parameters in one store and a few plans, one for each batch size met lately.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arena import Arena
from fastcnn.arrays import Array, as_float, float_dtype
from fastcnn.backend import check_device, get
from fastcnn.errors import ArgumentError
from fastcnn.inputs import Inputs, check_inputs, listed
from fastcnn.layers.base import Layer
from fastcnn.layout import Returns
from fastcnn.node import Node
from fastcnn.parameters import FirstValues, Store, drawn
from fastcnn.plan import Modes, Plan, modes
from fastcnn.seeding import default_generator, seeded
from fastcnn.shapes import whole
from fastcnn.structure import Structure
from fastcnn.topology import common_device, common_dtype, leading_to

if TYPE_CHECKING:
    from fastcnn.losses import Loss, MultiTask
    from fastcnn.memory import Memory
    from fastcnn.optimizers import Optimizer
    from fastcnn.transfer import Loaded

# Training, its last partial batch, evaluation and its last partial batch.
PLANS_KEPT = 4


class Graph(Structure):
    """A network from input nodes to output nodes.

    Parameters
    ----------
    inputs, outputs
        One node or several; every Input that the outputs need must be listed.
    fuse
        Let one kernel do the work of several layers (`fusion.py`); the results are the same.
    name
        What names its layers inside another network: called on a node, a network is a layer there, with the same
        parameters; "graph1", ... otherwise.

    >>> from fastcnn.layers import Conv2d, ReLU
    >>> from fastcnn.node import Input
    >>> x = Input(8, 8, 3)
    >>> h = ReLU()(Conv2d(3, 4, 3, padding=1)(x))
    >>> net = Graph(x, h + Conv2d(4, 4, 1)(h))
    >>> net.parameter_count, net.output_shapes
    (132, [(8, 8, 4)])
    """

    def __init__(
        self,
        inputs: Node | Sequence[Node],
        outputs: Node | Sequence[Node],
        *,
        fuse: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(inputs, outputs, name)
        self._prepare(fuse)

    def _prepare(self, fuse: bool) -> None:
        self.fuse = fuse
        self.metadata: dict[str, Any] = {}
        self.dtype = common_dtype(self.layers)
        self.device = common_device(self.layers)
        self._store: Store | None = None
        self._seen, self._modes = -1, modes(())  # what `Layer.changes` and the modes were when the store was looked at
        self.training = True
        self._plans: OrderedDict[tuple[int, bool, Returns, Modes, tuple[Node, ...]], Plan] = OrderedDict()
        self._arenas: dict[bool, Arena] = {}
        self._last: tuple[Plan, int] | None = None

    def memory(
        self,
        batch_size: int = 128,
        training: bool = True,
        optimizer: Optimizer | None = None,
        loss: Loss | MultiTask | None = None,
    ) -> Memory:
        """Return the bytes that a training step, or a prediction, of so many images holds; nothing runs.

        By default the optimizer is SGD with momentum, and the loss CrossEntropy at each output.

        Parameters
        ----------
        batch_size
            Images at a time, at least 1.
        training
            Whether for a training step, or for a prediction.
        optimizer, loss
            Whose arrays count, too, in training.

        >>> from fastcnn.layers import Flatten, Linear
        >>> from fastcnn.sequential import Sequential
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

    # Parameters

    def initialize(self, seed: int) -> None:
        """Draw all parameters anew from a seed.

        Parameters
        ----------
        seed
            A whole number from 0 up.
        """
        generator = seeded(seed)
        for layer in self.layers:
            layer.store = None
        self.own_store(drawn(generator))

    def draw_missing(self, seed: int) -> None:
        """Draw from a seed those parameters that nobody has looked at or set yet.

        Parameters
        ----------
        seed
            A whole number from 0 up.
        """
        self.own_store(drawn(seeded(seed)))

    def own_store(self, first: FirstValues | None = None) -> Store:
        """Return the store of all parameters; take back layers that another network has claimed."""
        if self._store is None or self._seen != Layer.changes:
            if self._store is None or not self._store.owns(self.layers):
                for layer, name in self.names.items():
                    layer.name = name
                self._store = Store(self.layers, get(self.device), self.dtype, first or drawn(default_generator()))
                self._plans.clear()
                self._arenas.clear()
            self._seen, self._modes = Layer.changes, modes(self.layers)
        return self._store

    def astype(self, dtype: DTypeLike) -> Graph:
        """Change the network to float32 or float64, in place, and return it.

        Parameters
        ----------
        dtype
            "float32" or "float64".
        """
        return self._move(float_dtype(dtype), self.device)

    def to(self, device: str) -> Graph:
        """Move the network to another device, in place, and return it.

        Parameters
        ----------
        device
            "cpu" or "reference".
        """
        return self._move(self.dtype, check_device(device))

    def _move(self, dtype: np.dtype[Any], device: str) -> Graph:
        if (dtype, device) != (self.dtype, self.device):
            self.dtype, self.device = dtype, device
            self._store = None
            self._last = None
            for layer in self.layers:
                layer.dtype, layer.device = dtype, device
        return self

    # Parts

    def trunk(self, *names: str) -> Graph:
        """Return the part of the network that leads to some layers, as a network whose outputs are theirs.

        The layers and their parameters are this network's own.

        Parameters
        ----------
        *names
            Names of layers (see `node`), one or several.

        >>> from fastcnn.layers import Linear, ReLU
        >>> from fastcnn.sequential import Sequential
        >>> net = Sequential(Linear(2, 3), ReLU(), Linear(3, 1), input_shape=(2,))
        >>> net.trunk("relu1").output_shapes
        [(3,)]
        """
        ends = [self.node(name) for name in names]
        used = leading_to(ends)
        return Graph([node for node in self.inputs if node in used], ends, fuse=self.fuse)

    # Execution

    def train(self, mode: bool = True) -> Graph:
        """Let `forward` work as in training (or, by `mode` False, as in prediction), and return the network.

        A Trainer and `predict` choose by themselves, and a network inside follows the one around it. A layer's own
        `eval` holds in all of these.

        Parameters
        ----------
        mode
            Whether as in training.
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
        store = self.own_store()
        key = batch, training, returns, self._modes, ends
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

        Parameters
        ----------
        *xs
            An array (N, *input shape) for each input, or one dict {input's name: array}.
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

        Parameters
        ----------
        *dys
            The gradient by each output, (N, *output shape).
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

        Parameters
        ----------
        *xs
            An array (N, *input shape) for each input, or one dict {input's name: array}.
        batch_size
            Images at a time, at least 1: more take more memory.

        >>> from fastcnn.layers import Flatten, Linear
        >>> from fastcnn.sequential import Sequential
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
        batch_size
            Images at a time, at least 1: more take more memory.

        Returns
        -------
        An array (N, *shape) for one name; for several {name: array}, from one pass.

        Errors as `predict`, and ArgumentError for a name that no layer has.

        >>> from fastcnn.layers import Linear, ReLU
        >>> from fastcnn.sequential import Sequential
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
        if 0 < total <= batch_size:
            return self._values_of_batch(nodes, arrays)
        results = [np.empty((total, *node.shape), self.dtype) for node in nodes]
        for start in range(0, total, batch_size):
            rows = slice(start, min(start + batch_size, total))
            values = self._values_of_batch(nodes, [array[rows] for array in arrays])
            for result, y in zip(results, values, strict=True):
                result[rows] = y
        return results

    def _values_of_batch(self, nodes: Sequence[Node], arrays: Sequence[Array]) -> list[Array]:
        plan = self.plan(len(arrays[0]), training=False, outputs=nodes)
        plan.load(arrays)
        plan.forward()
        return [plan.backend.to_host(y) for y in plan.outputs]

    def check_inputs(self, *xs: Inputs) -> list[Array]:
        """Return the inputs as float arrays, or refuse those that do not fit the network."""
        self.check_complete()
        return check_inputs(xs, self.input_names, self.input_shapes)

    def load_parameters(self, path: str | PathLike[str], strict: bool = True) -> Loaded:
        """Fill parameters and states by name from a safetensors file, and return what matched and what did not.

        See `fastcnn.transfer.load_parameters`.

        Parameters
        ----------
        path
            The file.
        strict
            Whether every tensor must be on both sides, in one shape; if not, those that are get loaded.
        """
        from fastcnn.transfer import load_parameters

        return load_parameters(self, path, strict)

    def save(self, path: str | PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Write the network to a safetensors file.

        `metadata`, a dict of JSON values, replaces `net.metadata`.

        Parameters
        ----------
        path
            The file, by custom with the ending ".safetensors".
        metadata
            A dict of JSON values to keep with the network; None keeps `net.metadata`.
        """
        from fastcnn.checkpoint import save

        save(self, path, metadata)


def _single(results: list[Array]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)
