"""Activations: layers that apply a function to every element.

    x, y (N, ..., C)    any number of axes

Names, arguments and defaults are PyTorch's; `inplace` is taken and has no effect, since plans place arrays.
The gradient is computed from the input or from the output, never from both. All functions hold for any finite input,
and have their limits at infinity; NaN passes, and with it the gradient as it is through ReLU, ReLU6, ELU and hardswish.
`kernels/reference/activation.py` defines them, and what the others' gradients are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.layers.base import Adjustable, Bound, Call, Layer
from fastcnn.shapes import is_number

__all__ = [
    "ELU",
    "GELU",
    "Abs",
    "Hardswish",
    "LeakyReLU",
    "Mish",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "SoftAbs",
    "Softplus",
    "Tanh",
]


class Activation(Layer):
    """A function of every element, by the stem of its kernels and the numbers that they take.

    Parameters
    ----------
    inplace
        Taken as PyTorch has it, and ignored: plans place arrays.

    Shapes
    ------
    x, y
        (N, ..., C), any number of axes.
    """

    kernel: str
    """`<kernel>_forward(x, *numbers, y)` and `<kernel>_backward_input(kept, dy, *numbers, dx)`."""

    reads_back = "x"
    in_place = True

    bounds: ClassVar[tuple[float, float] | None] = None
    """The function brings x between these numbers, with gradient 0 at and behind them, and does nothing else."""

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        return inputs[0]

    pointwise: ClassVar[bool] = True
    """Each element of y needs one element of x, so a convolution can apply the function to what it has just stored."""

    def numbers(self) -> tuple[Any, ...]:
        """Return what the kernels take between the arrays."""
        return ()

    def epilogue(self, backend: Backend, dtype: np.dtype[Any]) -> Any:
        """Return what a convolution's kernel takes to apply the function to its outputs."""
        return backend.activation.epilogue(self.kernel, self.numbers(), dtype)

    def kernels(self, backend: Backend) -> tuple[Callable[..., None], Callable[..., None]]:
        """Return the kernels of both directions."""
        room = backend.activation
        return getattr(room, f"{self.kernel}_forward"), getattr(room, f"{self.kernel}_backward_input")

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the gradient needs the input, or the output, and not both."""
        forward, backward_input = self.kernels(backend)
        kept = y if self.reads_back == "y" else xs[0]

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [] if dxs[0] is None else [(backward_input, (kept, dy, *self.numbers(), dxs[0]))]

        return Bound(backward, [(forward, (xs[0], *self.numbers(), y))])


class Plain(Activation):
    """An activation without a number of its own, which PyTorch can run in place."""

    def __init__(
        self,
        inplace: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)


def finite(value: Any, name: str, positive: bool = False) -> float:
    """Return a constructor's argument as a float, or refuse it by its name."""
    needed = "above 0" if positive else "that is finite"
    if not is_number(value):
        raise ArgumentError(f"{name}={value!r} was given, and must be a number {needed}: give one such as 1.0.")
    if positive and value <= 0:
        raise ArgumentError(f"{name}={value!r} was given, and must be a number above 0: give one such as 1.0.")
    return float(value)


class ReLU(Plain):
    """y = max(x, 0), with gradient 0 at 0.

    >>> import numpy as np
    >>> ReLU(device="reference").forward(np.array([[-1.0, 0.0, 2.0]]))
    array([[0., 0., 2.]])
    """

    kind = kernel = "relu"
    reads_back = "y"
    bounds = (0.0, math.inf)


class ReLU6(Plain):
    """y = min(max(x, 0), 6), with gradient 0 at 0 and at 6 (MobileNets).

    >>> import numpy as np
    >>> ReLU6(device="reference").forward(np.array([[-1.0, 2.0, 9.0]]))
    array([[0., 2., 6.]])
    """

    kind = kernel = "relu6"
    reads_back = "y"
    bounds = (0.0, 6.0)


class LeakyReLU(Activation):
    """y = x where x > 0, else negative_slope * x; the gradient at 0 is the slope.

    Parameters
    ----------
    negative_slope
        Any finite number.

    >>> import numpy as np
    >>> LeakyReLU(0.5, device="reference").forward(np.array([[-1.0, 0.0, 2.0]]))
    array([[-0.5,  0. ,  2. ]])
    """

    kind = kernel = "leaky_relu"

    adjustable: ClassVar[Adjustable] = {"negative_slope": partial(finite, name="negative_slope")}

    def __init__(
        self,
        negative_slope: float = 0.01,
        inplace: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.negative_slope: float = negative_slope

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"negative_slope": self.negative_slope}

    def numbers(self) -> tuple[Any, ...]:
        """Return the slope."""
        return (self.negative_slope,)


class ELU(Activation):
    """y = x where x > 0, else alpha * (exp(x) - 1) (Clevert 2016); the gradient at 0 is alpha.

    Parameters
    ----------
    alpha
        Any finite number.

    >>> import numpy as np
    >>> ELU(device="reference").forward(np.array([[-1e4, 0.0, 2.0]]))
    array([[-1.,  0.,  2.]])
    """

    kind = kernel = "elu"

    adjustable: ClassVar[Adjustable] = {"alpha": partial(finite, name="alpha")}

    def __init__(
        self,
        alpha: float = 1.0,
        inplace: bool = False,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.alpha: float = alpha

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"alpha": self.alpha}

    def numbers(self) -> tuple[Any, ...]:
        """Return alpha."""
        return (self.alpha,)


class SiLU(Plain):
    """y = x / (1 + exp(-x)) (Hendrycks and Gimpel 2016); also known as swish.

    >>> import numpy as np
    >>> SiLU(device="reference").forward(np.array([[-1e4, 0.0, 1e4]]))
    array([[   -0.,     0., 10000.]])
    """

    kind = kernel = "silu"


class GELU(Activation):
    """y = x P(x), P the probability that a normal number is less than x (Hendrycks and Gimpel 2016).

    Parameters
    ----------
    approximate
        "none", P itself, or "tanh", (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 in its place.

    >>> import numpy as np
    >>> GELU(device="reference").forward(np.array([[-1.0, 0.0, 1.0]])).round(4)
    array([[-0.1587,  0.    ,  0.8413]])
    """

    kind = "gelu"

    def __init__(
        self,
        approximate: str = "none",
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        if approximate not in ("none", "tanh"):
            raise ArgumentError(f"approximate={approximate!r} was given: give 'none' or 'tanh'.")
        self.approximate = approximate
        self.kernel = "gelu" if approximate == "none" else "gelu_tanh"

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"approximate": self.approximate}


class Hardswish(Plain):
    """y = x * min(max(x + 3, 0), 6) / 6 (Howard 2019); the gradient is 0 at -3 and 1 at 3.

    >>> import numpy as np
    >>> Hardswish(device="reference").forward(np.array([[-3.0, 0.0, 1.5, 3.0]]))
    array([[-0.   ,  0.   ,  1.125,  3.   ]])
    """

    kind = kernel = "hardswish"


class Mish(Plain):
    """y = x tanh(log(1 + exp(x))) (Misra 2019).

    >>> import numpy as np
    >>> Mish(device="reference").forward(np.array([[-1.0, 0.0, 1.0]])).round(4)
    array([[-0.3034,  0.    ,  0.8651]])
    """

    kind = kernel = "mish"


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)).

    >>> import numpy as np
    >>> Sigmoid(device="reference").forward(np.array([[-1e4, 0.0, 1e4]]))
    array([[0. , 0.5, 1. ]])
    """

    kind = kernel = "sigmoid"
    reads_back = "y"


class Tanh(Activation):
    """y = tanh(x).

    >>> import numpy as np
    >>> Tanh(device="reference").forward(np.array([[-1e4, 0.0, 1e4]]))
    array([[-1.,  0.,  1.]])
    """

    kind = kernel = "tanh"
    reads_back = "y"


def _threshold(value: Any) -> float:
    return math.inf if isinstance(value, Real) and value == math.inf else finite(value, "threshold")


class Softplus(Activation):
    """y = log(1 + exp(k x)) / k, the smooth ReLU (Dugas 2001); its gradient is 1 / (1 + exp(-k x)).

    No k x overflows.

    Parameters
    ----------
    k
        How sharply it bends, above 0.
    threshold
        x itself is returned where k x is above it, as PyTorch does with the same default; math.inf never does so.
    beta
        PyTorch's name of k; give one of them.

    >>> import numpy as np
    >>> Softplus(2.0, device="reference").forward(np.array([[-1e4, 0.0, 1e4]])).round(4)
    array([[0.000e+00, 3.466e-01, 1.000e+04]])
    """

    kind = kernel = "softplus"

    adjustable: ClassVar[Adjustable] = {
        "k": partial(finite, name="k", positive=True),
        "threshold": _threshold,
    }

    def __init__(
        self,
        k: float = 1.0,
        threshold: float = 20.0,
        *,
        beta: float | None = None,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        if beta is not None and k != 1.0:
            raise ArgumentError(f"k={k!r} and beta={beta!r} were given, two names of one number: give one of them.")
        self.k = finite(k, "k", positive=True) if beta is None else finite(beta, "beta", positive=True)
        self.threshold: float = threshold

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"k": self.k, "threshold": self.threshold}

    def numbers(self) -> tuple[Any, ...]:
        """Return k and the threshold."""
        return self.k, self.threshold


class Abs(Activation):
    """y = |x|, rectification (Jarrett 2009); the gradient is sign(x), 0 at 0.

    >>> import numpy as np
    >>> Abs(device="reference").forward(np.array([[-1.0, 0.0, 2.0]]))
    array([[1., 0., 2.]])
    """

    kind = kernel = "abs"


class SoftAbs(Activation):
    """y = (2 / k) log(1 + exp(k x)) - x - (2 / k) log 2, the smooth |x|; its gradient is tanh(k x / 2).

    Parameters
    ----------
    k
        How sharply it bends, above 0.

    >>> import numpy as np
    >>> SoftAbs(10.0, device="reference").forward(np.array([[-1e4, 0.0, 1e4]])).round(4)
    array([[9999.8614,    0.    , 9999.8614]])
    """

    kind = kernel = "soft_abs"

    adjustable: ClassVar[Adjustable] = {"k": partial(finite, name="k", positive=True)}

    def __init__(
        self,
        k: float = 1.0,
        *,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.k: float = k

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"k": self.k}

    def numbers(self) -> tuple[Any, ...]:
        """Return k."""
        return (self.k,)
