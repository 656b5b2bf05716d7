"""Where parameters live: a flat array of values and one of gradients for all layers of a network.

A layer's `params` and `grads` are views into the two: an optimizer updates a network in one call. Parameters of several
axes stand before those of one (biases, scales and shifts), so that two calls can treat them differently.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastcnn.arrays import Array, Shape
from fastcnn.backend import CACHE_LINE, Backend
from fastcnn.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from fastcnn.layers.base import Layer


FirstValues: TypeAlias = "Callable[[Layer, str], Array]"
"""Where values come from that nobody has set: the parameter of a layer by name."""


def drawn(generator: np.random.Generator) -> FirstValues:
    """Return the first values that layers draw from a generator."""
    return lambda layer, name: layer.first_values(name, generator)


class Views(dict[str, Array]):
    """A dict of views whose assignment copies into the view, so that all holders see it."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise ArgumentError(f"{name!r} is no parameter here: choose one of {', '.join(self)}.")
        array = np.asarray(value)
        if array.shape != self[name].shape:
            raise ShapeError(
                f"{name} was given shape {array.shape}, and has shape {self[name].shape}: give an array of that shape."
            )
        self[name][...] = array

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several parameters, each copied into its view."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value


class Store:
    """The parameters and gradients of some layers, in two flat arrays of one dtype on one device, and their states.

    Layers that already have parameters bring their values; the others get first ones, in order,
    from `first(layer, name)`. The layers belong to this store from then on. Without `first` nothing is filled: a store
    of values that nobody needs takes no memory where the backend's arrays take none.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        backend: Backend,
        dtype: np.dtype[Any],
        first: FirstValues | None,
    ) -> None:
        self.backend = backend
        self.dtype = dtype
        self._version = 0  # of the values and states
        self._lent: dict[int, weakref.ref[Array]] = {}
        slots = _place(layers, CACHE_LINE // dtype.itemsize)
        size = max((stop for *_, stop in slots), default=0)
        self.decayed = max((stop for *_, shape, _, stop in slots if len(shape) > 1), default=0)
        self._values = backend.zeros((size,), dtype)
        self.gradients = backend.zeros((size,), dtype)
        self.params: dict[Layer, dict[str, Array]] = {layer: Views() for layer in layers}
        self.grads: dict[Layer, dict[str, Array]] = {layer: Views() for layer in layers}
        for layer, name, shape, start, stop in slots:
            stop = start + prod(shape)
            value = self._values[start:stop].reshape(shape)
            dict.__setitem__(self.params[layer], name, value)
            dict.__setitem__(self.grads[layer], name, self.gradients[start:stop].reshape(shape))
            self._fill(layer, name, first, value)
        self._slots = [(layer, start, stop) for layer, *_, start, stop in slots]
        self.state: dict[Layer, dict[str, Array]] = {layer: Views() for layer in layers}
        for layer in layers:
            for name, shape in layer.state_shapes().items():
                array = backend.empty(shape, dtype)
                self._fill(layer, name, first, array)
                dict.__setitem__(self.state[layer], name, array)
        for layer in layers:
            layer.store, layer.dtype, layer.device = self, dtype, backend.name

    def lend(self, views: dict[str, Array]) -> dict[str, Array]:
        """Return parameters or states for others to read and write: views whose end of life is noticed."""
        lent = Views()
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
        self._version += 1

    @property
    def version(self) -> int | None:
        """A number that stays as it is as long as values and states do; None while others could change them."""
        return None if self._lent else self._version

    @property
    def constants(self) -> list[Array]:
        """The arrays that `version` tells about."""
        return [self._values, *(array for state in self.state.values() for array in state.values())]

    def _fill(self, layer: Layer, name: str, first: FirstValues | None, out: Array) -> None:
        if first is not None:
            value = first(layer, name) if layer.store is None else layer.store.host_value(layer, name)
            self.backend.copy(value, out)

    def host_value(self, layer: Layer, name: str) -> Array:
        """Return a parameter or a state as a NumPy array."""
        held = self.params[layer] if name in self.params[layer] else self.state[layer]
        return self.backend.to_host(held[name])

    def named(self, flat: Array) -> dict[str, Array]:
        """Return the views of an array laid out as `values` by "layer.parameter": an optimizer's state, by name."""
        start = self._values.ctypes.data
        views = {}
        for layer, params in self.params.items():
            for name, value in params.items():
                first = (value.ctypes.data - start) // flat.itemsize
                views[f"{layer.name}.{name}"] = flat[first : first + value.size].reshape(value.shape)
        return views

    def trained(self) -> list[slice]:
        """Return the stretches of the flat arrays that training changes, in order: all but those of frozen layers."""
        stretches: list[slice] = []
        for start, stop in sorted((start, stop) for layer, start, stop in self._slots if layer.trainable):
            if stretches and stretches[-1].stop == start:
                start = stretches.pop().start
            stretches.append(slice(start, stop))
        return stretches

    def owns(self, layers: Sequence[Layer]) -> bool:
        """Say whether all these layers still keep their parameters here."""
        return all(layer.store is self for layer in layers)


def _place(layers: Sequence[Layer], align: int) -> list[tuple[Layer, str, Shape, int, int]]:
    """Return (layer, name, shape, start, end of slot) in the order of the layers; each starts on a cache line."""
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
