"""What every layer is: constructor arguments, parameters, shapes and bound kernel calls.

A layer serves twice. Called on a node it makes a node of a graph; its `forward` and `backward` work
on arrays by themselves (`alone.py`). Either way `bind` turns it into kernel calls on
fixed arrays. Parameters have PyTorch's names.
"""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import wraps
from itertools import count
from math import inf, prod
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array, Shape, as_float, channels_first_hint, float_dtype, wider
from fastcnn.backend import Backend, Call, check_device, get
from fastcnn.concurrency.passes import passing
from fastcnn.docstrings import Described
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.layers.alone import Alone
from fastcnn.layers.node import Node
from fastcnn.layers.parameters import Store, claims, drawn
from fastcnn.representation import written_call
from fastcnn.seeding import default_generator

__all__ = ["Layer"]

if TYPE_CHECKING:
    from weakref import ReferenceType

    from fastcnn.graph.graph import Graph

_changes = count(1)

FREE = frozenset({"name", "dtype", "device", "training", "trainable", "store", "weight_init"})
"""What may be assigned at any time, beside what a layer lists as `adjustable`."""

Bounds: TypeAlias = tuple[float, float]
"""Between what a kernel brings its outputs."""

Adjustable: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""The arguments of a layer that may be assigned at any time, and their checks, which return what the layer keeps."""

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


class Layer(ChecksArguments, Described, ABC):
    """The base of all layers.

    Parameters
    ----------
    name
        What errors, summaries and model files call it; a graph names it "conv1", ... otherwise.
    dtype
        "float32" or "float64"; a float64 array met by `forward` promotes the layer, exactly.
    device
        "cpu" or "reference".

    Raises
    ------
    ArgumentError
        If an argument is none of those described.
    ShapeError
        If an input does not have the axes described.
    DataError
        If `forward` or `backward` is given an array of other than floats.
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

    adjustable: ClassVar[Adjustable] = {}
    """What counts from the next call on when it is assigned. Other arguments are fixed: shapes follow from them."""

    changes: ClassVar[int] = 0
    """Another number whenever the mode, the store or an argument of any layer was set: what a network found out about
    them holds until then."""

    _made: frozenset[str] | None = None
    """The attributes that the constructor has left, once it has ended."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        if "__init__" in cls.__dict__:
            cls.__init__ = _noting_the_end(cls.__init__)  # type: ignore[method-assign]
        super().__init_subclass__(**keywords)

    def __setattr__(self, name: str, value: Any) -> None:
        check = self.adjustable.get(name)
        if check is not None:
            value = check(value)
        elif name not in FREE and name[0] != "_":
            self._check_fixed(name, value)
        super().__setattr__(name, value)
        if check is not None or name in ("training", "_trainable", "store"):
            Layer.changes = next(_changes)

    def _check_fixed(self, name: str, value: Any) -> None:
        if self._made is None or not type(self).__module__.startswith("fastcnn."):
            return
        known = name in self._made or name in inspect.signature(type(self)).parameters
        if known and not _same(self.__dict__.get(name), value):
            may = f"only {', '.join(self.adjustable)} may change" if self.adjustable else "no argument may change"
            raise ArgumentError(
                f"{name}={value!r} was assigned to {self.label}, whose {name} is fixed when it is made ({may}): "
                "make another layer."
            )

    def __init__(self, *, name: str | None = None, dtype: DTypeLike = "float32", device: str = "cpu") -> None:
        self._start()
        self.name = name
        self.dtype = float_dtype(dtype)
        self.device = check_device(device)
        self.training = True
        self._trainable = True

    def _start(self) -> None:
        """Have no parameters yet, belong to no network, and have run in no thread."""
        self.store: Store | None = None
        self._home: ReferenceType[Graph] | None = None
        self._brought: dict[str, Array] | None = None
        self._thread = _OfThread()

    def _arguments(self) -> dict[str, Any]:
        dropped = ("store", "_home", "_brought", "_thread")
        return {name: value for name, value in vars(self).items() if name not in dropped}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy, or a pickle, takes along: all but the places in memory."""
        return self._arguments() | {"_brought": self.held_values()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._start()
        vars(self).update(state)

    def without_values(self) -> Self:
        """Return a layer of the same arguments, name and mode that has no parameters yet."""
        twin = object.__new__(type(self))
        twin.__setstate__(self._arguments())
        return twin

    def plan_key(self) -> tuple[Any, ...]:
        """Return what calls are bound by, besides shapes: a plan serves as long as it stays so."""
        return self._trainable, self.training, *[getattr(self, name) for name in self.adjustable]

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, as numbers, strings and tuples."""
        return {}

    def __repr__(self) -> str:
        return written_call(type(self), self.config())

    @property
    def label(self) -> str:
        """The layer in an error: its name if it has one, and how it was made."""
        return f"{self.name} = {self!r}" if self.name else repr(self)

    # Shapes

    def output_shape(self, *inputs: Shape) -> Shape:
        """Return the output's shape for the inputs' shapes, all without the batch axis.

        Parameters
        ----------
        *inputs
            The shape of each input, as a tuple.
        """
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
                self.store.backend.fill(gradient, 0)

    @property
    def has_values(self) -> bool:
        """Whether the layer has parameters or a state."""
        return bool(self.parameter_shapes() or self.state_shapes())

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

        Parameters
        ----------
        mode
            Whether as in training.
        """
        self.training = bool(mode)
        return self

    def eval(self) -> Layer:
        """Let `forward` work as in prediction, and return the layer."""
        return self.train(False)

    def own_store(self) -> Store:
        """Return the store that holds the parameters, which have values then: the network's, or one of the layer's own.

        A network's layers stand together from the first look at one of them, and are drawn one by one.
        """
        store = self.store
        if store is None:
            store = self._first_store()
        if self in store.undrawn:
            store.draw(drawn(default_generator()), [self])
        return store

    def _first_store(self) -> Store:
        with claims:
            if self.store is None:
                home = self._home() if self._home else None
                if home is not None:
                    home.claim_layers()
                else:
                    Store([self], get(self.device), self.dtype)
            assert self.store is not None
            return self.store

    def held_values(self) -> dict[str, Array] | None:
        """Return all parameters and states by name as NumPy arrays; None where nobody has drawn or set them."""
        return self._brought if self.store is None else self.store.host_values(self)

    def astype(self, dtype: DTypeLike) -> Layer:
        """Change the layer to another dtype, its parameters too, and return it.

        Parameters
        ----------
        dtype
            "float32" or "float64".
        """
        wanted = float_dtype(dtype)
        if wanted != self.dtype:
            with claims:
                if self.store is not None or (self._home is not None and self._home() is not None):
                    self.own_store()
                    Store([self], get(self.device), wanted, rounds=True)
                self.dtype = wanted
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
        """Return the layer's output for input arrays (N, ...), outside of any network.

        Parameters
        ----------
        *xs
            Arrays of floats (N, ...), one for each input of the layer.
        """
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
        with passing(self, self.training and bool(self.state_shapes()), enter=False):
            alone = self._thread.alone = self._alone(batch, [array.shape[1:] for array in arrays])
            return alone.forward(arrays)

    def backward(self, dy: ArrayLike) -> Any:
        """Return the gradient by the input of this thread's last `forward` (a tuple for several); fill `grads`.

        Parameters
        ----------
        dy
            The gradient by the output of that `forward`, in its shape.
        """
        alone = self._thread.alone
        if alone is None or alone.store is not self.store:
            raise ArgumentError(f"{self.label} cannot go backward yet: call its forward first.")
        gradient = as_float(dy, f"the output gradient of {self.label}")
        with passing(self, True, enter=False):
            results = alone.backward(gradient)
        return results[0] if len(results) == 1 else results

    def has_store(self, store: Store) -> bool:
        """Say whether a store is still the layer's."""
        return self.store is store

    def _alone(self, batch: int, shapes: list[Shape]) -> Alone:
        store, alone = self.own_store(), self._thread.alone
        if alone is not None and alone.store is store and alone.matches(batch, shapes):
            return alone
        return Alone(self, store, batch, shapes)


def _noting_the_end(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that notes when the outermost one has ended."""

    @wraps(init)
    def constructor(self: Layer, *args: Any, **keywords: Any) -> None:
        is_outermost = "_made" not in self.__dict__
        self._made = None
        init(self, *args, **keywords)
        if is_outermost:
            self._made = frozenset(vars(self))

    return constructor


class _OfThread(threading.local):
    """What a layer that works by itself keeps for one thread.

    The calls of its last pass; what won in a pooling, of images of which size; the size that an unpooling is asked for.
    """

    alone: Alone | None = None
    winner: Array | None = None
    image: Shape = ()
    output_size: Shape | None = None


def _same(one: Any, other: Any) -> bool:
    """Say whether two arguments are one thing, or equal."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return one is other
    return bool(one is other or one == other)
