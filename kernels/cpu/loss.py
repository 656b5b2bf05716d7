"""Softmax and cross-entropy together, from logits, by log-sum-exp.

Arrays: logits and probabilities (N, K), labels (N,) from 0 to K - 1, losses (N,) in float64.

    loss = log(sum over k of exp(logits[k])) - logits[label]

The largest logit is first taken off every one: no exponential overflows, and the sum is at least 1.
Exponentials and their sum are in float64 whatever the dtype: K is small beside the layers before.
"""

import math

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel

SMALL = 1 << 11  # logits (about 10 ns each): for fewer no second thread wakes (9 us)
LARGE = 1 << 16  # gradients (about 0.3 ns each): likewise


@jit(inner=True)
def softmax_cross_entropy_row(n, thread, logits, labels, losses, probabilities):
    """Fill the loss and the probabilities of image n."""
    K = logits.shape[1]
    largest = logits[n, 0]
    for k in range(1, K):
        largest = max(largest, logits[n, k])
    top, total = np.float64(largest), 0.0
    for k in range(K):
        total += math.exp(np.float64(logits[n, k]) - top)
    losses[n] = math.log(total) - (np.float64(logits[n, labels[n]]) - top)
    for k in range(K):
        probabilities[n, k] = math.exp(np.float64(logits[n, k]) - top) / total


@jit
def softmax_cross_entropy_rows(team, logits, labels, losses, probabilities):
    """Do `softmax_cross_entropy_forward`, row by row."""
    share(team, logits.shape[0], softmax_cross_entropy_row, (logits, labels, losses, probabilities))


def softmax_cross_entropy_forward(logits, labels, losses, probabilities):
    """Fill losses with one loss per image and probabilities with the softmax of every row."""
    worth = logits.size > SMALL
    call_parallel(worth, softmax_cross_entropy_rows, logits, labels, losses, probabilities)


@jit(inner=True)
def softmax_cross_entropy_backward_row(n, thread, probabilities, labels, scale, dlogits):
    """Fill the gradient of image n."""
    factor = dlogits.dtype.type(scale)
    for k in range(dlogits.shape[1]):
        dlogits[n, k] = factor * probabilities[n, k]
    label = labels[n]
    dlogits[n, label] = factor * (probabilities[n, label] - dlogits.dtype.type(1))


@jit
def softmax_cross_entropy_backward_rows(team, probabilities, labels, scale, dlogits):
    """Do `softmax_cross_entropy_backward`, row by row."""
    share(team, dlogits.shape[0], softmax_cross_entropy_backward_row, (probabilities, labels, scale, dlogits))


def softmax_cross_entropy_backward(probabilities, labels, scale, dlogits):
    """Fill dlogits with scale * (probabilities - onehot(labels)); 1 / N is the scale of a mean."""
    worth = dlogits.size > LARGE
    call_parallel(worth, softmax_cross_entropy_backward_rows, probabilities, labels, float(scale), dlogits)
