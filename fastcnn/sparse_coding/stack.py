"""Layers of sparse coding, each fitted to the maps of the one before: a deconvolutional network.

Source: Zeiler, Krishnan, Taylor and Fergus 2010, who stack the maps themselves; the pooling that is offered
here, the largest magnitude of each window, is that of Jarrett et al. 2009.
"""

from __future__ import annotations

from itertools import pairwise
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array
from fastcnn.errors import ArgumentError, FastcnnError, ShapeError
from fastcnn.layers.pool import MaxPool2d
from fastcnn.shapes import whole
from fastcnn.sparse_coding.files import load, save, unreadable
from fastcnn.sparse_coding.model import SparseCoding


class SparseCodingStack(ChecksArguments):
    """Layers of sparse coding from the image up.

    Parameters
    ----------
    layers
        From the image up; each layer's `channels` are the `features` of the one below.
    pool
        Between layers, the largest magnitude of each window of pool x pixels replaces the maps; by default the
        next layer gets the maps as they are, and only then can `reconstruct` go back down.

    >>> images = np.random.default_rng(0).random((4, 8, 8, 1))
    >>> layers = [SparseCoding(1, 4, 3, device="reference"), SparseCoding(4, 6, 3, device="reference")]
    >>> stack = SparseCodingStack(*layers).fit(images, epochs=1)
    >>> stack.transform(images).shape, stack.reconstruct(stack.transform(images)).shape
    ((4, 12, 12, 6), (4, 8, 8, 1))
    """

    def __init__(self, *layers: SparseCoding, pool: int | None = None) -> None:
        if not layers or not all(isinstance(layer, SparseCoding) for layer in layers):
            raise ArgumentError(f"SparseCodingStack was given {layers!r}: give it layers of SparseCoding.")
        for below, above in pairwise(layers):
            if above.channels != below.features:
                raise ShapeError(
                    f"{above!r} stands on {below!r}, which has {below.features} maps: "
                    f"give it channels={below.features}."
                )
        self.layers = layers
        self.pool = None if pool is None else whole(pool, 2, "pool")

    def __repr__(self) -> str:
        pool = "" if self.pool is None else f", pool={self.pool}"
        return f"SparseCodingStack({', '.join(map(repr, self.layers))}{pool})"

    def fit(self, images: ArrayLike, epochs: int = 10, batch_size: int = 50) -> SparseCodingStack:
        """Fit the layers one after another, each to the maps of those below, and return the stack.

        Errors as `SparseCoding.fit`.

        Parameters
        ----------
        images
            (N, H, W, C), floats.
        epochs
            How often all images are used, at least 1.
        batch_size
            Images of a step, at least 1.
        """
        maps = images
        for layer in self.layers:
            layer.fit(maps, epochs, batch_size)
            if layer is not self.layers[-1]:
                maps = self._between(layer.transform(maps, batch_size))
        return self

    def transform(self, images: ArrayLike, batch_size: int = 100) -> Array:
        """Return the topmost maps of images (N, H, W, C). Errors as `SparseCoding.transform`.

        Parameters
        ----------
        images
            (N, H, W, C), floats.
        batch_size
            Images at a time, at least 1.
        """
        maps = self.layers[0].transform(images, batch_size)
        for layer in self.layers[1:]:
            maps = layer.transform(self._between(maps), batch_size)
        return maps

    def reconstruct(self, maps: ArrayLike, batch_size: int = 100) -> Array:
        """Return the images (N, H, W, C) that topmost maps make up.

        Parameters
        ----------
        maps
            As `transform` returns them.
        batch_size
            Images at a time, at least 1.

        Raises
        ------
        ArgumentError
            If there is pooling between several layers, which forgets where in its window a map was large.
        ShapeError, DataError
            As `SparseCoding.reconstruct`.
        """
        if self.pool is not None and len(self.layers) > 1:
            raise ArgumentError(
                f"reconstruct cannot undo the pooling of {self!r}: reconstruct by one layer, or make it without pool."
            )
        found = self.layers[-1].reconstruct(maps, batch_size)
        for layer in self.layers[-2::-1]:
            found = layer.reconstruct(found, batch_size)
        return found

    def save(self, path: str | PathLike[str]) -> None:
        """Write all layers to a safetensors file, in one step; CheckpointError if that fails.

        Parameters
        ----------
        path
            The file.
        """
        save(self.layers, self.pool, path)

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "cpu") -> SparseCodingStack:
        """Return the layers in a file that `save` wrote; CheckpointError if there are none.

        Parameters
        ----------
        path
            The file.
        device
            "cpu" or "reference".
        """
        layers, pool = load(path, SparseCoding, device)
        try:
            return cls(*layers, pool=pool)
        except FastcnnError as error:
            raise unreadable(path, f"describes a stack that cannot be built ({str(error).rstrip('.')})") from None

    def _between(self, maps: Array) -> Array:
        if self.pool is None:
            return maps
        return MaxPool2d(self.pool, ceil_mode=True, device=self.layers[0].device).forward(np.abs(maps))
