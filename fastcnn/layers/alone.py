"""A layer by itself: bound to arrays of its own, and run.

This is all that an engine adds to a layer, with nothing planned: a layer is shapes, parameters and lists of kernel
calls on fixed arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastcnn.algorithms import resolve_algorithm
from fastcnn.arrays import Array, Shape, check_gradient

if TYPE_CHECKING:
    from fastcnn.layers.base import Layer
    from fastcnn.layers.parameters import Store


class Alone:
    """The calls of a layer for inputs of some shapes, in the mode that it is in, and the arrays that they work on.

    Parameters
    ----------
    layer, store
        The layer and its parameters.
    batch, shapes
        The number of images, and the shape of each input without it.
    """

    def __init__(self, layer: Layer, store: Store, batch: int, shapes: list[Shape]) -> None:
        self.store, self._layer, self._backend = store, layer, store.backend
        self._key = self._key_of(batch, shapes)
        backend, dtype, self._training = store.backend, store.dtype, layer.training
        self._xs = [backend.empty((batch, *shape), dtype) for shape in shapes]
        shape = (batch, *layer.output_shape(*shapes))
        is_view = layer.is_view_when(layer.training)
        self.y = self._xs[0].reshape(shape) if is_view else backend.empty(shape, dtype)
        bound = layer.bind(backend, self._xs, self.y, layer.training)
        self._forward = backend.program.Program(bound.forward)
        self._writers = [backend.writer(x) for x in self._xs]

        self._dy = backend.empty(shape, dtype)
        passes = is_view or layer.passes_gradient
        if passes or layer.in_place:  # the first gradient takes the place of the output's
            self._dxs = [self._dy.reshape(x.shape) for x in self._xs[:1]]
        else:
            self._dxs = [backend.empty(x.shape, dtype) for x in self._xs[:1]]
        self._dxs += [backend.empty(x.shape, dtype) for x in self._xs[1:]]
        targets = [None if passes and k == 0 else dx for k, dx in enumerate(self._dxs)]
        grads = layer.grads if layer.learns else {}
        self._backward = backend.program.Program(bound.backward(self._dy, targets, grads))

    def _key_of(self, batch: int, shapes: list[Shape]) -> object:
        return batch, shapes, resolve_algorithm("auto"), self._layer.plan_key()

    def matches(self, batch: int, shapes: list[Shape]) -> bool:
        """Say whether the calls are for this batch size, these input shapes and the mode that the layer is in."""
        return self._key_of(batch, shapes) == self._key

    def forward(self, arrays: Sequence[Array]) -> Array:
        """Return the output for inputs of the shapes, cast to the layer's dtype."""
        for array, write in zip(arrays, self._writers, strict=True):
            write(array)
        if self._training:
            self.store.touch()  # running statistics move
        self._forward.run()
        return self._backend.download(self.y)

    def backward(self, dy: Array) -> tuple[Array, ...]:
        """Return the gradients by the inputs, and fill those by the parameters; refuse a dy of another shape."""
        check_gradient(dy, self._dy)
        self._backend.upload(dy, self._dy)
        self._backward.run()
        return tuple(self._backend.download(dx) for dx in self._dxs)
