"""Softmax cross-entropy whose targets are probabilities of the classes.

Arrays: logits x and targets t (M, K); weights (K,), losses (M,) and scale (1,) in float64. With lse(x) = log(sum over k
of exp(x[k])) and c[k] = w[k] ((1 - smoothing) t[k] + smoothing / K), of every row:

    loss       sum over k of c[k] (lse(x) - x[k])
    gradient   softmax(x)[k] sum of c - c[k]

A class whose c is 0 adds nothing, even with a logit of minus infinity. Rows need not sum to 1. Source: Szegedy et al.
2016; PyTorch's CrossEntropyLoss.
"""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array

Doubles = npt.NDArray[np.float64]


def _factors(targets: Array, weights: Doubles, smoothing: float) -> Doubles:
    wide = targets.astype(np.float64)
    return weights * ((1 - smoothing) * wide + smoothing / max(1, targets.shape[1]))


def soft_cross_entropy_forward(
    logits: Array, targets: Array, weights: Doubles, smoothing: float, losses: Doubles, probabilities: Array
) -> None:
    """Fill losses with one loss a row and probabilities with the softmax of every row."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    probabilities[...] = exponentials / total
    factors = _factors(targets, weights, smoothing)
    below = np.log(total) - shifted
    losses[:] = np.multiply(factors, below, out=np.zeros_like(below), where=factors != 0).sum(axis=1)


def soft_cross_entropy_backward(
    probabilities: Array, targets: Array, weights: Doubles, smoothing: float, scale: Doubles, dlogits: Array
) -> None:
    """Fill dlogits with scale times the gradient; 1 / M is the scale of a mean."""
    factors = _factors(targets, weights, smoothing)
    dlogits[...] = scale[0] * (probabilities.astype(np.float64) * factors.sum(axis=1, keepdims=True) - factors)


def arg_max(values: Array, places: npt.NDArray[np.int64]) -> None:
    """Fill places (M,) with where the first of the largest values of every row stands."""
    places[:] = values.argmax(axis=1)
