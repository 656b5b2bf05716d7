"""Softmax and cross-entropy together, from logits, by log-sum-exp.

Arrays: logits and probabilities (N, K), labels (N,) from 0 to K - 1, losses (N,) in float64.

    loss = log(sum over k of exp(logits[k])) - logits[label]

The largest logit is first taken off every one: no exponential overflows, and the sum is at least 1.
"""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.taps import Array

Labels = npt.NDArray[np.int64]


def softmax_cross_entropy_forward(
    logits: Array, labels: Labels, losses: npt.NDArray[np.float64], probabilities: Array
) -> None:
    """Fill losses with one loss per image and probabilities with the softmax of every row."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1)
    losses[:] = np.log(total) - shifted[np.arange(len(labels)), labels]
    probabilities[...] = exponentials / total[:, np.newaxis]


def softmax_cross_entropy_backward(probabilities: Array, labels: Labels, scale: float, dlogits: Array) -> None:
    """Fill dlogits with scale * (probabilities - onehot(labels)); 1 / N is the scale of a mean."""
    dlogits[...] = probabilities
    dlogits[np.arange(len(labels)), labels] -= 1
    dlogits *= scale
