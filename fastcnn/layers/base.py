"""What every layer is: constructor arguments, parameters, shapes and bound kernel calls.

A layer serves twice. Called on a node it makes a node of a graph; its `forward` and `backward` work
on arrays by themselves, as a graph of one node. Either way `bind` turns it into kernel calls on
fixed arrays. Parameters have PyTorch's names.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, prod
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arrays import Array, Shape, as_float, channels_first_hint, float_dtype, wider
from fastcnn.backend import Backend, Call, check_device, get
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.node import Node
from fastcnn.parameters import Store, drawn
from fastcnn.seeding import default_generator

if TYPE_CHECKING:
    from fastcnn.plan import Plan

Bounds: TypeAlias = tuple[float, float]
"""Between what a kernel brings its outputs."""

UNBOUNDED: Bounds = (-inf, inf)

Statistics: TypeAlias = tuple[Array, Array]
"""The mean and the biased variance of some groups of each image (N, groups), in float64."""

GradientSums: TypeAlias = tuple[tuple[Any, ...], Array]
"""A normalization as kernels take it (x, gamma, beta, mean, variance, eps, bounds), and its sums (2, C), way back."""

Window: TypeAlias = tuple[Shape, Sequence[int | Fraction]]
"""The extent of a layer's dilated window and its stride (1 / stride for one that enlarges), by spatial axis."""


@dataclass(frozen=True)
class Bound:
    """A layer tied to arrays: its forward calls, and a maker of its backward calls.

    `backward(dy, dxs, grads)` returns the calls that fill the input gradients `dxs` (None: not
    needed) and the parameter gradients `grads` (none where the layer is frozen) from `dy`. That of a
    layer which `finishes_gradient` may be given a fourth array, too (or None), which is added to the first gradient,
    and the `GradientSums` to take of that.
    """

    backward: Callable[..., list[Call]]
    forward: list[Call] = field(default_factory=list)


class Layer(ABC):
    """The base of all layers.

    Parameters
    ----------
    name
        What errors, summaries and model files call it; a graph names it "conv1", ... otherwise.
    dtype
        "float32" or "float64"; a float64 array met by `forward` promotes the layer, exactly.
    device
        "cpu" or "reference".
    """

    kind: ClassVar[str]
    """The stem of automatic names."""

    arity: ClassVar[int] = 1
    """How many inputs the layer takes."""

    is_variadic: ClassVar[bool] = False
    """The layer takes any number of inputs, from `arity` up."""

    is_view: ClassVar[bool] = False
    """The output holds the input's numbers in the input's order, so no kernel has to run."""

    holds_code: ClassVar[bool] = False
    """The layer is made of functions, which no file holds."""

    keeps_positions: ClassVar[bool] = True
    """Every pixel of the output has its place in the input, as `window` tells."""

    passes_gradient: ClassVar[bool] = False
    """The gradient by each input is the gradient by the output."""

    reads_back: ClassVar[str] = "xy"
    """Which arrays the backward calls read: "x" the inputs, "y" the output, both, or none; the others may be gone."""

    in_place: ClassVar[bool] = False
    """`y` may be the first of the `xs`, and its gradient `dxs[0]` may be `dy`."""

    changes: ClassVar[int] = 0
    """How often the mode or the store of any layer was set: what a network found out about them holds until then."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("training", "_trainable", "store"):
            Layer.changes += 1
        super().__setattr__(name, value)

    def __init__(self, *, name: str | None = None, dtype: DTypeLike = "float32", device: str = "cpu") -> None:
        self.name = name
        self.dtype = float_dtype(dtype)
        self.device = check_device(device)
        self.training = True
        self._trainable = True
        self.store: Store | None = None
        self._plan: Plan | None = None

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, as numbers, strings and tuples."""
        return {}

    def __repr__(self) -> str:
        words: list[str] = []
        arguments = inspect.signature(type(self)).parameters
        for key, value in self.config().items():
            if arguments[key].kind is inspect.Parameter.VAR_POSITIONAL:
                words += map(repr, value)
            elif arguments[key].default is inspect.Parameter.empty:
                words.append(repr(value))
            elif arguments[key].default != value:
                words.append(f"{key}={value!r}")
        return f"{type(self).__name__}({', '.join(words)})"

    @property
    def label(self) -> str:
        """The layer in an error: its name if it has one, and how it was made."""
        return f"{self.name} = {self!r}" if self.name else repr(self)

    # Shapes

    def output_shape(self, *inputs: Shape) -> Shape:
        """Return the output's shape for the inputs' shapes, all without the batch axis."""
        if len(inputs) != self.arity and not (self.is_variadic and len(inputs) > self.arity):
            needed = f"{self.arity} or more" if self.is_variadic else str(self.arity)
            raise ShapeError(f"{self.label} got {len(inputs)} inputs, and needs {needed}: give it as many.")
        for shape in inputs:
            if 0 in shape:
                raise ShapeError(
                    f"{self.label} got an input of shape {tuple(shape)} after the batch axis, and needs axes of at "
                    "least 1: only the batch may be empty, so leave out what holds nothing."
                )
        return self.infer(*(tuple(shape) for shape in inputs))

    @abstractmethod
    def infer(self, *inputs: Shape) -> Shape:
        """Return the output shape for the right number of input shapes, or raise a ShapeError."""

    def refuse(self, got: Shape, needed: str, fitting: Shape = ()) -> ShapeError:
        """Return the error for an input shape; `fitting` is what it may be channels first."""
        advice = channels_first_hint(got, fitting) or "change the layer or what stands before it."
        return ShapeError(f"{self.label} got an input of shape {got}, and needs {needed}: {advice}")

    def refuse_axes(self, got: Shape, needed: str) -> ShapeError:
        """Return the error for an input shape of too few or too many axes."""
        return ShapeError(
            f"{self.label} got an input of shape {got} after the batch axis, and needs {needed}: "
            "give as many axes, for example by x[None] or x[..., None]."
        )

    def multiply_adds(self, output: Shape) -> int:
        """Return the multiply-adds of one forward pass over one image with this output shape."""
        return 0

    def window(self) -> Window | None:
        """Return the spatial extent and stride, or None for a layer that works pixel by pixel."""
        return None

    # Parameters

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shape of every parameter by name."""
        return {}

    def state_shapes(self) -> dict[str, Shape]:
        """Return the shape of every array of `state` by name."""
        return {}

    def first_values(self, name: str, generator: np.random.Generator) -> Array:
        """Return the first values of a parameter or a state, in float64."""
        raise KeyError(f"{type(self).__name__} has no parameter {name!r}")

    @property
    def parameter_count(self) -> int:
        """How many numbers the layer learns."""
        return sum(prod(shape) for shape in self.parameter_shapes().values())

    @property
    def trainable(self) -> bool:
        """Whether training may change the parameters, which it may at first; assign False to freeze the layer.

        The parameters of a frozen layer get no gradients and no updates. Its state moves on as PyTorch's does where
        requires_grad is False: a normalization tracks its running statistics until `eval` holds them, too.
        """
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        if self.store is not None and not self._trainable:
            for gradient in self.store.grads[self].values():
                gradient.fill(0)

    @property
    def learns(self) -> bool:
        """Whether training changes anything in the layer."""
        return self.trainable and bool(self.parameter_shapes())

    @property
    def params(self) -> dict[str, Array]:
        """The parameters by name; drawn at the first look, and assigned in place."""
        return self.own_store().lend(self.own_params)

    @property
    def own_params(self) -> dict[str, Array]:
        """The parameters as the library holds them; what others take from `params` is watched for changes."""
        return self.own_store().params[self]

    @property
    def grads(self) -> dict[str, Array]:
        """The gradients of the last backward pass by name (each pass overwrites them); zeros in a frozen layer."""
        return self.own_store().grads[self]

    @property
    def state(self) -> dict[str, Array]:
        """What a forward pass in training changes and none learns, by name, such as running means."""
        return self.own_store().lend(self.own_state)

    @property
    def own_state(self) -> dict[str, Array]:
        """The state as the library holds it; see `own_params`."""
        return self.own_store().state[self]

    def train(self, mode: bool = True) -> Layer:
        """Let `forward` work as in training (or, by `mode` False, as in prediction), and return the layer.

        `train(False)` holds in networks too: while they train, a normalization then takes its running statistics and
        leaves them as they are, and dropout drops nothing. The network's own `train` leaves its layers' modes alone.
        """
        self.training = bool(mode)
        return self

    def eval(self) -> Layer:
        """Let `forward` work as in prediction, and return the layer."""
        return self.train(False)

    def own_store(self) -> Store:
        """Return the store that holds the parameters: the network's, or one of the layer's own."""
        if self.store is None:
            self.store = Store([self], get(self.device), self.dtype, drawn(default_generator()))
        return self.store

    def astype(self, dtype: DTypeLike) -> Layer:
        """Change the layer to another dtype, its parameters too, and return it."""
        wanted = float_dtype(dtype)
        if wanted != self.dtype:
            self.dtype = wanted
            if self.store is not None:
                self.store = Store([self], get(self.device), wanted, drawn(default_generator()))
        return self

    # Execution

    @property
    def finishes_gradient(self) -> bool:
        """Whether the backward calls can add an array to the gradient by the first input, and sum it, as they go."""
        return False

    def is_view_when(self, training: bool) -> bool:
        """Say whether the output is the input in this mode, so that no kernel has to run."""
        return self.is_view

    @abstractmethod
    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the layer's kernel calls on these input arrays and this output array.

        Few layers do another thing in training: normalization by the batch, dropout.
        """

    def __call__(self, *nodes: Node) -> Node:
        """Apply the layer to nodes of a graph."""
        if not all(isinstance(node, Node) for node in nodes):
            raise ArgumentError(
                f"{self.label} was called on something that is no node of a graph: use its forward method for arrays."
            )
        return Node(self, nodes, self.output_shape(*(node.shape for node in nodes)))

    def forward(self, *xs: ArrayLike) -> Array:
        """Return the layer's output for input arrays (N, ...), outside of any network."""
        arrays = [as_float(x, f"the input of {self.label}") for x in xs]
        if any(array.ndim < 2 for array in arrays):
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ShapeError(
                f"{self.label} got an array of shape {shapes}, and needs a batch axis first: add one with x[None]."
            )
        batch = arrays[0].shape[0] if arrays else 0
        if any(array.shape[0] != batch for array in arrays):
            lengths = ", ".join(str(array.shape[0]) for array in arrays)
            raise ShapeError(f"{self.label} got batches of {lengths}: give as many rows in each.")
        for array in arrays:
            self.astype(wider(self.dtype, array.dtype))
        self._plan = self._standalone_plan(batch, [array.shape[1:] for array in arrays])
        self._plan.load(arrays)
        self._plan.forward()
        return self._plan.backend.to_host(self._plan.outputs[0])

    def backward(self, dy: ArrayLike) -> Any:
        """Return the gradient by the last `forward`'s input (a tuple for several); fill `grads`."""
        if self._plan is None or self._plan.store is not self.store:
            raise ArgumentError(f"{self.label} cannot go backward yet: call its forward first.")
        gradient = as_float(dy, f"the output gradient of {self.label}")
        self._plan.load_gradients([gradient])
        self._plan.backward()
        results = tuple(self._plan.backend.to_host(dx) for dx in self._plan.input_gradients)
        return results[0] if len(results) == 1 else results

    def _standalone_plan(self, batch: int, shapes: list[Shape]) -> Plan:
        from fastcnn.plan import Plan

        store, plan = self.own_store(), self._plan
        if plan and plan.store is store and plan.serves(batch, shapes):
            return plan
        output = self.output_shape(*shapes)
        inputs = [Node(None, (), shape) for shape in shapes]
        node = Node(self, inputs, output)
        return Plan([*inputs, node], inputs, [node], store, batch, False, self.training, returns="inputs")
