"""Sparse coding: the layer of a deconvolutional network, which learns filters from images alone.

    y (N, H, W, C) images   z (N, H + R - 1, W + S - 1, K) maps   f (R, S, C, K) filters   g (C, K) connectivity

An image y_i is made of maps z_j that are 0 nearly everywhere, each convolved with its filters f_ij:

    C(y) = lam / 2 * sum over i of |sum over j of g_ij (z_j (*) f_ij) - y_i|^2 + sum over j of |z_j|^p.

Source: Zeiler, Krishnan, Taylor and Fergus 2010, "Deconvolutional networks", whose symbols these are; the
alternation for p < 1 is that of Krishnan and Fergus 2009, "Fast image deconvolution using hyper-Laplacian priors".
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose, isfinite
from os import PathLike
from time import perf_counter
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array, Shape, as_float, channels_first_hint, float_dtype
from fastcnn.backend import check_device, get
from fastcnn.errors import ArgumentError, DataError, ShapeError, TrainingError
from fastcnn.representation import written_call
from fastcnn.seeding import seeded
from fastcnn.shapes import IntOrAxes, compact, is_int, per_axis, whole
from fastcnn.sparse_coding import files
from fastcnn.sparse_coding.inference import Inference, Schedule, normalized
from fastcnn.training.progress import Bar

EXPONENTS = (1.0, 1 / 2, 2 / 3)
FIRST_BETA = 0.5  # of lam: half of that or twice as much finds maps of nearly the same cost

SHUFFLE_STREAM = 1  # filters come from the seed itself, the order of the images from a stream beside it


class CostRecord(TypedDict):
    """The half-quadratic cost after one step of `fit`, a mean over the images of its batch.

    `cost` is the sum of `data` = lam / 2 * |F z - y|^2, `distance` = beta / 2 * |z - x|^2 and `penalty` = sum of
    |x|^p. After "maps", one alternation of x and z, and after "filters", one step on the filters, it is no higher
    than after the step before with the same epoch, batch and beta; from one beta to the next it rises.
    """

    epoch: int
    batch: int
    step: str
    beta: float
    cost: float
    data: float
    distance: float
    penalty: float


class SparseCoding(ChecksArguments):
    """A layer that learns filters whose sparse maps make up the images it is fitted to.

    Parameters
    ----------
    channels, features
        C channels of the images, K maps.
    kernel_size
        R x S pixels of a filter, one number or two.
    lam
        What an error of the images counts beside the maps' penalty: more of it leaves more maps' elements.
    p
        The exponent of the penalty: 1, 1/2 or 2/3. Below 1 maps are sparser, and found with less certainty.
    connectivity
        (C, K) of 0 and 1: where a map has a filter on a channel. All of them by default.
    beta, beta_factor, rounds
        The weight that ties the maps to their sparse twins: its first value (by default lam / 2), its factor from
        round to round, and how many rounds there are.
    iterations, cg_iterations
        Alternations in a round, and iterations of conjugate gradients in each.
    filter_steps
        Gradient steps on the filters for every batch.
    seed
        Draws the first filters and the order of the images.
    progress
        Whether `fit` draws a bar on standard error; by default on terminals only.
    dtype, device
        "float32" or "float64"; "cpu" or "reference".

    Attributes
    ----------
    cost_history
        A `CostRecord` for each step of `fit`.
    objective_history
        C(y) itself at the sparse maps after each epoch: a mean over the images as they were fitted.

    The scale of a map and its filters is free in C, so that all filters of a map together, f_j, have norm 1.

    >>> images = np.random.default_rng(0).random((4, 8, 8, 1))
    >>> coding = SparseCoding(1, 6, 3, lam=50.0, device="reference").fit(images, epochs=2)
    >>> maps = coding.transform(images)
    >>> maps.shape, coding.reconstruct(maps).shape
    ((4, 10, 10, 6), (4, 8, 8, 1))
    """

    def __init__(
        self,
        channels: int,
        features: int,
        kernel_size: IntOrAxes,
        lam: float = 5.0,
        p: float = 1.0,
        connectivity: ArrayLike | None = None,
        *,
        beta: float | None = None,
        beta_factor: float = 2.0,
        rounds: int = 8,
        iterations: int = 4,
        cg_iterations: int = 4,
        filter_steps: int = 8,
        seed: int = 0,
        progress: bool | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        self.channels, self.features = whole(channels, 1, "channels"), whole(features, 1, "features")
        self.kernel_size = per_axis(kernel_size, 2, 1, "kernel_size")
        self.lam = positive(lam, "lam")
        self.p = exponent(p)
        self.connectivity = self._check_connectivity(connectivity)
        self.schedule = Schedule(
            FIRST_BETA * self.lam if beta is None else positive(beta, "beta"),
            positive(beta_factor, "beta_factor", least=1.0),
            whole(rounds, 1, "rounds"),
            whole(iterations, 1, "iterations"),
            whole(cg_iterations, 1, "cg_iterations"),
        )
        self.filter_steps = whole(filter_steps, 1, "filter_steps")
        seeded(seed)
        self.seed, self.progress = int(seed), progress
        self.dtype, self.device = float_dtype(dtype), check_device(device)
        if not get(device).owns(self.connectivity):
            raise ArgumentError(f"device {device!r} was given: sparse coding works on arrays of the host, as of 'cpu'.")
        self._filters: Array | None = None
        self._shuffle = np.random.default_rng((self.seed, SHUFFLE_STREAM))
        self.epoch = 0
        self.cost_history: list[CostRecord] = []
        self.objective_history: list[float] = []

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        schedule = self.schedule
        return {
            "channels": self.channels,
            "features": self.features,
            "kernel_size": compact(self.kernel_size),
            "lam": self.lam,
            "p": self.p,
            "connectivity": None if self.connectivity.all() else self.connectivity.astype(int).tolist(),
            "beta": schedule.beta,
            "beta_factor": schedule.factor,
            "rounds": schedule.rounds,
            "iterations": schedule.iterations,
            "cg_iterations": schedule.cg_iterations,
            "filter_steps": self.filter_steps,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        config = self.config()
        if config["beta"] == FIRST_BETA * self.lam:
            del config["beta"]
        return written_call(type(self), config, ("lam", "p"))

    @property
    def filters(self) -> Array:
        """The filters f (R, S, C, K), zeros where the connectivity is 0; assigned, they are scaled to norm 1."""
        if self._filters is None:
            drawn = np.random.default_rng(self.seed).standard_normal(self.filter_shape)
            self._filters = normalized(drawn * self.connectivity).astype(self.dtype)
        return self._filters

    @filters.setter
    def filters(self, value: ArrayLike) -> None:
        array = as_float(value, f"the filters of {self!r}")
        if array.shape != self.filter_shape:
            raise ShapeError(
                f"{self!r} got filters of shape {array.shape}, and needs {self.filter_shape}: "
                "give (R, S, channels, features)."
            )
        if not np.isfinite(array).all():
            raise DataError(f"the filters given to {self!r} hold NaN or infinity: give finite numbers.")
        self._filters = normalized(array.astype(np.float64) * self.connectivity).astype(self.dtype, order="C")

    def restore(self, filters: Array) -> None:
        """Take back filters that the layer had before, as they are."""
        self._filters = filters

    @property
    def filter_shape(self) -> Shape:
        """The shape of the filters, (R, S, C, K)."""
        return (*self.kernel_size, self.channels, self.features)

    def fit(self, images: ArrayLike, epochs: int = 10, batch_size: int = 50) -> SparseCoding:
        """Learn filters from images (N, H, W, C), from where they are now, and return the layer.

        For each batch the maps are found anew, then the filters make `filter_steps` steps, each along the gradient
        of the data term, as far as lowers it. Batches are drawn anew in every epoch.

        Parameters
        ----------
        images
            (N, H, W, C), floats.
        epochs
            How often all images are used, at least 1.
        batch_size
            Images of a step, at least 1.

        Raises
        ------
        ShapeError, DataError
            If the images do not fit; nothing has run then.
        TrainingError
            If a cost is not finite; the filters are those before that batch.
        """
        y = self._check_images(images, "the images")
        whole(epochs, 1, "epochs")
        whole(batch_size, 1, "batch_size")
        if not len(y):
            raise DataError(f"{self!r} was given no images to fit: give at least one.")
        for number in range(epochs):
            self.epoch += 1
            with CostBar(self.progress, f"epoch {number + 1}/{epochs}", len(y)) as bar:
                self.objective_history.append(self._fit_epoch(y, batch_size, bar))
        return self

    def _fit_epoch(self, y: Array, batch_size: int, bar: CostBar) -> float:
        start, total, done = perf_counter(), 0.0, 0
        order = self._shuffle.permutation(len(y)) if batch_size < len(y) else np.arange(len(y))
        for batch, first in enumerate(range(0, len(y), batch_size), start=1):
            chosen = y[order[first : first + batch_size]]
            total += self._fit_batch(chosen, batch)
            done += len(chosen)
            bar.show_cost(done, total / done, perf_counter() - start)
        return total / done

    def _fit_batch(self, y: Array, batch: int) -> float:
        """Fit one batch, and return the sum of its images' costs at the sparse maps."""
        backend, schedule = get(self.device), self.schedule
        filters = backend.from_host(self.filters)
        inference = Inference(backend, y, filters, self.lam, self.p)
        with np.errstate(over="ignore", invalid="ignore"):  # `_record` tells of it in a sentence
            for beta in inference.alternate(schedule):
                self._record(inference, batch, "maps", beta)
            for _ in range(self.filter_steps):
                inference.move_filters(self.connectivity)
                self._record(inference, batch, "filters", beta)
        inference.shrink(beta)
        self._filters = backend.download(filters)
        return inference.objective()

    def _record(self, inference: Inference, batch: int, step: str, beta: float) -> None:
        data, distance, penalty = (term / len(inference.y) for term in inference.cost(beta))
        cost, epoch = data + distance + penalty, self.epoch
        if not isfinite(cost):
            raise TrainingError(
                f"the cost is {cost} in epoch {epoch}, batch {batch} of {self!r}; "
                "the filters are those before this batch: scale the images, for example to [0, 1]."
            )
        self.cost_history.append(
            CostRecord(
                epoch=epoch, batch=batch, step=step, beta=beta, cost=cost, data=data, distance=distance, penalty=penalty
            )
        )

    def transform(self, images: ArrayLike, batch_size: int = 100) -> Array:
        """Return the sparse maps x (N, H + R - 1, W + S - 1, K) of images (N, H, W, C).

        An image's maps do not depend on the others. Errors as `fit`.

        Parameters
        ----------
        images
            (N, H, W, C), floats.
        batch_size
            Images at a time, at least 1.
        """
        y = self._check_images(images, "the images")
        backend, (R, S) = get(self.device), self.kernel_size
        maps = np.zeros((len(y), y.shape[1] + R - 1, y.shape[2] + S - 1, self.features), self.dtype)
        filters = backend.from_host(self.filters)
        for rows in slices(len(y), batch_size):
            inference = Inference(backend, y[rows], filters, self.lam, self.p)
            with np.errstate(over="ignore", invalid="ignore"):
                inference.run(self.schedule)
            if not backend.all_finite(inference.x):
                raise DataError(f"the images given to {self!r} are too large for {self.dtype}: scale them to [0, 1].")
            maps[rows] = backend.download(inference.x)
        return maps

    def reconstruct(self, maps: ArrayLike, batch_size: int = 100) -> Array:
        """Return the images F z (N, H, W, C) of maps (N, H + R - 1, W + S - 1, K).

        Parameters
        ----------
        maps
            As `transform` returns them.
        batch_size
            Images at a time, at least 1.

        Raises
        ------
        ShapeError, DataError
            If the maps do not fit.
        """
        z = check_stack(maps, self.features, f"the maps given to {self!r}")
        (R, S), (N, height, width, _) = self.kernel_size, z.shape
        if height < R or width < S:
            raise ShapeError(
                f"{self!r} got maps of {height}x{width} pixels, smaller than its filters of {R}x{S}: "
                "give maps of H + R - 1 by W + S - 1."
            )
        backend = get(self.device)
        images = np.zeros((N, height - R + 1, width - S + 1, self.channels), self.dtype)
        filters = backend.from_host(self.filters)
        for rows in slices(N, batch_size):
            inference = Inference(backend, images[rows], filters, self.lam, self.p)
            backend.upload(z[rows], inference.z)
            inference.to_images(inference.z, filters, inference.image)
            images[rows] = backend.download(inference.image)
        return images

    def save(self, path: str | PathLike[str]) -> None:
        """Write the layer and its filters to a safetensors file, in one step; CheckpointError if that fails.

        Parameters
        ----------
        path
            The file.
        """
        files.save([self], None, path)

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "cpu") -> SparseCoding:
        """Return the layer in a file that `save` wrote; CheckpointError if there is none.

        Parameters
        ----------
        path
            The file.
        device
            "cpu" or "reference".
        """
        layers, _ = files.load(path, SparseCoding, device)
        if len(layers) != 1:
            raise files.unreadable(path, f"holds a stack of {len(layers)} layers: load it by SparseCodingStack.load")
        return layers[0]

    def _check_images(self, images: ArrayLike, what: str) -> Array:
        return check_stack(images, self.channels, f"{what} given to {self!r}").astype(self.dtype, copy=False)

    def _check_connectivity(self, given: ArrayLike | None) -> Array:
        shape = (self.channels, self.features)
        if given is None:
            return np.ones(shape)
        g = np.asarray(given)
        if g.shape != shape or g.dtype.kind not in "biuf" or not np.isin(g, (0, 1)).all():
            raise ArgumentError(
                f"connectivity of shape {g.shape} was given: give (channels, features) = {shape} of 0 and 1."
            )
        for axis, name in ((0, "map"), (1, "channel")):
            if not g.any(axis=axis).all():
                lonely = int(np.argmin(g.any(axis=axis)))
                raise ArgumentError(f"connectivity leaves {name} {lonely} without a filter: give it at least one 1.")
        return g.astype(np.float64)


class CostBar(Bar):
    """A bar over the images of an epoch with their cost and speed."""

    def __enter__(self) -> CostBar:
        super().__enter__()
        return self

    def show_cost(self, images: int, cost: float, seconds: float) -> None:
        """Move the bar to this many images."""
        if self._progress is not None:
            numbers = f"cost {cost:.4f}  {images / max(seconds, 1e-9):,.0f} images/s"
            self._progress.update(self._task, completed=images, numbers=numbers)


def check_stack(given: ArrayLike, channels: int, what: str) -> Array:
    """Return images or maps (N, H, W, channels) of finite floats, C-contiguous, or refuse what is none."""
    array = as_float(given, what)
    needed = f"(N, H, W, {channels})"
    if array.ndim != 4:
        hint = "add a batch axis with x[None] or a channel axis with x[..., None]."
        raise ShapeError(f"{what} have shape {array.shape}, where {needed} is needed: {hint}")
    if array.shape[-1] != channels or not (array.shape[1] and array.shape[2]):
        fitting = (*array.shape[2:], channels)
        hint = channels_first_hint(array.shape[1:], fitting) or "give as many channels, and at least one pixel."
        raise ShapeError(f"{what} have shape {array.shape}, where {needed} is needed: {hint}")
    if not np.isfinite(array).all():
        raise DataError(f"{what} hold NaN or infinity: give finite numbers.")
    return np.ascontiguousarray(array)


def slices(total: int, size: int) -> Iterator[slice]:
    """Yield slices of up to `size` rows."""
    whole(size, 1, "batch_size")
    return (slice(first, min(first + size, total)) for first in range(0, total, size))


def positive(value: float, name: str, least: float = 0.0) -> float:
    """Return a finite number above `least`, or refuse what is none."""
    number = isinstance(value, float | np.floating) or is_int(value)
    if not number or not isfinite(value) or value <= least:
        raise ArgumentError(f"{name}={value!r} was given: it must be a finite number above {least:g}.")
    return float(value)


def exponent(p: float) -> float:
    """Return the exponent that p means.

    >>> exponent(0.6666667) == 2 / 3
    True
    """
    for known in EXPONENTS:
        if (isinstance(p, float | np.floating) or is_int(p)) and isclose(p, known, rel_tol=1e-6):
            return known
    raise ArgumentError(f"p={p!r} was given: choose 1, 1/2 or 2/3.")
