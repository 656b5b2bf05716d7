"""Batch normalization folded into the layer before it: in prediction both together are one linear map.

y = gamma * (w x + b - mean) / sqrt(var + eps) + beta = (w * s) x + (b - mean) * s + beta
with s = gamma / sqrt(var + eps), a factor for every output channel
"""

import numpy as np

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Array
from fastcnn.backend import get
from fastcnn.errors import ArgumentError, ShapeError
from fastcnn.layers.batch_norm import BatchNorm
from fastcnn.layers.conv import Conv
from fastcnn.layers.conv_transpose import ConvTranspose
from fastcnn.layers.linear import Linear
from fastcnn.layers.parameters import Store

Foldable = Conv | ConvTranspose | Linear


@checks_arguments
def fold(layer: Foldable, norm: BatchNorm) -> Foldable:
    """Return a new layer that does in prediction what `layer` with `norm` after it does: nothing is left to normalize.

    Parameters
    ----------
    layer
        A convolution, transposed convolution or linear layer; it stays as it is.
    norm
        The batch normalization of its output, with running statistics.

    Returns
    -------
    A layer of the same class, name, dtype and device, with a bias.

    Raises
    ------
    ArgumentError
        If one of them is no such layer, or `norm` keeps no running statistics.
    ShapeError
        If their channels differ.

    >>> from fastcnn.layers import BatchNorm1d
    >>> linear, norm = Linear(3, 2, device="reference"), BatchNorm1d(2, device="reference").eval()
    >>> norm.state["running_mean"] = [1.0, 2.0]
    >>> x = np.ones((4, 3), np.float32)
    >>> bool(np.allclose(fold(linear, norm).forward(x), norm.forward(linear.forward(x)), atol=1e-6))
    True
    """
    if not isinstance(layer, Foldable) or not isinstance(norm, BatchNorm):
        raise ArgumentError(
            f"fold got {layer!r} and {norm!r}: give a convolution or linear layer and the BatchNorm after it."
        )
    if not norm.tracks:
        raise ArgumentError(f"fold got {norm.label}, which keeps no running statistics: train it with them.")
    outputs = layer.bias_shape[0]
    if outputs != norm.num_features:
        raise ShapeError(
            f"fold got {layer.label} with {outputs} output channels and {norm.label}: "
            "give the batch normalization that follows the layer."
        )
    scale, offset = _affine(norm)
    weight = _value(layer, "weight") * _by_weight(layer, scale)
    bias = (_value(layer, "bias") if layer.has_bias else 0) * scale + offset
    values = {"weight": weight, "bias": bias}
    folded = type(layer)(**(layer.config() | {"bias": True}), name=layer.name, dtype=layer.dtype, device=layer.device)
    Store([folded], get(layer.device), layer.dtype, lambda _, name: values[name])
    folded.training = layer.training
    return folded


def _value(layer: Foldable | BatchNorm, name: str) -> Array:
    """Return a parameter or state as a NumPy array in float64."""
    return layer.own_store().host_value(layer, name).astype(np.float64)


def _affine(norm: BatchNorm) -> tuple[Array, Array]:
    """Return (scale, offset) of y = scale * x + offset, what batch normalization is in prediction."""
    scale = 1 / np.sqrt(_value(norm, "running_var") + norm.eps)
    if not norm.has_affine:
        return scale, -_value(norm, "running_mean") * scale
    scale = scale * _value(norm, "weight")
    return scale, _value(norm, "bias") - _value(norm, "running_mean") * scale


def _by_weight(layer: Foldable, scale: Array) -> Array:
    """Return the outputs' factors in a shape that the weight is multiplied by.

    The weight of a transposed convolution is (*filter, K / groups, C): the group of the input channel, its last axis,
    says which of the outputs the axis before it counts.
    """
    if not isinstance(layer, ConvTranspose):
        return scale
    of_group = scale.reshape(layer.groups, -1).T
    return np.repeat(of_group, layer.in_channels // layer.groups, axis=1)
