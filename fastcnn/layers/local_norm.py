"""Normalization by what stands near: neighbouring channels (local response), neighbouring pixels (local contrast).

x (N, ..., C)     y of the same shape; nothing is learned
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Bound, Call, Layer
from fastcnn.layers.norm import positive
from fastcnn.shapes import is_number, whole

__all__ = ["LocalContrastNorm", "LocalResponseNorm"]

MODES = ("both", "subtractive", "divisive")


class LocalResponseNorm(Layer):
    """Brightness normalization across channels (Krizhevsky, Sutskever, Hinton 2012), of arrays (N, ..., C).

        y[c] = x[c] / (kappa + lam * sum of x[j]^2)^mu

    Parameters
    ----------
    size
        How many neighbouring channels, from c - size // 2 on, the sum runs over; None takes all channels.
    alpha, beta, k
        As PyTorch writes it: kappa = k, mu = beta, and lam = alpha / size, for PyTorch takes the squares' mean (over
        `size` channels, at the ends too). With size=None, lam is alpha itself.
    kappa, lam, mu
        The definition's own numbers, in place of k, alpha / size and beta.

    >>> layer = LocalResponseNorm(None, kappa=0.0, lam=1.0, mu=0.5, device="reference")
    >>> layer.forward(np.array([[3.0, 4.0]]))
    array([[0.6, 0.8]])
    """

    kind = "local_response_norm"
    reads_back = "x"

    def __init__(
        self,
        size: int | None,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        kappa: float | None = None,
        lam: float | None = None,
        mu: float | None = None,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.size = None if size is None else whole(size, 1, "size")
        self.kappa = _from_zero(k if kappa is None else kappa, "k" if kappa is None else "kappa")
        scale = _from_zero(alpha, "alpha") / (self.size or 1)
        self.lam = scale if lam is None else _from_zero(lam, "lam")
        self.mu = positive(beta if mu is None else mu, "beta" if mu is None else "mu")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"size": self.size, "kappa": self.kappa, "lam": self.lam, "mu": self.mu}

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        return inputs[0]

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        C = y.shape[-1]
        rows, kernels = (prod(y.shape[:-1]), C), backend.local_norm
        before, after = (C, C) if self.size is None else (self.size // 2, (self.size - 1) // 2)
        how = (before, after, self.kappa, self.lam, self.mu)
        x2 = xs[0].reshape(rows)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            arguments = (x2, dy.reshape(rows), *how, dxs[0].reshape(rows))
            return [(kernels.local_response_backward_input, arguments)]

        return Bound(backward, [(kernels.local_response_forward, (x2, *how, y.reshape(rows)))])


def _from_zero(value: object, name: str) -> float:
    return 0.0 if is_number(value) and value == 0 else positive(value, name)


class LocalContrastNorm(Layer):
    """Contrast normalization of images (N, H, W, C) by their surroundings (Jarrett and others 2009).

    With G the mean over a window of pixels, by Gaussian weights of deviation `sigma`, and over all channels:
    subtractive, v = x - G x; divisive, y = v / max(D, mean of D over the image) with D = sqrt(G v^2).

    Parameters
    ----------
    kernel_size
        The window's size, odd. It is cut at the border, and the weights left sum to 1, so a flat image gives 0.
    sigma
        In pixels; the defaults are the paper's 9x9 window and 1.591.
    mode
        "both", "subtractive" or "divisive".
    eps
        The least divisor: without it, a flat image would be divided by the rounding of its zeros.

    >>> LocalContrastNorm(3, device="reference").forward(np.ones((1, 4, 4, 2))).any()
    np.False_
    """

    kind = "local_contrast_norm"
    reads_back = "y"

    def __init__(
        self,
        kernel_size: int = 9,
        sigma: float = 1.591,
        mode: str = "both",
        eps: float = 1e-5,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.kernel_size = whole(kernel_size, 1, "kernel_size")
        if self.kernel_size % 2 == 0:
            raise ArgumentError(f"kernel_size={kernel_size!r} was given: the window needs a centre, so an odd size.")
        if mode not in MODES:
            raise ArgumentError(f"mode={mode!r} was given: choose one of {', '.join(MODES)}.")
        self.sigma, self.mode, self.eps = positive(sigma, "sigma"), mode, positive(eps, "eps")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"kernel_size": self.kernel_size, "sigma": self.sigma, "mode": self.mode, "eps": self.eps}

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        (shape,) = inputs
        if len(shape) != 3:
            raise self.refuse_axes(shape, "(H, W, C)")
        return shape

    def weights(self, size: int) -> Array:
        """Return the table (size, kernel_size) of each pixel's weights along an axis; those outside are 0."""
        reach = self.kernel_size // 2
        offset = np.arange(-reach, reach + 1)
        at = np.arange(size)[:, None] + offset
        weights = np.where((at >= 0) & (at < size), np.exp(-np.square(offset / self.sigma) / 2), 0)
        table: Array = weights / weights.sum(1, keepdims=True)
        return table

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the deviations live between them."""
        kernels, deviation = backend.local_norm, backend.empty(y.shape[:3], self.dtype)
        tables = [backend.from_host(self.weights(size)) for size in y.shape[1:3]]
        how = (*tables, self.mode != "divisive", self.mode != "subtractive", self.eps)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(kernels.local_contrast_backward_input, (y, deviation, dy, *how, dxs[0]))]

        return Bound(backward, [(kernels.local_contrast_forward, (xs[0], *how, y, deviation))])
