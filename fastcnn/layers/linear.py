"""The fully connected layer: every output is a weighted sum of all inputs.

    x (N, F)   weight (F, K)   bias (K,)   y (N, K) = x weight + bias

The weight is the channels-last twin of a 1x1 filter: the transpose of PyTorch's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import DTypeLike

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.errors import ShapeError
from fastcnn.initializers import Initializer
from fastcnn.layers.base import Bound, Call
from fastcnn.layers.weighted import WeightedLayer, Weights, bias_config
from fastcnn.shapes import whole

__all__ = ["Linear"]


class Linear(WeightedLayer):
    """A fully connected layer with PyTorch's arguments: y = x weight + bias.

    Parameters
    ----------
    in_features
        F, the numbers of an input.
    out_features
        K, the numbers of an output.

    Shapes
    ------
    x, y
        (N, F) and (N, K).

    Attributes
    ----------
    params["weight"]
        (F, K), the transpose of PyTorch's.
    params["bias"]
        (K,), unless `bias` is False.

    >>> Linear(400, 120).output_shape((400,))
    (120,)
    """

    kind = "linear"
    reads_back = "x"
    scaled = "weight"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: Initializer | None = None,
        name: str | None = None,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ) -> None:
        super().__init__(weight_init, name, dtype, device)
        self.in_features = whole(in_features, 1, "in_features")
        self.out_features = whole(out_features, 1, "out_features")
        self.has_bias = bool(bias)
        self.weight_shape = (self.in_features, self.out_features)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            **bias_config(self.has_bias, self.weight_init),
        }

    def infer(self, *inputs: Shape) -> Shape:
        """Return (K,)."""
        (shape,) = inputs
        if len(shape) > 1:
            raise ShapeError(
                f"{self.label} got an input of shape {shape}, and needs ({self.in_features},): put a Flatten before it."
            )
        if shape != (self.in_features,):
            raise self.refuse(shape, f"({self.in_features},)")
        return (self.out_features,)

    def multiply_adds(self, output: Shape) -> int:
        """Return one multiply-add for every element of the weight."""
        return self.in_features * self.out_features

    def bind(
        self,
        backend: Backend,
        xs: Sequence[Array],
        y: Array,
        training: bool = True,
        epilogue: Any = 0,
        weights: Weights | None = None,
    ) -> Bound:
        """Return the matrix products."""
        linear, x = backend.linear, xs[0]
        w, b = weights or (self.own_params["weight"], self.own_params.get("bias"))

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            calls: list[Call] = []
            if "weight" in grads:
                calls.append((linear.linear_backward_weight, (x, dy, grads["weight"])))
            if "bias" in grads:
                calls.append((linear.linear_backward_bias, (dy, grads["bias"])))
            if dxs[0] is not None:
                calls.append((linear.linear_backward_input, (dy, w, dxs[0])))
            return calls

        return Bound(backward, [(linear.linear_forward, (x, w, b, epilogue, y))])
