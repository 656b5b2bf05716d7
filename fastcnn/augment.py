"""Augmentation: images of a training batch are moved at random, so that a network sees each in many places.

`Trainer(..., augment=RandomShift(4, fill=black))`, or a tuple of several, which are joined into one movement, in their
order, before an image is read: nothing that leaves the image and comes back is lost. Only `fit` moves images, not
`step`, validation or prediction. What is drawn comes from the trainer's seed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.representation import Written, written_call
from fastcnn.shapes import IntOrAxes, compact, number, per_axis


@dataclass
class Movement:
    """How each image of a batch moves: mirrored, then shifted.

    Parameters
    ----------
    flip
        Whether it is mirrored left to right, (N,).
    down, right
        By how many pixels it then moves, (N,).
    """

    flip: Array
    down: Array
    right: Array


class Augmentation(ChecksArguments, Written, ABC):
    """The base of random movements of images (H, W, C)."""

    fill: Array | None = None
    """What comes where the image has left, (1,) or (C,); None where it leaves no place."""

    def check(self, shape: Shape) -> None:
        """Refuse images that cannot be moved so."""
        return

    @abstractmethod
    def draw(self, generator: np.random.Generator, movement: Movement) -> None:
        """Add this movement, drawn for each image, to what the images have moved already."""


class RandomFlip(Augmentation):
    """Mirror an image left to right with probability p.

    Parameters
    ----------
    p
        From 0 to 1 (else ArgumentError).

    >>> generator, movement = np.random.default_rng(0), Movement(np.zeros(3, bool), np.arange(3), np.arange(3))
    >>> RandomFlip(1.0).draw(generator, movement)
    >>> movement.flip, movement.down, movement.right
    (array([ True,  True,  True]), array([0, 1, 2]), array([ 0, -1, -2]))
    """

    shown = ("p",)

    def __init__(self, p: float = 0.5) -> None:
        self.p = number(p, "p", 0, 1)

    def draw(self, generator: np.random.Generator, movement: Movement) -> None:
        """Mirror some images, and so the way that they were shifted."""
        chosen = generator.random(movement.flip.size) < self.p
        movement.flip ^= chosen
        np.negative(movement.right, out=movement.right, where=chosen)


class RandomShift(Augmentation):
    """Shift an image by -pixels .. pixels along each axis, all whole numbers being as likely.

    A crop of its own size out of the image padded by `pixels`, as PyTorch's users have it from RandomCrop.

    Parameters
    ----------
    pixels
        A whole number, or (down, right).
    fill
        What comes where the image has left: a number, or one for each channel, on the scale of the images. Zero is the
        mean of normalized images, their black `Normalization.apply(0)`.
    """

    fill: Array

    def __init__(self, pixels: IntOrAxes, fill: ArrayLike = 0.0) -> None:
        self.pixels = per_axis(pixels, 2, 0, "pixels")
        try:
            self.fill = np.atleast_1d(np.array(fill, np.float64))
        except (TypeError, ValueError):
            self.fill = np.empty((0, 0))
        if self.fill.ndim != 1 or not self.fill.size or not np.isfinite(self.fill).all():
            raise ArgumentError(f"fill={fill!r} was given: give a finite number, or one for each channel.")

    def __repr__(self) -> str:
        fill = self.fill.item() if self.fill.size == 1 else self.fill
        return written_call(type(self), {"pixels": compact(self.pixels), "fill": fill})

    def check(self, shape: Shape) -> None:
        """Refuse images that a shift may push out, and a fill for other channels."""
        if any(pixels >= size for pixels, size in zip(self.pixels, shape[:2], strict=True)):
            raise ArgumentError(
                f"{self!r} may push images of {shape[0]}x{shape[1]} pixels out of sight: give fewer pixels."
            )
        if self.fill.size not in (1, shape[-1]):
            raise ArgumentError(
                f"{self!r} got {self.fill.size} numbers to fill with for images of {shape[-1]} channels: "
                f"give one, or {shape[-1]}."
            )

    def draw(self, generator: np.random.Generator, movement: Movement) -> None:
        """Shift every image."""
        for shift, pixels in zip((movement.down, movement.right), self.pixels, strict=True):
            shift += generator.integers(-pixels, pixels + 1, shift.size)


Augmentations: TypeAlias = Augmentation | Sequence[Augmentation]


class Mover:
    """Gathers batches of images (H, W, C), moved by augmentations one after the other.

    Parameters
    ----------
    augmentations
        One, or a sequence of them.
    shape, dtype
        (H, W, C) of the images, and their number type.
    generator
        What the movements are drawn from.
    """

    def __init__(
        self, augmentations: Augmentations, shape: Shape, dtype: np.dtype[Any], generator: np.random.Generator
    ) -> None:
        self.augmentations = _listed(augmentations)
        if len(shape) != 3:
            raise ArgumentError(f"augment was given for inputs of shape {shape}: it moves images (H, W, C).")
        for one in self.augmentations:
            one.check(shape)
        fills = {tuple(np.broadcast_to(one.fill, shape[2])) for one in self.augmentations if one.fill is not None}
        if len(fills) > 1:
            raise ArgumentError("augment got several shifts that fill with other numbers: give all the same.")
        self._fill = np.array(next(iter(fills)) if fills else np.zeros(shape[2]), dtype)
        self._generator = generator

    def gather(self, backend: Backend, images: Array, rows: Array, out: Array) -> None:
        """Fill `out` with the images at `rows`, each moved by what is drawn for it."""
        count = len(rows)
        moved = Movement(np.zeros(count, bool), np.zeros(count, np.int64), np.zeros(count, np.int64))
        for one in self.augmentations:
            one.draw(self._generator, moved)
        how = map(backend.resident, (rows, moved.flip, moved.down, moved.right, self._fill))
        backend.augment.move_images(images, *how, out)


def _listed(augmentations: Augmentations) -> list[Augmentation]:
    several = [augmentations] if isinstance(augmentations, Augmentation) else augmentations
    if not isinstance(several, Sequence) or not all(isinstance(one, Augmentation) for one in several):
        raise ArgumentError(
            f"augment={augmentations!r} was given: give RandomFlip(), RandomShift(4), or a tuple of several."
        )
    return list(several)
