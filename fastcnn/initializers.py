"""First values of weights: an Initializer fills a shape from a seeded generator.

A weight (..., C, K) has fan-in prod(..., C), the products summed into one output, and fan-out
prod(...) * K, the products that one input enters. Of a grouped convolution K counts one group only,
of a transposed one C and K change places: such layers give their own. Values are drawn in float64,
so a float32 and a float64 network of one seed agree.
Sources: Glorot and Bengio 2010 (Xavier), He et al. 2015, Saxe et al. 2014 (orthogonal).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from math import erf, isinf, prod, sqrt
from typing import ClassVar, TypeAlias

import numpy as np

from fastcnn.arguments import check_arguments
from fastcnn.arrays import Array, Shape
from fastcnn.errors import ArgumentError
from fastcnn.representation import Written
from fastcnn.shapes import is_number

Fans: TypeAlias = tuple[int, int]

# Keeps the variance of a signal through a ReLU, which drops half of it (He et al. 2015, eq. 10).
RELU_GAIN = sqrt(2.0)
LEAST_SHARE = 0.01  # of the draws that a truncated distribution must keep: each is drawn anew until it fits


def fans(shape: Shape) -> Fans:
    """Return (fan-in, fan-out) of a weight whose last two axes are input and output channels.

    Parameters
    ----------
    shape
        (..., C, K), as the layers' weights.

    >>> fans((5, 5, 6, 16))
    (150, 400)
    """
    return prod(shape[:-1]), prod(shape[:-2]) * shape[-1]


class Initializer(Written, ABC):
    """A rule for first values: `rule(shape, generator)` returns a float64 array.

    A layer gives its (fan-in, fan-out) too; without them they are those of `fans`.
    """

    @abstractmethod
    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the first values of a parameter."""


class _OfNumbers(Initializer):
    """A rule whose arguments are finite numbers, and refused as it is made where they are not."""

    from_zero: ClassVar[tuple[str, ...]] = ()
    may_be_infinite: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # those derived from it are dataclasses
            value, name = getattr(self, field.name), field.name
            is_end = name in self.may_be_infinite and isinstance(value, float) and isinf(value)
            if not is_end and (not is_number(value) or (name in self.from_zero and value < 0)):
                limit = " >= 0" if name in self.from_zero else ""
                raise ArgumentError(f"{name}={value!r} was given: it must be a finite number{limit}.")


@check_arguments
@dataclass(frozen=True)
class Constant(_OfNumbers):
    """Every element has one value.

    Parameters
    ----------
    value
        That value.

    >>> Constant(0.5)((2,), np.random.default_rng(0))
    array([0.5, 0.5])
    """

    value: float

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the constant array."""
        return np.full(shape, self.value)


@check_arguments
@dataclass(frozen=True)
class Zeros(Initializer):
    """Every element is 0: the first value of biases."""

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return an array of zeros."""
        return np.zeros(shape)


@check_arguments
@dataclass(frozen=True)
class Ones(Initializer):
    """Every element is 1: the first value of scales."""

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return an array of ones."""
        return np.ones(shape)


@check_arguments
@dataclass(frozen=True)
class Normal(_OfNumbers):
    """Independent draws from a normal distribution.

    Parameters
    ----------
    mean, std
        Its mean, and its standard deviation, from 0 up.
    """

    mean: float = 0.0
    std: float = 0.01
    from_zero = ("std",)

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the draws."""
        return generator.normal(self.mean, self.std, shape)


@check_arguments
@dataclass(frozen=True)
class TruncatedNormal(_OfNumbers):
    """Independent draws from a normal distribution, those outside [low, high] drawn again.

    Parameters
    ----------
    mean, std
        Of the distribution before it is cut.
    low, high
        Where it is cut, in units of the values themselves; at least 1% of the draws must lie between them.

    >>> draws = TruncatedNormal(0.0, 1.0, -1.0, 1.0)((1000,), np.random.default_rng(0))
    >>> bool(abs(draws).max() <= 1)
    True
    """

    mean: float = 0.0
    std: float = 1.0
    low: float = -2.0
    high: float = 2.0
    from_zero, may_be_infinite = ("std",), ("low", "high")

    def __post_init__(self) -> None:
        super().__post_init__()
        a, b = ((end - self.mean) / (self.std * sqrt(2.0)) if self.std > 0 else 0.0 for end in (self.low, self.high))
        if not (erf(b) - erf(a)) / 2 >= LEAST_SHARE:
            raise ArgumentError(
                f"{self!r} was given: fewer than {LEAST_SHARE:.0%} of the draws lie between low and high, "
                "so move them or widen std."
            )

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the draws."""
        draws: Array = np.array(generator.normal(self.mean, self.std, shape))
        while (outside := (draws < self.low) | (draws > self.high)).any():
            draws[outside] = generator.normal(self.mean, self.std, np.count_nonzero(outside))
        return draws


@check_arguments
@dataclass(frozen=True)
class Uniform(_OfNumbers):
    """Independent draws from [low, high).

    Parameters
    ----------
    low, high
        The ends, of which low is not above high.
    """

    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ArgumentError(f"{self!r} was given: low must not be above high.")

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the draws."""
        return generator.uniform(self.low, self.high, shape)


@check_arguments
@dataclass(frozen=True)
class XavierNormal(Initializer):
    """Normal with variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010)."""

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the draws."""
        return generator.normal(0.0, sqrt(2.0 / sum(fan or fans(shape))), shape)


@check_arguments
@dataclass(frozen=True)
class XavierUniform(Initializer):
    """Uniform with variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010)."""

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the draws."""
        bound = sqrt(6.0 / sum(fan or fans(shape)))
        return generator.uniform(-bound, bound, shape)


@check_arguments
@dataclass(frozen=True)
class HeNormal(_OfNumbers):
    """Normal with variance gain^2 / fan-in (He et al. 2015): the default of convolution and linear layers.

    Parameters
    ----------
    gain
        A number from 0 up: the default, the root of 2, keeps the variance of a signal through ReLU.
    """

    gain: float = RELU_GAIN
    from_zero = ("gain",)

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the draws."""
        return generator.normal(0.0, self.gain / sqrt((fan or fans(shape))[0]), shape)


@check_arguments
@dataclass(frozen=True)
class HeUniform(_OfNumbers):
    """Uniform with variance gain^2 / fan-in (He et al. 2015).

    Parameters
    ----------
    gain
        A number from 0 up: the default, the root of 2, keeps the variance of a signal through ReLU.
    """

    gain: float = RELU_GAIN
    from_zero = ("gain",)

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the draws."""
        bound = self.gain * sqrt(3.0 / (fan or fans(shape))[0])
        return generator.uniform(-bound, bound, shape)


@check_arguments
@dataclass(frozen=True)
class Orthogonal(_OfNumbers):
    """A weight seen as a (fan-in, K) matrix with orthonormal columns (or rows, if K is larger) (Saxe et al. 2014).

    Parameters
    ----------
    gain
        A factor of the matrix.

    >>> w = Orthogonal()((3, 3, 2, 4), np.random.default_rng(0)).reshape(18, 4)
    >>> bool(np.allclose(w.T @ w, np.eye(4)))
    True
    """

    gain: float = 1.0

    def __call__(self, shape: Shape, generator: np.random.Generator, fan: Fans | None = None) -> Array:
        """Return the matrix in the weight's shape."""
        rows, columns = prod(shape[:-1]), shape[-1]
        long, short = max(rows, columns), min(rows, columns)
        q, r = np.linalg.qr(generator.standard_normal((long, short)))
        q = q * np.sign(np.diag(r))  # the plain factor is not uniform over rotations
        values: Array = self.gain * (q if rows >= columns else q.T)
        return np.ascontiguousarray(values).reshape(shape)


INITIALIZERS: dict[str, type[Initializer]] = {
    rule.__name__: rule
    for rule in (
        Constant, Zeros, Ones, Normal, TruncatedNormal, Uniform, XavierNormal, XavierUniform, HeNormal, HeUniform,
        Orthogonal,
    )
}  # fmt: skip
