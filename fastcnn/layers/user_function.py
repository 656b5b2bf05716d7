"""A user's own function of one number as a layer, in the loops of the built-in activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.activation import Activation
from fastcnn.layers.base import Bound, Call

__all__ = ["Elementwise"]


class Elementwise(Activation):
    """y = f(x), your own function of one number, and its derivative df(x).

    Both are compiled by Numba into the loops of the built-in activations: they use numbers, comparisons, and functions
    of `math` and `numpy`, and are pure; ufuncs and built-in functions, as `np.tanh` and `abs`, serve as they are. They
    get float32 or float64 as the layer does; a constant such as 0.5 makes a float32 a float64 on the way, at half the
    speed. A network that holds such a layer trains, and cannot be saved: code is not.

    Parameters
    ----------
    f
        The function, of one number.
    df
        Its derivative, of the same number x.

    Raises
    ------
    ArgumentError
        If f or df is no function of one number, or Numba cannot compile it (when the layer first runs).

    >>> import numpy as np
    >>> square = Elementwise(lambda x: x * x, lambda x: x + x, device="reference")
    >>> square.forward(np.array([[-3.0, 2.0]])), square.backward(np.array([[1.0, 1.0]]))
    (array([[9., 4.]]), array([[-6.,  4.]]))
    """

    kind = kernel = "elementwise"
    holds_code = True

    def epilogue(self, backend: Backend, dtype: np.dtype[Any]) -> Any:
        """Return what a convolution's kernel takes, f compiled."""
        self.check(backend, dtype)
        return backend.activation.epilogue(self.kernel, (self.f,), dtype)

    def check(self, backend: Backend, dtype: np.dtype[Any]) -> None:
        """Compile the functions, or refuse those that cannot be."""
        try:
            backend.activation.elementwise_check(self.f, self.df, dtype)
        except ValueError as error:
            raise ArgumentError(f"{self.label}: {error}") from None

    def __init__(
        self,
        f: Callable[[float], float],
        df: Callable[[float], float],
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        for key, function in (("f", f), ("df", df)):
            if not callable(function):
                raise ArgumentError(f"{key}={function!r} was given, and must be a function of one number: give one.")
        self.f, self.df = f, df

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, which no file holds."""
        return {"f": self.f, "df": self.df}

    def __repr__(self) -> str:
        return f"Elementwise({', '.join(getattr(f, '__name__', repr(f)) for f in (self.f, self.df))})"

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls, the functions compiled."""
        room, x = backend.activation, xs[0]
        self.check(backend, x.dtype)

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [] if dxs[0] is None else [(room.elementwise_backward_input, (x, dy, self.df, dxs[0]))]

        return Bound(backward, [(room.elementwise_forward, (x, self.f, y))])
