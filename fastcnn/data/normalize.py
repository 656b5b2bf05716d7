"""Normalization: per channel, minus the mean, by the standard deviation of the training part.

Images are read once, block by block, as they lie and in the dtype that they have: a block alone becomes float64. The
sums of squares around two means are merged as Chan, Golub and LeVeque do (1979, Updating formulae and a pairwise
algorithm for computing sample variances), in the order of the images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcnn.arguments import check_arguments
from fastcnn.errors import CheckpointError, DataError

BLOCK = 1 << 16  # numbers at a time: in float64 they fill half a megabyte, which stays in a cache


@check_arguments
@dataclass(frozen=True)
class Normalization:
    """The mean and the standard deviation of each channel.

    Parameters
    ----------
    mean, std
        (C,) numbers; `fit` measures them.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.array([0.0, 1.0], dtype=np.float32).reshape(2, 1, 1, 1)
    >>> normalization = Normalization.fit(images)
    >>> normalization
    Normalization(mean=(0.5,), std=(0.5,))
    >>> normalization.apply(images).ravel()
    array([-1.,  1.], dtype=float32)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, images: NDArray[Any]) -> "Normalization":
        """Measure images, of floats or bytes; a constant channel gets the standard deviation 1.

        Parameters
        ----------
        images
            (N, H, W, C).

        Raises
        ------
        DataError
            If there is no array of pixels, or one is NaN, infinity or too large to square.
        """
        if not isinstance(images, np.ndarray) or images.dtype.kind not in "biuf":
            raise DataError(f"Images are a NumPy array of numbers (N, H, W, C), not {_kind(images)}; convert them.")
        if images.ndim < 2 or not images.size:
            raise DataError(f"Images of shape {images.shape} have no pixels to normalize by; give (N, H, W, C).")
        # Around a pixel's values, what does not vary is exactly 0, and little cancels elsewhere.
        first = images[(0,) * (images.ndim - 1)].astype(np.float64)[:, np.newaxis]
        count, mean, squares = 0, np.zeros(len(first)), np.zeros(len(first))
        for block in _blocks(images):
            values = np.moveaxis(block, -1, 0).reshape(len(first), -1).astype(np.float64, order="C")
            with np.errstate(invalid="ignore", over="ignore"):  # told below
                values -= first
                own_mean = values.mean(axis=1)
                values -= own_mean[:, np.newaxis]
                distance, own = own_mean - mean, values.shape[1]
                count += own
                mean += distance * (own / count)
                squares += np.square(values, out=values).sum(axis=1) + distance**2 * (own * (count - own) / count)
        mean += first[:, 0]
        std = np.sqrt(squares / count)
        if not (np.isfinite(mean) & np.isfinite(std)).all():
            raise DataError("The images hold NaN, infinity or numbers too large to square; leave these out.")
        std[std == 0] = 1.0
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return (images - mean) / std, of floats or bytes, as a new array.

        Parameters
        ----------
        images
            (N, H, W, C), or any array whose last axis holds the channels; a number stands for all.
        """
        result = images - np.array(self.mean, dtype=np.float32)
        result /= np.array(self.std, dtype=np.float32)
        return result

    def metadata(self) -> dict[str, list[float]]:
        """Return what a checkpoint keeps of it."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], channels: int) -> "Normalization":
        """Return what a checkpoint keeps; mean 0 and standard deviation 1 where it keeps none.

        Parameters
        ----------
        metadata
            What a checkpoint keeps with a network.
        channels
            C, the channels of its images.

        Raises
        ------
        CheckpointError
            If the entries are not one finite number of float32 a channel, the standard deviations above 0.
        """
        mean = metadata.get("mean", [0.0] * channels)
        std = metadata.get("std", [1.0] * channels)
        try:
            values = np.array([mean, std], dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        with np.errstate(over="ignore"):
            applied = values.astype(np.float32)  # as `apply` takes them
        if applied.shape != (2, channels) or not np.isfinite(applied).all() or not (applied[1] > 0).all():
            raise CheckpointError(
                f"The model file's normalization (mean {mean}, std {std}) does not fit a network "
                f"of {channels} channels; save the model again."
            )
        return cls(tuple(values[0].tolist()), tuple(values[1].tolist()))


def _kind(images: object) -> str:
    """Return what stands in the place of images, for a sentence."""
    return f"one of {images.dtype}" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"


def _blocks(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield views of images, or of parts of one, in their order: of BLOCK numbers at most, but of whole pixels."""
    rows = max(1, BLOCK * len(images) // images.size)
    for start in range(0, len(images), rows):
        block = images[start : start + rows]
        if block.size > BLOCK and block.ndim > 2:
            yield from _blocks(block[0])
        else:
            yield block
