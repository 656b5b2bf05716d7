"""Softmax cross-entropy whose targets are probabilities of the classes.

Arrays: logits x and targets t (M, K); weights (K,) and losses (M,) in float64. With lse(x) = log(sum over k of
exp(x[k])) and c[k] = w[k] ((1 - smoothing) t[k] + smoothing / K), of every row:

    loss       sum over k of c[k] (lse(x) - x[k])
    gradient   softmax(x)[k] sum of c - c[k]

A class whose c is 0 adds nothing, even with a logit of minus infinity. Rows need not sum to 1. Source: Szegedy et al.
2016; PyTorch's CrossEntropyLoss.

The cross-entropy of the largest logit as label is lse(x) less that logit: the exponentials are those of `loss.py`.
"""

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.loss import softmax_cross_entropy_forward
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.workspace import scratch

LARGE = 1 << 16  # plain elements: for fewer no second thread wakes
BLOCK = 1 << 12  # elements of a task


def _rows_of_a_task(values):
    return max(1, BLOCK // max(1, values.shape[1]))


@jit(inner=True)
def _loss_rows(block, thread, rows, logits, targets, weights, smoothing, tops, losses):
    K, every = logits.shape[1], smoothing / logits.shape[1]
    for n in range(block * rows, min(logits.shape[0], block * rows + rows)):
        row, total = np.uintp(n), 0.0
        top, above = np.float64(logits[row, np.uintp(tops[n])]), losses[n]
        for k in range(K):
            factor = weights[np.uintp(k)] * ((1.0 - smoothing) * np.float64(targets[row, np.uintp(k)]) + every)
            if factor != 0.0:  # 0 * infinity is no number
                total += factor * (above + (top - np.float64(logits[row, np.uintp(k)])))
        losses[n] = total


@jit
def _loss_blocks(team, rows, logits, targets, weights, smoothing, tops, losses):
    arguments = (rows, logits, targets, weights, smoothing, tops, losses)
    share(team, (logits.shape[0] + rows - 1) // rows, _loss_rows, arguments)


def soft_cross_entropy_forward(logits, targets, weights, smoothing, losses, probabilities):
    """Fill losses with one loss a row and probabilities with the softmax of every row."""
    M, K = logits.shape
    tops = scratch("largest logits", M, np.dtype(np.int64))[:M]
    arg_max(logits, tops)
    softmax_cross_entropy_forward(logits, tops, np.ones(K + 1), 0.0, losses, probabilities)
    rule = _rows_of_a_task(logits), logits, targets, weights, float(smoothing)
    call_parallel(logits.size > LARGE, _loss_blocks, *rule, tops, losses)


@jit(inner=True)
def _gradient_rows(block, thread, rows, probabilities, targets, weights, smoothing, scale, dlogits):
    K, every = dlogits.shape[1], smoothing / dlogits.shape[1]
    for n in range(block * rows, min(dlogits.shape[0], block * rows + rows)):
        row, total = np.uintp(n), 0.0
        for k in range(K):
            total += weights[np.uintp(k)] * ((1.0 - smoothing) * np.float64(targets[row, np.uintp(k)]) + every)
        for k in range(K):
            factor = weights[np.uintp(k)] * ((1.0 - smoothing) * np.float64(targets[row, np.uintp(k)]) + every)
            dlogits[row, np.uintp(k)] = scale * (np.float64(probabilities[row, np.uintp(k)]) * total - factor)


@jit
def _gradient_blocks(team, rows, probabilities, targets, weights, smoothing, scale, dlogits):
    arguments = (rows, probabilities, targets, weights, smoothing, scale, dlogits)
    share(team, (dlogits.shape[0] + rows - 1) // rows, _gradient_rows, arguments)


def soft_cross_entropy_backward(probabilities, targets, weights, smoothing, scale, dlogits):
    """Fill dlogits with scale times the gradient; 1 / M is the scale of a mean."""
    rule = _rows_of_a_task(dlogits), probabilities, targets, weights, float(smoothing), float(scale)
    call_parallel(dlogits.size > LARGE, _gradient_blocks, *rule, dlogits)


@jit(inner=True)
def _arg_max_rows(block, thread, rows, values, places):
    for n in range(block * rows, min(values.shape[0], block * rows + rows)):
        row, best = np.uintp(n), 0
        largest = values[row, np.uintp(0)]
        for k in range(1, values.shape[1]):
            v = values[row, np.uintp(k)]
            if v > largest:
                largest, best = v, k
        places[n] = best


@jit
def _arg_max_blocks(team, rows, values, places):
    share(team, (values.shape[0] + rows - 1) // rows, _arg_max_rows, (rows, values, places))


def arg_max(values, places):
    """Fill places (M,) with where the first of the largest values of every row stands."""
    call_parallel(values.size > LARGE, _arg_max_blocks, _rows_of_a_task(values), values, places)
