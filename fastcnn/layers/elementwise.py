"""The layer that works element by element: ReLU."""

from collections.abc import Mapping, Sequence

from fastcnn.arrays import Array, Shape
from fastcnn.backend import Backend
from fastcnn.layers.base import Bound, Call, Layer


class ReLU(Layer):
    """y = max(x, 0), with gradient 0 at 0.

    >>> import numpy as np
    >>> ReLU(device="reference").forward(np.array([[-1.0, 0.0, 2.0]]))
    array([[0., 0., 2.]])
    """

    kind = "relu"

    def infer(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        return inputs[0]

    def bind(self, backend: Backend, xs: Sequence[Array], y: Array, training: bool = True) -> Bound:
        """Return the calls; the gradient needs the output only."""
        activation = backend.activation

        def backward(dy: Array, dxs: Sequence[Array | None], grads: Mapping[str, Array]) -> list[Call]:
            return [] if dxs[0] is None else [(activation.relu_backward_input, (y, dy, dxs[0]))]

        return Bound(backward, [(activation.relu_forward, (xs[0], y))])
