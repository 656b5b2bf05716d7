"""What convolution and linear layers share: weight, bias, and ReLU inside the kernel."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.initializers import Fans, HeNormal, Initializer, fans
from fastcnn.layers.base import Bound, Layer

Weights: TypeAlias = tuple[Array, Array]
"""A weight and a bias."""


class WeightedLayer(Layer):
    """A layer with a `weight` and perhaps a `bias` (K,), which starts at zero.

    Parameters
    ----------
    bias
        Whether a learned bias (K,), at first 0, is added.
    weight_init
        A rule of `fastcnn.initializers` for the first weights; None draws them by HeNormal().
    """

    weight_shape: Shape
    has_bias: bool

    def __init__(self, weight_init: Initializer | None, name: str | None, dtype: DTypeLike, device: str) -> None:
        super().__init__(name=name, dtype=dtype, device=device)
        self.weight_init = weight_init

    @property
    def weight_init(self) -> Initializer | None:
        """The rule for first weights, which counts when they are drawn."""
        return self._weight_init

    @weight_init.setter
    def weight_init(self, rule: Initializer | None) -> None:
        if rule is not None and not isinstance(rule, Initializer):
            raise ArgumentError(f"weight_init={rule!r} was given: give a rule of fastcnn.initializers.")
        self._weight_init = rule

    @property
    def bias_shape(self) -> Shape:
        """The shape of a bias: one number an output channel."""
        return self.weight_shape[-1:]

    @property
    def fans(self) -> Fans:
        """(fan-in, fan-out): the products summed into one output, and those that one input enters."""
        return fans(self.weight_shape)

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shapes of weight and bias."""
        bias = {"bias": self.bias_shape} if self.has_bias else {}
        return {"weight": self.weight_shape} | bias

    def first_values(self, name: str, generator: np.random.Generator) -> Array:
        """Return He-normal weights (or those of `weight_init`) and zero biases."""
        if name == "bias":
            return np.zeros(self.bias_shape)
        return (self.weight_init or HeNormal())(self.weight_shape, generator, self.fans)

    scaled: ClassVar[str | None] = None
    """The parameter whose last axis is the output's channels, if there is one: scaling it scales them."""

    @abstractmethod
    def bind(
        self,
        backend: Backend,
        xs: Sequence[Array],
        y: Array,
        training: bool = True,
        epilogue: Any = 0,
        weights: Weights | None = None,
    ) -> Bound:
        """Return the kernel calls; the forward kernel also applies an epilogue (`Activation.epilogue`) to y.

        `weights` stand for the `scaled` parameter and the bias.
        """


def bias_config(has_bias: bool, weight_init: Initializer | None) -> dict[str, Any]:
    """Return the two constructor arguments these layers share."""
    return {"bias": has_bias, "weight_init": weight_init}
