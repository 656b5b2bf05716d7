"""Plans: a graph lowered to lists of bound kernel calls on arrays that are allocated once.

A Plan serves one batch size and one mode. Making it chooses the steps (`fusion.py`), gives every array a place in one
arena (`liveness.py`) and binds the kernels; running it runs two lists of calls, and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastcnn.algorithms import resolve_algorithm
from fastcnn.arrays import Array, Shape, check_gradient
from fastcnn.backend import Backend
from fastcnn.engine.arena import Arena, Slot
from fastcnn.engine.fusion import Fusion
from fastcnn.engine.liveness import Layout, Returns, Way, needed_gradients
from fastcnn.engine.steps import Step
from fastcnn.errors import ShapeError
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.layers.node import Node
from fastcnn.layers.parameters import Store


def run(calls: Sequence[Call]) -> None:
    """Run bound calls in order, one by one; what overflows becomes infinite without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        for function, arguments in calls:
            function(*arguments)


Modes: TypeAlias = tuple[Any, ...]
"""Whether each layer is trainable, works as in training, and its arguments that may change; the algorithm switch."""


def modes(layers: Sequence[Layer]) -> Modes:
    """Return the modes that some layers are in: a plan serves as long as they stay so."""
    return (resolve_algorithm("auto"), *[layer.plan_key() for layer in layers])


Part: TypeAlias = tuple[Step, list[Call]]
"""The calls of one step, one way."""


class Workshop:
    """A backend as layers see it while they are bound: it counts the bytes of the arrays that they ask for.

    `keeps` tells them that what is made of parameters alone is made once, and again when those change.
    """

    def __init__(self, backend: Backend, keeps: bool = False) -> None:
        self._backend = backend
        self.keeps = keeps
        self.bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return an array of the backend, not filled."""
        return self._counted(self._backend.empty(shape, dtype))

    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return an array of zeros of the backend."""
        return self._counted(self._backend.zeros(shape, dtype))

    def from_host(self, array: Array) -> Array:
        """Return the backend's copy of a NumPy array."""
        return self._counted(self._backend.from_host(array))

    def _counted(self, array: Array) -> Array:
        self.bytes += array.nbytes
        return array


class Plan:
    """The passes through some nodes for one batch size; `inputs` and `outputs` are its own arrays.

    Parameters
    ----------
    nodes, inputs, outputs
        The nodes in an order in which every one follows its inputs; which of them are the network's ends.
    store
        The parameters; `trained` are the stretches of its flat arrays that the layers' modes let training change.
    batch
        The number of images.
    fuse
        Whether kernels may serve several nodes at once.
    training
        Handed to the layers: some do another thing then.
    returns
        What the way back fills. With a way back, `output_gradients` are its start, and `input_gradients` its end.
    arena
        From a size in bytes to an Arena of at least that; by default the plan makes its own.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Node],
        outputs: Sequence[Node],
        store: Store,
        batch: int,
        fuse: bool,
        training: bool,
        returns: Returns,
        arena: Callable[[int], Arena] | None = None,
    ) -> None:
        self.input_nodes = inputs
        self.layers = list(dict.fromkeys(node.layer for node in nodes if node.layer is not None))
        self.modes = modes(self.layers)
        self.store, self.backend, self.batch, self.training = store, store.backend, batch, training
        needed = needed_gradients(inputs, nodes, returns)
        if fuse:
            self.steps = Fusion(nodes, outputs, batch, self.backend, training, needed).steps()
        else:
            self.steps = [Step(node) for node in nodes if node.layer is not None]
        pixel = batch * store.dtype.itemsize
        how = fuse, training, returns, needed, self.backend
        self._layout = Layout(self.steps, inputs, outputs, pixel, *how)
        size = self._layout.size
        self.arena = arena(size) if arena else Arena(self.backend, size)
        self._keeps = self.backend.keeps_constants and not training and returns == "nothing"
        workshop = Workshop(self.backend, self._keeps)
        self._bind_forward(workshop)
        self.forward_parts: list[Part] = [(step, bound.forward) for step, bound in self._bound.items()]
        self.inputs = [self._value(node) for node in inputs]
        self._writers = [self.backend.writer(array) for array in self.inputs]
        self.outputs = [self._value(node) for node in outputs]
        self._filled: set[Layer] = set()
        self.backward_parts: list[Part] = [(way.step, self._bind_back(way, workshop)) for way in self._layout.ways]
        self.forward_calls, self.backward_calls = (
            [call for _, calls in parts for call in calls] for parts in (self.forward_parts, self.backward_parts)
        )
        self._program = self.backend.program.Program(self.forward_calls, store.constants if self._keeps else None)
        self._way_back = self.backend.program.Program(self.backward_calls)
        ends = () if returns == "nothing" else outputs
        starts, gradients = self._layout.starts, self._layout.gradients
        self.output_gradients = [self._array(starts[node], node) for node in ends]
        self.input_gradients = [self._array(gradients[node], node) for node in inputs if returns == "inputs"]
        self.trained = store.trained(self.layers)
        self.bytes = size + workshop.bytes

    @property
    def kept_bytes(self) -> int:
        """The bytes that prediction holds of what it made of the parameters, since the first pass or its rehearsal."""
        return int(self._program.kept_bytes)

    @property
    def fused(self) -> dict[Node, list[Node]]:
        """The nodes that the step of another one serves, by that one."""
        return {step.nodes[0]: list(step.nodes[1:]) for step in self.steps if len(step.nodes) > 1}

    def _array(self, slot: Slot, node: Node) -> Array:
        return self.arena.array(slot, (self.batch, *node.shape), self.store.dtype)

    def _value(self, node: Node) -> Array:
        return self._array(self._layout.values[node], node)

    def _bind_forward(self, workshop: Any) -> None:
        self._bound: dict[Step, Bound] = {}
        for step in self.steps:
            xs = [self._value(source) for source in step.sources]
            self._bound[step] = step.bind(workshop, xs, self._value(step.output), self.training)

    def _bind_back(self, way: Way, workshop: Any) -> list[Call]:
        """Return a step's calls back, and the sums after them; a layer at several nodes adds up its gradients."""
        step, layer = way.step, way.step.layer
        sums: list[Call] = []
        for source, total, part in way.sums:
            whole = self._array(total, source)
            sums.append((self.backend.join.add_forward, ((whole, self._array(part, source)), whole)))
        grads = layer.grads if layer.learns else {}
        if layer in self._filled:
            grads = {name: workshop.empty(g.shape, g.dtype) for name, g in grads.items()}
            held = layer.grads
            sums += [(self.backend.join.add_forward, ((held[name], g), held[name])) for name, g in grads.items()]
        self._filled.add(layer)
        dy = self._array(way.dy, step.output)
        pairs = zip(way.targets, step.sources, strict=True)
        dxs = [None if target is None else self._array(target, source) for target, source in pairs]
        finish = (
            None if way.total is None else self._array(way.total, step.sources[0]),
            None if way.summed is None else way.summed.gradient_sums,
        )
        return self._bound[step].backward(dy, dxs, grads, *(finish if way.total or way.summed else ())) + sums

    def serves(self, batch: int, shapes: Sequence[Shape]) -> bool:
        """Say whether the plan is one for this batch size, these input shapes and the modes that its layers are in."""
        held = [node.shape for node in self.input_nodes]
        return (batch, list(shapes), modes(self.layers)) == (self.batch, held, self.modes)

    def load(self, arrays: Sequence[Array]) -> None:
        """Copy arrays of fitting shapes into the inputs, cast to the plan's dtype."""
        if len(arrays) == 1:
            self._writers[0](arrays[0])  # at once: small networks notice
            return
        for array, write in zip(arrays, self._writers, strict=True):
            write(array)

    def begin(self) -> None:
        """Note that a forward pass begins: earlier ones in the arena are lost, and running statistics move."""
        self.arena.generation += 1
        if self.training:
            self.store.touch()

    def forward(self) -> None:
        """Fill the outputs from the inputs."""
        self.begin()
        self._program.run(self.store.version if self._keeps else None)

    def results(self) -> list[Array]:
        """Return NumPy copies of the outputs."""
        return [self.backend.download(y) for y in self.outputs]

    def load_gradients(self, gradients: Sequence[Array]) -> None:
        """Copy gradients by the outputs in, or refuse those of other shapes."""
        if len(gradients) != len(self.output_gradients):
            raise ShapeError(
                f"backward got {len(gradients)} gradients, outputs: {len(self.output_gradients)}; give one for each."
            )
        for gradient, own in zip(gradients, self.output_gradients, strict=True):
            check_gradient(gradient, own)
            self.backend.upload(gradient, own)

    def backward(self) -> None:
        """Fill all gradients from the output gradients, which are overwritten."""
        self._way_back.run()

    def _copy(self, array: Array) -> Array:
        copy = self.backend.empty(array.shape, array.dtype)
        self.backend.copy(array, copy)
        return copy

    def first_non_finite(self) -> str | None:
        """Return what first holds an infinity or NaN: the input, or something of a layer by its label.

        A state counts where the pass makes it so.

        The forward pass runs again, since a later array may stand where an earlier one stood.
        """
        if not all(self.backend.all_finite(x) for x in self.inputs):
            return "the input"
        states = [(array, self._copy(array)) for state in self.store.state.values() for array in state.values()]
        try:
            for step, bound in self._bound.items():
                run(bound.forward)
                if not self.backend.all_finite(self._value(step.output)):
                    return f"the output of {step.label}"
            for layer in self.layers:
                for name, array in self.store.state[layer].items():
                    was_finite = all(self.backend.all_finite(kept) for own, kept in states if own is array)
                    if was_finite and not self.backend.all_finite(array):
                        return f"the {name} of {layer.label}"
        finally:
            for array, kept in states:
                self.backend.copy(kept, array)
        for layer in dict.fromkeys(step.layer for step in self.steps):
            for name, gradient in layer.grads.items():
                if not self.backend.all_finite(gradient):
                    return f"the gradient of {name} in {layer.label}"
        return None
