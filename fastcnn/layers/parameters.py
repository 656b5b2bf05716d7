"""Where parameters live: a flat array of values and one of gradients for all layers of a network.

A layer's `params` and `grads` are views into the two: an optimizer updates a network in one call. Parameters of several
axes stand before those of one (biases, scales and shifts), so that two calls can treat them differently.

Whoever reads the parameters in a pass, or changes them, holds the store's `lock`. Layers move from store to store under
`claims`, which is taken before any lock: whoever holds a lock must not ask for it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.concurrency.locks import SharedLock
from fastcnn.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from fastcnn.layers.base import Layer


claims = threading.RLock()
"""Held by the thread that gives layers another store, or first values."""

if hasattr(os, "register_at_fork"):  # a forked child finds layers that no other thread was about to move
    os.register_at_fork(before=claims.acquire, after_in_parent=claims.release, after_in_child=claims.release)

_versions = count(1)

FirstValues: TypeAlias = "Callable[[Layer, str], Array]"
"""Where values come from that nobody has set: the parameter of a layer by name."""


def drawn(generator: np.random.Generator) -> FirstValues:
    """Return the first values that layers draw from a generator."""
    return lambda layer, name: layer.first_values(name, generator)


class Views(dict[str, Array]):
    """A dict of views whose assignment copies into the view, so that all holders see it.

    It waits for passes that read the parameters at the time. Pickled or copied, it is a dict of arrays.
    """

    def __init__(self, lock: SharedLock, backend: Backend) -> None:
        super().__init__()
        self._lock, self._backend = lock, backend

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({name: self._backend.download(view) for name, view in self.items()},)

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise ArgumentError(f"{name!r} is no parameter here: choose one of {', '.join(self)}.")
        own, backend = self[name], self._backend
        array = value if backend.owns(value) else np.asarray(value)
        if array.shape != own.shape:
            raise ShapeError(
                f"{name} was given shape {array.shape}, and has shape {own.shape}: give an array of that shape."
            )
        with self._lock.writing():
            if backend.owns(array):
                backend.copy(array.astype(own.dtype, copy=False), own)
            else:
                backend.upload(array.astype(own.dtype, copy=False), own)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several parameters, each copied into its view."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value


class Store:
    """The parameters and gradients of some layers, in two flat arrays of one dtype on one device, and their states.

    Layers that already have values bring them along, and belong to this store from then on. The others are `undrawn`
    until `draw` gives them first values. What was lent of the stores that layers leave can no longer be written.

    Parameters
    ----------
    layers, backend, dtype
        Whose parameters, where and in which dtype.
    first
        Where first values come from, at once; by default not yet.
    rounds
        Whether values of a wider dtype may be rounded; by default those that would be are refused.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        backend: Backend,
        dtype: np.dtype[Any],
        first: FirstValues | None = None,
        rounds: bool = False,
    ) -> None:
        self.backend = backend
        self.dtype = dtype
        self.lock = SharedLock()
        self._version = 0  # of the values and states
        self._lent: dict[int, weakref.ref[Array]] = {}
        slots = _place(layers, backend.alignment // dtype.itemsize)
        size = max((stop for *_, stop in slots), default=0)
        self.decayed = max((stop for *_, shape, _, stop in slots if len(shape) > 1), default=0)
        self._values = backend.zeros((size,), dtype)
        self.gradients = backend.zeros((size,), dtype)
        self.params, self.grads, self.state = (
            {layer: Views(self.lock, backend) for layer in layers} for _ in range(3)
        )  # by layer, then by name
        for layer, name, shape, start, _ in slots:
            stop = start + prod(shape)
            dict.__setitem__(self.params[layer], name, self._values[start:stop].reshape(shape))
            dict.__setitem__(self.grads[layer], name, self.gradients[start:stop].reshape(shape))
        self._slots = slots
        for layer in layers:
            for name, shape in layer.state_shapes().items():
                dict.__setitem__(self.state[layer], name, backend.empty(shape, dtype))
        self.undrawn = dict.fromkeys(layers)
        self._claim(layers, rounds)
        if first is not None:
            self.draw(first)

    def _claim(self, layers: Sequence[Layer], rounds: bool) -> None:
        """Take over layers with their values, while nobody uses the stores that they leave."""
        with claims:
            left = sorted({layer.store for layer in layers if layer.store is not None}, key=id)
            with ExitStack() as alone:
                for store in left:
                    alone.enter_context(store.lock.writing())
                for layer in layers:
                    values = layer.held_values()
                    if values is not None:
                        self._fill(layer, values, rounds)
                    layer._brought = None
                for store in left:
                    store.close_lent(layers)
                for layer in layers:
                    layer.store, layer.dtype, layer.device = self, self.dtype, self.backend.name

    def admit(self, layers: Iterable[Layer]) -> None:
        """Know layers without values, too, wherever they stand."""
        for layer in layers:
            if layer not in self.params:
                for views in (self.params, self.grads, self.state):
                    views[layer] = Views(self.lock, self.backend)
                layer.store = layer.store or self
                layer.dtype, layer.device = self.dtype, self.backend.name

    def draw(self, first: FirstValues, layers: Iterable[Layer] | None = None) -> None:
        """Give first values to those of some layers, by default all, that have none."""
        with claims:
            for layer in list(self.undrawn) if layers is None else layers:
                if layer in self.undrawn:
                    self._fill(layer, {name: first(layer, name) for name in self._views(layer)})

    def redraw(self, first: FirstValues, layers: Iterable[Layer]) -> None:
        """Give first values to some layers, in the arrays that they have, and no gradients."""
        with claims, self.lock.writing():
            for layer in layers:
                self._fill(layer, {name: first(layer, name) for name in self._views(layer)})
                for gradient in self.grads[layer].values():
                    self.backend.fill(gradient, 0)

    def _fill(self, layer: Layer, values: dict[str, Array], rounds: bool = True) -> None:
        for name, view in self._views(layer).items():
            value = values[name]
            if not rounds and value.dtype.itemsize > self.dtype.itemsize and not _is_exact(value, self.dtype):
                raise ArgumentError(
                    f"{name} of {layer.label} holds {value.dtype} numbers that a network in {self.dtype} would round: "
                    f"call astype({value.dtype.name!r}) of the network, or astype({self.dtype.name!r}) of the layer."
                )
            self.backend.upload(value, view)
        self.touch()
        self.undrawn.pop(layer, None)

    def _views(self, layer: Layer) -> dict[str, Array]:
        return {**self.params[layer], **self.state[layer]}

    def close_lent(self, layers: Sequence[Layer]) -> None:
        """Let nobody write what was lent of layers that leave: it would change nothing any more."""
        leaving = {id(own) for layer in layers if layer in self.params for own in self._views(layer).values()}
        for key in leaving & self._lent.keys():
            view = self._lent[key]()
            if view is not None:
                view.flags.writeable = False

    def lend(self, views: dict[str, Array]) -> dict[str, Array]:
        """Return parameters or states for others to read and write: views whose end of life is noticed."""
        lent = Views(self.lock, self.backend)
        for name, own in views.items():
            dict.__setitem__(lent, name, self._lend_one(own))
        return lent

    @property
    def values(self) -> Array:
        """The flat array of all parameters, lent as by `lend`."""
        return self._lend_one(self._values)

    @property
    def own_values(self) -> Array:
        """The flat array of all parameters, for those who `touch` the store before they change it."""
        return self._values

    def _lend_one(self, own: Array) -> Array:
        self.touch()
        if not self.backend.keeps_constants:
            return own
        held = self._lent.get(id(own))
        view = held() if held else None
        if view is None:
            view = self.backend.view(own)
            self._lent[id(own)] = weakref.ref(view, partial(self._returned, id(own)))
        return view

    def _returned(self, key: int, reference: weakref.ref[Array]) -> None:
        if self._lent.get(key) is reference:
            del self._lent[key]

    def touch(self) -> None:
        """Say that values or states change."""
        self._version = next(_versions)

    @property
    def version(self) -> int | None:
        """A number that stays as it is as long as values and states do; None while others could change them."""
        return None if self._lent else self._version

    @property
    def constants(self) -> list[Array]:
        """The arrays that `version` tells about."""
        return [self._values, *(array for state in self.state.values() for array in state.values())]

    def host_value(self, layer: Layer, name: str) -> Array:
        """Return a parameter or a state as a NumPy array."""
        return self.backend.download(self._views(layer)[name])

    def host_values(self, layer: Layer) -> dict[str, Array] | None:
        """Return all parameters and states of a layer as NumPy arrays, or None where it has no values yet."""
        if layer in self.undrawn:
            return None
        return {name: self.backend.download(view) for name, view in self._views(layer).items()}

    def named(self, flat: Array) -> dict[str, Array]:
        """Return the views of an array laid out as `values` by "layer.parameter": an optimizer's state, by name."""
        return {
            f"{layer.name}.{name}": flat[start : start + prod(shape)].reshape(shape)
            for layer, name, shape, start, _ in self._slots
        }

    def trained(self, layers: Iterable[Layer]) -> list[slice]:
        """Return the stretches of the flat arrays that training some layers changes, in order: not frozen ones."""
        stretches: list[slice] = []
        learning = {layer for layer in layers if layer.trainable}
        for start, stop in sorted((start, stop) for layer, *_, start, stop in self._slots if layer in learning):
            if stretches and stretches[-1].stop == start:
                start = stretches.pop().start
            stretches.append(slice(start, stop))
        return stretches

    def owns(self, layers: Sequence[Layer]) -> bool:
        """Say whether all of these layers that have values still keep them here."""
        return all(layer.store is self or not layer.has_values for layer in layers)


def _is_exact(value: Array, dtype: np.dtype[Any]) -> bool:
    """Say whether an array holds the same numbers in another dtype."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(value.astype(dtype).astype(value.dtype), value, equal_nan=True))


def _place(layers: Sequence[Layer], align: int) -> list[tuple[Layer, str, Shape, int, int]]:
    """Return (layer, name, shape, start, end of slot) in the order of the layers; starts are multiples of `align`."""
    parameters = [(layer, *entry) for layer in layers for entry in layer.parameter_shapes().items()]
    starts = {}
    start = 0
    for layer, name, shape in sorted(parameters, key=lambda parameter: len(parameter[2]) < 2):
        starts[layer, name] = start
        start += -(-prod(shape) // align) * align
    return [
        (layer, name, shape, starts[layer, name], starts[layer, name] + -(-prod(shape) // align) * align)
        for layer, name, shape in parameters
    ]
