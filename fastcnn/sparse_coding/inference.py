"""How sparse coding finds the maps of a batch of images, and moves its filters: steps on arrays.

    y (N, H, W, C) images   z, x (N, H + R - 1, W + S - 1, K) maps   f (R, S, C, K) filters   e = y - F z

F takes maps to images, sum over j of z_j (*) f_ij where the filter lies on maps alone: the transposed convolution
with its outer pixels cut off. Its transpose F' is the convolution of padded images. With beta the maps are held near
their sparse twin x, and each kind of step lowers, or keeps, the half-quadratic cost

    C_beta(z, x, f) = lam / 2 * |F z - y|^2 + beta / 2 * |z - x|^2 + sum |x|^p.

Source: Zeiler, Krishnan, Taylor and Fergus 2010, whose symbols these are; Krishnan and Fergus 2009.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastcnn.algorithms import resolve_algorithm
from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.kernels.problem import ConvProblem
from fastcnn.layers.conv import filter_axes, five_axes

MOST_HALVINGS = 30  # of a step on the filters; then they are where rounding hides what is left to gain
LEAST_SHARE = 1e-3  # of the mean energy of a map: less counts as this much, so that rare maps take no giant steps


@dataclass(frozen=True)
class Schedule:
    """`rounds` of `iterations` each, alternating x and z; beta grows by a factor from round to round."""

    beta: float
    factor: float
    rounds: int
    iterations: int
    cg_iterations: int

    def betas(self) -> list[float]:
        """Return beta in every round.

        >>> Schedule(1.0, 10.0, 3, 1, 1).betas()
        [1.0, 10.0, 100.0]
        """
        return [self.beta * self.factor**number for number in range(self.rounds)]


class Cost(NamedTuple):
    """The three terms of the half-quadratic cost, sums over a batch of images."""

    data: float
    distance: float
    penalty: float


class Inference:
    """The maps of one batch of images under filters that may move; maps start at 0.

    `filters` is an array of the backend, C-contiguous, and is changed in place by `move_filters`.
    """

    def __init__(self, backend: Backend, images: Array, filters: Array, lam: float, p: float) -> None:
        self.backend, self.filters, self.lam, self.p = backend, filters, lam, p
        (R, S, C, K), (N, H, W, _) = filters.shape, images.shape
        dtype = filters.dtype
        maps = (N, H + R - 1, W + S - 1, K)
        one, padding = (1, 1, 1), ((0, 0), (R - 1, R - 1), (S - 1, S - 1))
        of_maps = (N, 1, *maps[1:])
        self.problem = ConvProblem((N, 1, H, W, C), of_maps, (1, R, S), one, padding, one, 1)
        self.algorithm = resolve_algorithm("auto")
        self.y, self.e, self.image = (backend.empty((N, H, W, C), dtype) for _ in range(3))
        self.z, self.x, self.r, self.d, self.q = (backend.zeros(maps, dtype) for _ in range(5))
        backend.upload(images, self.y)
        backend.copy(self.y, self.e)
        self.penalty, self.sums = np.zeros(N), np.zeros(N)

    def to_images(self, maps: Array, filters: Array, images: Array) -> None:
        """Fill images with F maps."""
        forward, w = self.backend.conv_transpose.conv_transpose_forward, filter_axes(filters)
        forward(five_axes(maps), w, None, self.problem, False, five_axes(images), self.algorithm)

    def to_maps(self, images: Array, maps: Array) -> None:
        """Fill maps with F' images."""
        forward, w = self.backend.conv.conv_forward, filter_axes(self.filters)
        forward(five_axes(images), w, None, self.problem, False, five_axes(maps), self.algorithm)

    def run(self, schedule: Schedule) -> None:
        """Find the maps: x, sparse, and z, near it."""
        for beta in self.alternate(schedule):
            last = beta
        self.shrink(last)

    def alternate(self, schedule: Schedule) -> Iterator[float]:
        """Do the steps (a) and (b) of all rounds, yielding beta after each pair."""
        for beta in schedule.betas():
            for _ in range(schedule.iterations):
                self.shrink(beta)
                self.solve(beta, schedule.cg_iterations)
                yield beta

    def shrink(self, beta: float) -> None:
        """Step (a): x = argmin of beta / 2 * (z - x)^2 + |x|^p, element by element."""
        self.backend.sparse.shrink(flat(self.z), beta, self.p, flat(self.x), self.penalty)

    def solve(self, beta: float, iterations: int) -> None:
        """Step (b): go towards the z with (lam F'F + beta) z = lam F'y + beta x by conjugate gradients, from z on.

        Every iteration lowers the half-quadratic cost; each image has step sizes of its own.
        """
        kernels, lam = self.backend.sparse, self.lam
        x, z, r, d, q = (flat(maps) for maps in (self.x, self.z, self.r, self.d, self.q))
        self.to_maps(self.e, self.r)
        squares, following, dots = (np.zeros(len(z)) for _ in range(3))
        kernels.conjugate_start(x, z, lam, beta, r, d, squares)
        for number in range(iterations):
            if not squares.any():
                break
            self.to_images(self.d, self.filters, self.image)
            self.to_maps(self.image, self.q)
            kernels.conjugate_product(d, lam, beta, q, dots)
            kernels.conjugate_step(ratios(squares, dots), d, q, z, r, following)
            if number + 1 < iterations:
                kernels.conjugate_direction(ratios(following, squares), r, d)
            squares, following = following, squares
        self._find_error()

    def move_filters(self, connectivity: Array) -> None:
        """Step (c): move the filters along the gradient of the first term to where it is lower, their norms kept at 1.

        The direction is tangent to the spheres |f_j| = 1, on whose maps j it is scaled by the maps' energies (Jacobi's
        rule); the step is the best one on the straight line, halved until the cost, back on the spheres, is no higher.
        """
        f = self.backend.download(self.filters).astype(np.float64)
        direction = self._direction(f, connectivity)
        trial = self.backend.empty(self.filters.shape, self.filters.dtype)
        self.backend.copy(direction, trial)
        self.to_images(self.z, trial, self.image)
        change = float(np.square(self.image, dtype=np.float64).sum())
        if not change > 0:
            return
        step = float(np.multiply(self.image, self.e, dtype=np.float64).sum()) / change
        before = float(np.square(self.e, dtype=np.float64).sum())
        for _ in range(MOST_HALVINGS):
            self.backend.upload(normalized(f + step * direction), trial)
            self.to_images(self.z, trial, self.image)
            self.backend.sparse.squared_distance(flat(self.y), flat(self.image), self.sums)
            if self.sums.sum() <= before:
                self.backend.copy(trial, self.filters)
                np.subtract(self.y, self.image, out=self.e)
                return
            step /= 2

    def _direction(self, f: Array, connectivity: Array) -> Array:
        gradient = self.backend.empty(self.filters.shape, self.filters.dtype)
        by_weight = self.backend.conv_transpose.conv_transpose_backward_weight
        by_weight(
            five_axes(self.z), five_axes(self.e), self.problem, filter_axes(gradient), self.algorithm
        )  # of -|e|^2 / 2, so it points downhill
        energy = np.square(self.z, dtype=np.float64).sum(axis=(0, 1, 2))
        energy = np.maximum(energy, LEAST_SHARE * energy.mean() or 1.0)
        direction: Array = self.backend.download(gradient) * connectivity / energy
        direction -= f * (f * direction).sum(axis=(0, 1, 2))
        return direction

    def _find_error(self) -> None:
        self.to_images(self.z, self.filters, self.image)
        np.subtract(self.y, self.image, out=self.e)

    def cost(self, beta: float) -> Cost:
        """Return the half-quadratic cost at z and x."""
        error = float(np.square(self.e, dtype=np.float64).sum())
        self.backend.sparse.squared_distance(flat(self.z), flat(self.x), self.sums)
        return Cost(self.lam / 2 * error, beta / 2 * float(self.sums.sum()), float(self.penalty.sum()))

    def objective(self) -> float:
        """Return the cost itself at the sparse maps: lam / 2 * |F x - y|^2 + sum |x|^p."""
        self.to_images(self.x, self.filters, self.image)
        self.backend.sparse.squared_distance(flat(self.y), flat(self.image), self.sums)
        return self.lam / 2 * float(self.sums.sum()) + float(self.penalty.sum())


def flat(maps: Array) -> Array:
    """Return a view (N, numbers of an image)."""
    return maps.reshape(len(maps), -1)


def ratios(a: Array, b: Array) -> Array:
    """Return a / b, and 0 where b is 0: an image that is solved stays as it is."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def normalized(filters: Array) -> Array:
    """Return filters (R, S, C, K) scaled so that those of each map j, f_j, have norm 1; zeros stay."""
    norms = np.sqrt(np.square(filters).sum(axis=(0, 1, 2)))
    scaled: Array = filters / np.where(norms > 0, norms, 1)
    return scaled
