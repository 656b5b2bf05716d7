"""Networks of any shape; `sequential.py` has those that are a chain.

A graph is static: its nodes, shapes and names are fixed and checked when it is made. It keeps all
its parameters in one store and a few plans, one for each batch size met lately.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from functools import partial
from itertools import count
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Array, as_float, float_dtype
from fastcnn.backend import check_device, get
from fastcnn.concurrency.passes import Pass, passing
from fastcnn.concurrency.streams import Stream
from fastcnn.engine.liveness import Returns
from fastcnn.engine.plan import Modes, Plan, modes
from fastcnn.engine.plans import Plans
from fastcnn.errors import ArgumentError
from fastcnn.graph.copies import nodes_state, set_nodes
from fastcnn.graph.inputs import Inputs, check_inputs, listed
from fastcnn.graph.structure import Structure
from fastcnn.graph.topology import common_device, common_dtype, leading_to
from fastcnn.layers.base import Layer
from fastcnn.layers.node import Node
from fastcnn.layers.parameters import FirstValues, Store, claims, drawn
from fastcnn.seeding import default_generator, seeded
from fastcnn.shapes import whole

if TYPE_CHECKING:
    from fastcnn.checkpoint.transfer import Loaded
    from fastcnn.engine.memory import Memory
    from fastcnn.losses import Loss, MultiTask
    from fastcnn.optimizers.rules import Optimizer

MODES_KEPT = 16  # in which plans may be found again: a few times as many as there are plans

_numbers = count(1)


class Graph(Structure):
    """A network from input nodes to output nodes.

    Parameters
    ----------
    inputs, outputs
        One node or several; every Input that the outputs need must be listed.
    fuse
        Let one kernel do the work of several layers (`engine/fusion.py`); the results are the same.
    name
        What names its layers inside another network: called on a node, a network is a layer there, with the same
        parameters; "graph1", ... otherwise.

    >>> from fastcnn.layers import Conv2d, ReLU
    >>> from fastcnn.layers.node import Input
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
        for layer in self.layers:
            layer.astype(self.dtype)
        self.training = True
        self._start()

    def _start(self) -> None:
        """Have no parameters and no plans yet; be the home of layers that have none, or one inside this network."""
        self._store: Store | None = None
        self._moved = False  # whether dtype or device are others than the store's
        self._known_modes: dict[Modes, int] = {}
        self._seen, self._modes = -1, 0  # what `Layer.changes` and the modes were when the store was looked at
        self._training_plans = Plans(get(self.device))
        self._plans: weakref.WeakKeyDictionary[Stream, Plans] = weakref.WeakKeyDictionary()
        self._mutex = threading.Lock()  # for `_plans`, in passes, which must not ask for `claims`
        self._thread = _OfThread()
        within: dict[Graph, bool] = {}
        for layer in self.layers:
            home = layer._home() if layer._home else None
            if home is not None and home not in within:
                within[home] = home.names.keys() <= self.names.keys()
            if layer.store is None and (home is None or within[home]):
                layer._home = weakref.ref(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy, or a pickle, takes along: all but the places in memory; nodes by their numbers."""
        places = {
            "_store",
            "_moved",
            "_seen",
            "_modes",
            "_known_modes",
            "_training_plans",
            "_plans",
            "_mutex",
            "_thread",
        }
        state = {name: value for name, value in vars(self).items() if name not in places}
        return state | nodes_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        set_nodes(self)
        self._start()

    @checks_arguments
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
        >>> from fastcnn.graph.sequential import Sequential
        >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1)).to("reference")
        >>> needed = net.memory(256)
        >>> needed.parameters, needed.gradients, needed.optimizer
        (2624, 2624, 2624)
        """
        from fastcnn.engine.loss_heads import losses_by_output
        from fastcnn.engine.memory import memory_of
        from fastcnn.losses import CrossEntropy
        from fastcnn.optimizers.rules import SGD

        whole(batch_size, 1, "batch_size")
        losses = losses_by_output(self, loss) if loss else [(CrossEntropy(), 1.0) for _ in self.outputs]
        return memory_of(self, batch_size, bool(training), optimizer or SGD(momentum=0.9), losses)

    # Parameters

    def initialize(self, seed: int) -> None:
        """Draw all parameters anew from a seed, into the arrays where they are, and forget gradients and states.

        Parameters
        ----------
        seed
            A whole number from 0 up.
        """
        generator = seeded(seed)
        self.claim_layers().redraw(drawn(generator), self.layers)

    def draw_missing(self, seed: int) -> None:
        """Draw from a seed those parameters that nobody has looked at or set yet.

        Parameters
        ----------
        seed
            A whole number from 0 up.
        """
        self.own_store(drawn(seeded(seed)))

    def own_store(self, first: FirstValues | None = None) -> Store:
        """Return the store of all parameters; those without values get `first` ones, by default drawn at random."""
        store = self._store
        if store is None or self._seen != Layer.changes:
            store = self.claim_layers()
        if store.undrawn:
            store.draw(first or drawn(default_generator()), self.layers)
        return store

    def claim_layers(self) -> Store:
        """Return the one store of all layers.

        Where another network has put all that have values into one, that serves both. Otherwise all are taken together
        into a new one.
        """
        with claims:
            layers, store = self.layers, self._store
            if store is None or self._moved or not store.owns(layers):
                held = {layer.store for layer in layers if layer.has_values}
                store = held.pop() if len(held) == 1 else None
                for layer, name in self.names.items():
                    layer.name = name
                if store is None or self._moved:
                    store = Store(layers, get(self.device), self.dtype, rounds=self._moved)
                store.admit(layers)
                self.dtype, self.device, self._moved = store.dtype, store.backend.name, False
                self._store = store
                self._training_plans = Plans(store.backend)
                self._plans = weakref.WeakKeyDictionary()
            seen = Layer.changes
            self._modes = self._number_of(modes(layers))
            self._seen = seen
            return store

    def _number_of(self, modes: Modes) -> int:
        """Return a number for the modes that the layers are in, the same one as long as they are in them."""
        if modes not in self._known_modes and len(self._known_modes) >= MODES_KEPT:
            self._known_modes.clear()
        return self._known_modes.setdefault(modes, next(_numbers))

    def has_store(self, store: Store) -> bool:
        """Say whether a store is still that of all layers."""
        return self._store is store and (self._seen == Layer.changes or store.owns(self.layers))

    def reading(self) -> Pass:
        """Return a context for passes that change nothing: several threads may be in one at a time."""
        return passing(self, False)

    def changing(self) -> Pass:
        """Return a context for passes that change parameters, gradients or states: one thread is in it, and no other.

        Passes are ordered: predictions of other threads wait for a training step, and it for them.
        """
        return passing(self, True)

    def astype(self, dtype: DTypeLike) -> Graph:
        """Change the network to float32 or float64, in place, and return it.

        Parameters and states get other arrays; those that `params` has handed out before can no longer be written.

        Parameters
        ----------
        dtype
            "float32" or "float64".
        """
        return self._move(float_dtype(dtype), self.device)

    def to(self, device: str) -> Graph:
        """Move the network to another device, in place, and return it; see `astype`.

        Parameters
        ----------
        device
            "cpu" or "reference".
        """
        return self._move(self.dtype, check_device(device))

    def _move(self, dtype: np.dtype[Any], device: str) -> Graph:
        with claims:
            if (dtype, device) != (self.dtype, self.device):
                self.dtype, self.device = dtype, device
                held = any(layer.store is not None for layer in self.layers)
                self._store, self._moved = None, held
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
        >>> from fastcnn.graph.sequential import Sequential
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

        `outputs` may be any of the nodes in place of the network's outputs. Plans with a way back share one arena: a
        forward pass that waits for its backward is left alone by predictions, which have one for each stream. To run a
        plan beside other threads, be in a `Pass`.
        """
        store = self.own_store()
        return self.plan_on(store, store.backend.streams.next(), batch, training, returns, outputs)

    def plan_on(
        self,
        store: Store,
        stream: Stream,
        batch: int,
        training: bool,
        returns: Returns = "nothing",
        outputs: Sequence[Node] | None = None,
    ) -> Plan:
        """Return the plan for a stream that this thread holds; see `plan`."""
        plans = self._training_plans if returns != "nothing" else self._plans.get(stream)
        if plans is None:
            with self._mutex:
                plans = self._plans[stream] = Plans(store.backend)
        ends = tuple(self.outputs if outputs is None else outputs)
        key = batch, training, returns, self.fuse, self._modes, ends
        return plans.get(key) or plans.add(key, partial(self._new_plan, store, key))

    def keeps(self, plan: Plan) -> bool:
        """Say whether a plan is one of those that the network would return again."""
        with self._mutex:
            kept = self._training_plans, *self._plans.values()
        return any(plan in plans for plans in kept)

    def _new_plan(self, store: Store, key: Any, arena: Any) -> Plan:
        batch, training, returns, fuse, _, ends = key
        used = leading_to(ends)
        nodes = [node for node in self.nodes if node in used]
        return Plan(nodes, self.inputs, ends, store, batch, fuse, training, returns, arena)

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
        with self.changing() as held:
            plan = self.plan_on(held.store, held.stream, arrays[0].shape[0], self.training, returns="inputs")
            plan.load(arrays)
            plan.forward()
            self._thread.last = (plan, plan.arena.generation)
            return _single([plan.backend.download(y) for y in plan.outputs])

    def backward(self, *dys: ArrayLike) -> Any:
        """Fill the layers' `grads`; return the gradients by the inputs of this thread's last `forward`.

        Takes the loss's gradient by each output, in that output's shape.

        Parameters
        ----------
        *dys
            The gradient by each output, (N, *output shape).
        """
        given = [as_float(dy, "the output gradient") for dy in dys]
        with self.changing() as held:
            plan, generation = self._thread.last or (None, 0)
            if plan is None or plan.arena.generation != generation or plan.store is not held.store:
                raise ArgumentError(f"{self!r} has no forward pass to go back from: call forward again first.")
            plan.load_gradients(given)
            plan.backward()
            return _single([plan.backend.download(dx) for dx in plan.input_gradients])

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
        >>> from fastcnn.graph.sequential import Sequential
        >>> net = Sequential(Flatten(), Linear(64, 10), input_shape=(8, 8, 1)).to("reference")
        >>> net.predict(np.zeros((300, 8, 8, 1))).shape
        (300, 10)
        """
        return _single(self._values(self.outputs, self.check_inputs(*xs), batch_size))

    @checks_arguments
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
        >>> from fastcnn.graph.sequential import Sequential
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
        with self.reading() as held:
            plan = self.plan_on(held.store, held.stream, len(arrays[0]), False, "nothing", nodes)
            plan.load(arrays)
            plan.forward()
            return plan.results()

    def check_inputs(self, *xs: Inputs) -> list[Array]:
        """Return the inputs as float arrays, or refuse those that do not fit the network."""
        if len(xs) == 1 == len(self.inputs):
            x = xs[0]
            if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim and x.shape[1:] == self.inputs[0].shape:
                return [x]
        self.check_complete()
        return check_inputs(xs, self.input_names, self.input_shapes)

    @checks_arguments
    def load_parameters(self, path: str | PathLike[str], strict: bool = True) -> Loaded:
        """Fill parameters and states by name from a safetensors file, and return what matched and what did not.

        See `fastcnn.checkpoint.transfer.load_parameters`.

        Parameters
        ----------
        path
            The file.
        strict
            Whether every tensor must be on both sides, in one shape; if not, those that are get loaded.
        """
        from fastcnn.checkpoint.transfer import load_parameters

        return load_parameters(self, path, strict)

    @checks_arguments
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
        from fastcnn.checkpoint.writing import save

        save(self, path, metadata)


def _single(results: list[Array]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)


class _OfThread(threading.local):
    """What a network keeps for one thread: the plan of its last forward pass, and the count of passes at that time."""

    last: tuple[Plan, int] | None = None
