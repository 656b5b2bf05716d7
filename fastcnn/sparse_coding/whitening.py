"""Whitening: a linear map after which features are uncorrelated and of variance 1, fitted on data.

    z = W (x - mean)     W'W = Cov^-1     Cov = U diag(s) U', s falling

    PCA  W = diag(s)^(-1/2) U'      ordered by variance: the first features hold the most
    ZCA  W = U diag(s)^(-1/2) U'    of all such W the one that changes the data least: images stay images

Sources: Bell and Sejnowski 1997; Krizhevsky 2009; Kessy, Lewin, Strimmer 2018.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array, Shape, as_float
from fastcnn.errors import ArgumentError, DataError, ShapeError
from fastcnn.shapes import is_number

KINDS = ("zca", "pca")


class Whitening(ChecksArguments):
    """A preprocessing step: `fit` on training data, then `transform` all data.

    Parameters
    ----------
    kind
        "zca" or "pca".
    eps
        Added to the variance of every principal direction. Data that do not vary in some direction (images with
        constant borders, fewer images than pixels) need one, such as 0.01 of the largest variance; W'W is then
        (Cov + eps I)^-1.

    Attributes
    ----------
    mean, weight
        After `fit`: the features' mean (F,) and W (F, F), in float64.

    >>> x = np.random.default_rng(0).standard_normal((500, 3)) @ [[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 3.0]]
    >>> whitening = Whitening("zca").fit(x)
    >>> z = whitening.transform(x)
    >>> bool(np.allclose(np.cov(z.T), np.eye(3))), bool(np.allclose(whitening.inverse(z), x))
    (True, True)
    """

    mean: Array | None
    weight: Array | None

    def __init__(self, kind: str = "zca", eps: float = 0.0) -> None:
        if kind not in KINDS:
            raise ArgumentError(f"kind={kind!r} was given: choose one of {', '.join(KINDS)}.")
        if not is_number(eps) or eps < 0:
            raise ArgumentError(f"eps={eps!r} was given: it must be a number >= 0.")
        self.kind, self.eps = kind, float(eps)
        self.mean = self.weight = None
        self._back: Array = np.empty((0, 0))
        self._shape: Shape = ()

    def __repr__(self) -> str:
        return f"Whitening({self.kind!r}, eps={self.eps})"

    def fit(self, x: ArrayLike) -> Whitening:
        """Measure mean and covariance (over N - 1) of data (N, ...), every row's elements being its features.

        Parameters
        ----------
        x
            (N, ...), floats, a row for each sample.

        Raises
        ------
        DataError
            If there are fewer than two rows, a value is not finite, or (with eps = 0) the data do not vary in some
            direction.
        """
        array = as_float(x, "the data to whiten")
        if array.ndim < 2 or array.shape[0] < 2 or array.size == 0:
            raise DataError(
                f"fit got data of shape {array.shape}, and needs (N, ...) with at least two rows: add data."
            )
        rows = array.reshape(len(array), -1).astype(np.float64)
        if not np.isfinite(rows).all():
            raise DataError("fit got data with infinite or NaN values: clean them first.")
        mean = rows.mean(0)
        rows -= mean
        spread, directions = np.linalg.eigh(rows.T @ rows / (len(rows) - 1))
        spread, directions = np.maximum(spread[::-1], 0), directions[:, ::-1]
        # Below what rounding makes of a direction that does not vary.
        if self.eps == 0 and spread[-1] <= spread[0] * len(spread) * np.finfo(np.float64).eps:
            raise DataError(
                f"the {len(rows)} rows do not vary in all directions of their {rows.shape[1]} features, so the "
                f"covariance has no inverse: give an eps, such as Whitening({self.kind!r}, eps=0.01)."
            )
        # An eigenvector's sign is arbitrary: its largest element is made positive.
        largest = directions[np.abs(directions).argmax(0), np.arange(len(spread))]
        directions = directions * np.where(largest < 0, -1.0, 1.0)
        deviation = np.sqrt(spread + self.eps)
        self.weight, self._back = directions.T / deviation[:, None], directions * deviation
        if self.kind == "zca":
            self.weight, self._back = directions @ self.weight, self._back @ directions.T
        self.mean, self._shape = mean, array.shape[1:]
        return self

    def transform(self, x: ArrayLike) -> Array:
        """Return whitened data: of the shape of x for ZCA, (N, F) for PCA, in the dtype of x.

        Parameters
        ----------
        x
            (N, ...), floats, a row for each sample.

        Raises
        ------
        ArgumentError
            Before `fit`.
        ShapeError
            If the rows of x are not shaped as those of `fit`.
        """
        mean, weight = self._fitted()
        array = as_float(x, "the data to whiten")
        rows = self._rows(array, self._shape, "transform")
        z = (rows - mean) @ weight.T
        shaped = z.reshape(array.shape) if self.kind == "zca" else z
        return shaped.astype(array.dtype)

    def fit_transform(self, x: ArrayLike) -> Array:
        """Return `fit(x).transform(x)`.

        Parameters
        ----------
        x
            (N, ...), floats, a row for each sample.
        """
        return self.fit(x).transform(x)

    def inverse(self, z: ArrayLike) -> Array:
        """Return the data (N, ...) that `transform` takes to z, in the dtype of z; errors as `transform`.

        Parameters
        ----------
        z
            As `transform` returns them.
        """
        mean, _ = self._fitted()
        array = as_float(z, "the whitened data")
        rows = self._rows(array, self._shape if self.kind == "zca" else (prod(self._shape),), "inverse")
        x: Array = rows @ self._back.T + mean
        return x.reshape(len(array), *self._shape).astype(array.dtype)

    def _fitted(self) -> tuple[Array, Array]:
        if self.mean is None or self.weight is None:
            raise ArgumentError(f"{self!r} has seen no data yet: call its fit first.")
        return self.mean, self.weight

    def _rows(self, array: Array, shape: Shape, method: str) -> Array:
        if array.ndim == 0 or array.shape[1:] != shape:
            axes = ", ".join(map(str, ("N", *shape)))
            raise ShapeError(f"{method} got an array of shape {array.shape}, and needs ({axes}): give rows as in fit.")
        return array.reshape(len(array), prod(shape)).astype(np.float64)
