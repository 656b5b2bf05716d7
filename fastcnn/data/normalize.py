"""Normalization: per channel, minus the mean, by the standard deviation of the training part."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastcnn.arguments import check_arguments
from fastcnn.errors import CheckpointError

BLOCK = 1024  # images at a time, so that sums in float64 need little memory


@check_arguments
@dataclass(frozen=True)
class Normalization:
    """The mean and the standard deviation of each channel.

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
    def fit(cls, images: NDArray[np.float32]) -> "Normalization":
        """Measure images (N, H, W, C); a constant channel gets the standard deviation 1."""
        axes = (0, 1, 2)
        mean = images.mean(axis=axes, dtype=np.float64)
        squares = np.zeros_like(mean)
        for start in range(0, len(images), BLOCK):
            squares += np.square(images[start : start + BLOCK] - mean).sum(axis=axes)
        std = np.sqrt(squares / (images.size / images.shape[3]))
        std[std == 0] = 1.0
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (images - mean) / std as a new array."""
        result = images - np.array(self.mean, dtype=np.float32)
        result /= np.array(self.std, dtype=np.float32)
        return result

    def metadata(self) -> dict[str, list[float]]:
        """Return what a checkpoint keeps of it."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], channels: int) -> "Normalization":
        """Return what a checkpoint keeps; mean 0 and standard deviation 1 where it keeps none.

        Raises
        ------
        CheckpointError
            If the entries are not one finite number a channel, the standard deviations above 0.
        """
        mean = metadata.get("mean", [0.0] * channels)
        std = metadata.get("std", [1.0] * channels)
        try:
            values = np.array([mean, std], dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != (2, channels) or not np.isfinite(values).all() or not (values[1] > 0).all():
            raise CheckpointError(
                f"The model file's normalization (mean {mean}, std {std}) does not fit a network "
                f"of {channels} channels; save the model again."
            )
        return cls(tuple(values[0].tolist()), tuple(values[1].tolist()))
