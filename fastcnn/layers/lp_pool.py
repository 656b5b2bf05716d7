"""Pooling by norms and by Gaussian weights, channel by channel.

    x (N, W, C)  (N, H, W, C)  (N, D, H, W, C)      y has the same channels and one pixel a window

The stride defaults to the window.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import DTypeLike

from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Bound, Call
from fastcnn.layers.conv import five_axes
from fastcnn.layers.pool import Pool
from fastcnn.shapes import IntOrAxes, is_number

__all__ = ["GaussianPool2d", "LPPool1d", "LPPool2d", "LPPool3d"]

# A Gaussian's window reaches two standard deviations from its centre.
SIGMAS_IN_A_WINDOW = 4


def positive(value: object, minimum: float, name: str, advice: str) -> float:
    """Return `value` as a float, or refuse what is no finite number from `minimum` up; above it where that is 0."""
    if not is_number(value) or value < minimum or not value:
        raise ArgumentError(f"{name}={value!r} was given: {advice}.")
    return float(value)


class LPPool(Pool):
    """The p-norm of every window, (sum |x|^p)^(1/p): p = 2 is the L2 pool, p = 1 a sum of absolute values.

    Notes
    -----
    y = (sum |x|^p)^(1/p). Where the norm is 0, so is the gradient. PyTorch leaves out the absolute value, and with
    `ceil_mode` counts a window that hangs over the image as if it were whole; here it is the norm of the pixels that it
    holds.

    Parameters
    ----------
    norm_type
        p, a finite number >= 1.
    """

    reads_back = "xy"

    def __init__(
        self,
        norm_type: float,
        kernel_size: IntOrAxes,
        stride: IntOrAxes | None = None,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        advice = "it must be a finite number >= 1 (MaxPool of Abs is the infinite norm)"
        self.norm_type = positive(norm_type, 1, "norm_type", advice)
        self._set_window(kernel_size, stride, 0, 1, ceil_mode)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"norm_type": self.norm_type} | super().config()
        del config["padding"]
        return config

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the gradient needs input and output."""
        pool, x = backend.pool, five_axes(xs[0])
        rule = self.norm_type, self.lead() + self.kernel_size, self.lead() + self.stride

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(pool.lp_pool_backward_input, (x, five_axes(y), five_axes(dy), *rule, five_axes(dxs[0])))]

        return Bound(backward, [(pool.lp_pool_forward, (x, *rule, five_axes(y)))])


class LPPool1d(LPPool):
    """The p-norm over windows of signals (N, W, C).

    >>> LPPool1d(2, 3, stride=2).output_shape((11, 4))
    (5, 4)
    """

    rank = 1


class LPPool2d(LPPool):
    """The p-norm over windows of images (N, H, W, C).

    >>> import numpy as np
    >>> x = np.array([[3.0, -4.0], [0.0, 0.0]]).reshape(1, 2, 2, 1)
    >>> LPPool2d(2, 2, device="reference").forward(x).item()
    5.0
    """

    rank = 2


class LPPool3d(LPPool):
    """The p-norm over windows of volumes (N, D, H, W, C).

    >>> LPPool3d(2, (1, 2, 2)).output_shape((8, 28, 28, 6))
    (8, 14, 14, 6)
    """

    rank = 3


class GaussianPool2d(Pool):
    """Weighted mean over windows of images (N, H, W, C); weights fall with the distance d from the window's centre.

    A pixel weighs exp(-d^2 / (2 sigma^2)), and the weights of the pixels inside the image sum to 1: an even image stays
    even to its edge.

    Parameters
    ----------
    sigma
        In pixels, above 0: one number, or one for each axis; None takes a quarter of the window, which then reaches
        two standard deviations from its centre.

    >>> import numpy as np
    >>> spot = np.zeros((1, 3, 3, 1))
    >>> spot[0, 1, 1] = 1
    >>> round(GaussianPool2d(3, device="reference").forward(spot).item(), 3)
    0.301
    """

    kind = "pool"
    rank: ClassVar[int] = 2

    def __init__(
        self,
        kernel_size: IntOrAxes,
        stride: IntOrAxes | None = None,
        padding: IntOrAxes = 0,
        ceil_mode: bool = False,
        sigma: float | Sequence[float] | None = None,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self._set_window(kernel_size, stride, padding, 1, ceil_mode)
        given: Sequence[Any] = [size / SIGMAS_IN_A_WINDOW for size in self.kernel_size]
        if sigma is not None:
            given = sigma if isinstance(sigma, list | tuple) else [sigma] * self.rank
        if len(given) != self.rank:
            raise ArgumentError(f"sigma={sigma!r} was given: it must be a number or {self.rank} numbers.")
        self.sigma = tuple(positive(one, 0, "sigma", "it must be a finite number > 0, in pixels") for one in given)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        same = self.sigma == tuple(size / SIGMAS_IN_A_WINDOW for size in self.kernel_size)
        return super().config() | {"sigma": None if same else self.sigma}

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls."""
        pool, lead = backend.pool, self.lead()
        rule = lead + self.kernel_size, lead + self.stride, self.padding5(), (1.0,) * len(lead) + self.sigma

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            if dxs[0] is None:
                return []
            return [(pool.gaussian_pool_backward_input, (five_axes(dy), *rule, five_axes(dxs[0])))]

        return Bound(backward, [(pool.gaussian_pool_forward, (five_axes(xs[0]), *rule, five_axes(y)))])
