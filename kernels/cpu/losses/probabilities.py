"""Softmax cross-entropy whose targets are probabilities of the classes.

Arrays: logits x and targets t (M, K); weights (K,), losses (M,) and scale (1,) in float64. With lse(x) = log(sum over k
of exp(x[k])) and c[k] = w[k] ((1 - smoothing) t[k] + smoothing / K), of every row:

    loss       sum over k of c[k] (lse(x) - x[k])
    gradient   softmax(x)[k] sum of c - c[k]

A class whose c is 0 adds nothing, even with a logit of minus infinity. Rows need not sum to 1. Source: Szegedy et al.
2016; PyTorch's CrossEntropyLoss.

The cross-entropy of the largest logit as label is lse(x) less that logit: the exponentials are those of `loss.py`.
"""

import numpy as np

from fastcnn.kernels.cpu.losses.labels import softmax_cross_entropy_forward
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.workspace import scratch

DOUBLE = np.dtype(np.float64)
LARGE = 1 << 16  # plain elements: for fewer no second thread wakes
BLOCK = 1 << 12  # elements of a task
LANES = 16  # chains of additions: two vectors of eight doubles, as each waits for its last sum to come back


def _rows_of_a_task(values):
    return max(1, BLOCK // max(1, values.shape[1]))


def _lanes(worth, dtype=DOUBLE):
    """Return LANES numbers for each thread."""
    threads = threads_for(worth)
    return scratch("chains of a row", threads * LANES, dtype)[: threads * LANES].reshape(threads, LANES)


@jit(inner=True)
def _factor(target, weight, smoothing, every):
    """Return how much a class counts."""
    return weight * ((1.0 - smoothing) * np.float64(target) + every)


@jit(inner=True)
def _join(lanes, K):
    """Return the sum of the chains that K terms went to."""
    total = 0.0
    for lane in range(min(K, LANES)):
        total += lanes[lane]
    return total


@jit(inner=True)
def _add_term(logits, targets, weights, smoothing, every, row, k, lane, top, above, lanes):
    factor = _factor(targets[row, np.uintp(k)], weights[np.uintp(k)], smoothing, every)
    term = factor * (above + (top - np.float64(logits[row, np.uintp(k)])))
    lanes[np.uintp(lane)] += 0.0 if factor == 0.0 else term  # 0 * infinity is no number


@jit(inner=True)
def _loss_rows(block, thread, rows, logits, targets, weights, smoothing, tops, work, losses):
    K, lanes = logits.shape[1], work[thread]
    every, whole = smoothing / K, K // LANES * LANES
    for n in range(block * rows, min(logits.shape[0], block * rows + rows)):
        row, above = np.uintp(n), losses[n]
        top = np.float64(logits[row, np.uintp(tops[n])])
        lanes[:] = 0.0
        for first in range(0, whole, LANES):
            for lane in range(LANES):
                k = first + lane
                _add_term(logits, targets, weights, smoothing, every, row, k, lane, top, above, lanes)
        for k in range(whole, K):
            _add_term(logits, targets, weights, smoothing, every, row, k, k - whole, top, above, lanes)
        losses[n] = _join(lanes, K)


@jit
def _loss_blocks(team, rows, logits, targets, weights, smoothing, tops, work, losses):
    arguments = (rows, logits, targets, weights, smoothing, tops, work, losses)
    share(team, (logits.shape[0] + rows - 1) // rows, _loss_rows, arguments)


def soft_cross_entropy_forward(
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    smoothing: float,
    losses: np.ndarray,
    probabilities: np.ndarray,
) -> None:
    """Fill losses with one loss a row and probabilities with the softmax of every row."""
    M, K = logits.shape
    tops = scratch("largest logits", M, np.dtype(np.int64))[:M]
    arg_max(logits, tops)
    softmax_cross_entropy_forward(logits, tops, np.ones(K + 1), 0.0, losses, probabilities)
    worth, rule = logits.size > LARGE, (logits, targets, weights, float(smoothing))
    call_parallel(worth, _loss_blocks, _rows_of_a_task(logits), *rule, tops, _lanes(worth), losses)


@jit(inner=True)
def _gradient_rows(block, thread, rows, probabilities, targets, weights, smoothing, scale, work, dlogits):
    K, lanes = dlogits.shape[1], work[thread]
    every, whole = smoothing / K, K // LANES * LANES
    for n in range(block * rows, min(dlogits.shape[0], block * rows + rows)):
        row = np.uintp(n)
        lanes[:] = 0.0
        for first in range(0, whole, LANES):
            for lane in range(LANES):
                k = np.uintp(first + lane)
                lanes[np.uintp(lane)] += _factor(targets[row, k], weights[k], smoothing, every)
        for k in range(whole, K):
            lanes[k - whole] += _factor(targets[row, np.uintp(k)], weights[np.uintp(k)], smoothing, every)
        total = _join(lanes, K)
        for k in range(K):
            share_of_k = np.float64(probabilities[row, np.uintp(k)]) * total
            factor = _factor(targets[row, np.uintp(k)], weights[np.uintp(k)], smoothing, every)
            dlogits[row, np.uintp(k)] = scale * (share_of_k - factor)


@jit
def _gradient_blocks(team, rows, probabilities, targets, weights, smoothing, scale, work, dlogits):
    arguments = (rows, probabilities, targets, weights, smoothing, scale[0], work, dlogits)
    share(team, (dlogits.shape[0] + rows - 1) // rows, _gradient_rows, arguments)


def soft_cross_entropy_backward(
    probabilities: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    smoothing: float,
    scale: np.ndarray,
    dlogits: np.ndarray,
) -> None:
    """Fill dlogits with scale times the gradient; 1 / M is the scale of a mean."""
    worth, rule = dlogits.size > LARGE, (probabilities, targets, weights, float(smoothing), scale)
    call_parallel(worth, _gradient_blocks, _rows_of_a_task(dlogits), *rule, _lanes(worth), dlogits)


@jit(inner=True)
def _arg_max_rows(block, thread, rows, values, work, places):
    K, lanes = values.shape[1], work[thread]
    whole = K // LANES * LANES
    for n in range(block * rows, min(values.shape[0], block * rows + rows)):
        row = np.uintp(n)
        lanes[: min(whole, LANES)] = -np.inf
        for first in range(0, whole, LANES):
            for lane in range(LANES):
                v = values[row, np.uintp(first + lane)]
                lanes[np.uintp(lane)] = v if v > lanes[np.uintp(lane)] else lanes[np.uintp(lane)]
        largest, place = values[row, np.uintp(0)], 0
        for k in range(whole, K):
            largest = max(largest, values[row, np.uintp(k)])
        for lane in range(min(whole, LANES)):
            largest = max(largest, lanes[lane])
        while place < K - 1 and values[row, np.uintp(place)] != largest:
            place += 1
        places[n] = place


@jit
def _arg_max_blocks(team, rows, values, work, places):
    share(team, (values.shape[0] + rows - 1) // rows, _arg_max_rows, (rows, values, work, places))


def arg_max(values: np.ndarray, places: np.ndarray) -> None:
    """Fill places (M,) with where the first of the largest values of every row stands; with NaN in it, anywhere."""
    worth = values.size > LARGE
    call_parallel(worth, _arg_max_blocks, _rows_of_a_task(values), values, _lanes(worth, values.dtype), places)
