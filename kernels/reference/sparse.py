"""What sparse coding does element by element: shrinkage, and the sums and steps of conjugate gradients.

    z, x, r, d, q (N, M) hold the M numbers of each of N images   penalty, sums (N,) in float64

Every image has step sizes and sums of its own, so that its result does not depend on its batch.
Source: Krishnan and Fergus 2009 for the shrinkage; Zeiler, Krishnan, Taylor and Fergus 2010 for its use.
"""

import numpy as np

from fastcnn.kernels.reference.definition.windows import Array


def shrink(z: Array, beta: float, p: float, x: Array, penalty: Array) -> None:
    """Fill x with argmin over x of beta / 2 * (z - x)^2 + |x|^p, for p = 1, 1/2 or 2/3, and penalty with sums of |x|^p.

    Let x = beta^(-1 / (2 - p)) * u and z likewise t; then u minimises (t - u)^2 / 2 + u^p. For p < 1 the
    cost of u = 0 is reached again at a threshold of t, where u jumps; above, u is a root of the derivative.
    """
    scale = beta ** (-1 / (2 - p))
    t = np.abs(z.astype(np.float64)) / scale
    nearest = {1: _soft, 0.5: _half}.get(p, _two_thirds)
    with np.errstate(invalid="ignore"):
        u = nearest(t)
    x[...] = np.where(u == 0, 0, np.sign(z) * u * scale)
    penalty[...] = ((scale * u) ** p).sum(axis=1)


def _soft(t: Array) -> Array:
    """Return the minimiser for p = 1: the soft threshold."""
    return np.where(t <= 1, 0, t - 1)


def _half(t: Array) -> Array:
    """Return the minimiser for p = 1/2: with u = s^2, s is the largest root of s^3 - t s + 1/2 (Viete's cosine)."""
    threshold = 1.5
    safe = np.maximum(t, threshold)
    s = 2 * np.sqrt(safe / 3) * np.cos(np.arccos(-0.25 * (3 / safe) ** 1.5) / 3)
    return np.where(t <= threshold, 0, s**2)


def _two_thirds(t: Array) -> Array:
    """Return the minimiser for p = 2/3: with u = s^3, s is the largest root of s^4 - t s + 2/3 (Ferrari).

    The quartic is (s^2 + a s + b) (s^2 - a s + c) where A = a^2 is the root of A^3 - 8/3 A - t^2 (by cosh).
    """
    threshold = 2 * (2 / 3) ** 0.75
    safe = np.maximum(t, threshold)
    A = 2 * np.sqrt(8 / 9) * np.cosh(np.arccosh(safe**2 / 2 * (9 / 8) ** 1.5) / 3)
    s = (np.sqrt(A) + np.sqrt(2 * safe / np.sqrt(A) - A)) / 2
    return np.where(t <= threshold, 0, s**3)


def squared_distance(a: Array, b: Array, sums: Array) -> None:
    """Fill sums with the sum of (a - b)^2 of each image."""
    sums[...] = np.square(a.astype(np.float64) - b).sum(axis=1)


def conjugate_start(x: Array, z: Array, lam: float, beta: float, r: Array, d: Array, squares: Array) -> None:
    """Turn r, which holds F'(y - F z), into the residual lam * r + beta * (x - z); d is the same, squares its sums."""
    r[...] = lam * r + beta * (x - z)
    d[...] = r
    squares[...] = np.square(r, dtype=np.float64).sum(axis=1)


def conjugate_product(d: Array, lam: float, beta: float, q: Array, dots: Array) -> None:
    """Turn q, which holds F'F d, into the product lam * q + beta * d; fill dots with the sums of d * q."""
    q[...] = lam * q + beta * d
    dots[...] = np.multiply(d, q, dtype=np.float64).sum(axis=1)


def conjugate_step(alpha: Array, d: Array, q: Array, z: Array, r: Array, squares: Array) -> None:
    """Take the step z + alpha * d, r - alpha * q, with one alpha (N,) an image; fill squares with the sums of r^2."""
    step = alpha.astype(z.dtype)[:, None]
    z += step * d
    r -= step * q
    squares[...] = np.square(r, dtype=np.float64).sum(axis=1)


def conjugate_direction(ratio: Array, r: Array, d: Array) -> None:
    """Turn d into the next direction r + ratio * d, with one ratio (N,) an image."""
    d *= ratio.astype(d.dtype)[:, None]
    d += r
