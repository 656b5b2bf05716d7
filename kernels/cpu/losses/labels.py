"""Losses of classifiers: one loss for each row of scores, and its gradient by the scores.

Arrays: scores (M, K), labels (M,) from 0 to K, weights (K + 1,), losses (M,) and scale (1,) in float64.
Label K belongs to no class: its row is left out, and weights[K] is 0. With x a row of scores, l its label, w the
weights, c = smoothing / K and lse(x) = log(sum over k of exp(x[k])):

    softmax cross-entropy   (1 - smoothing) w[l] (lse(x) - x[l]) + c sum over k of w[k] (lse(x) - x[k])
    negative log-likelihood -w[l] x[l], of scores that are log-probabilities
    hinge                   w[l] / K sum over k != l of max(0, margin - x[l] + x[k])^p
    binary cross-entropy    w[k] t[k] log(1 + exp(-x[k])) + (1 - t[k]) log(1 + exp(x[k])), for every k

The largest score is first taken off every one: no exponential overflows, and the sum is at least 1. Exponentials and
their sums are in float64 whatever the dtype. A task is a block of rows, as many as the first cache holds.
"""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_EXPONENTIALS
from fastcnn.kernels.cpu.runtime.workspace import scratch
from fastcnn.kernels.cpu.simd.math import exp, log1p, log_from_one

LARGE = 1 << 16  # plain elements (about 0.3 ns each): likewise
BLOCK = 1 << 11  # elements of a task, 16 KB of float64
FEW = 12  # classes: the rows of so few are too short for loops of their own
PAIRS = 4  # classes: of so few even the ends of two loops cost more


def _rows_of_a_task(scores):
    return max(1, BLOCK // max(1, scores.shape[1]))


@jit(inner=True)
def _largest(scores, n):
    """Return the largest of a row, found along four chains, as one waits for itself."""
    K = np.uintp(scores.shape[1])
    row, four = np.uintp(n), K // np.uintp(4) * np.uintp(4)
    a = b = c = d = scores[row, np.uintp(0)]
    for k in range(np.uintp(0), four, np.uintp(4)):
        a = max(a, scores[row, k])
        b = max(b, scores[row, k + np.uintp(1)])
        c = max(c, scores[row, k + np.uintp(2)])
        d = max(d, scores[row, k + np.uintp(3)])
    for k in range(four, K):
        a = max(a, scores[row, k])
    return max(max(a, b), max(c, d))


@jit(inner=True)
def _total(values, first, K):
    """Return the sum of K values, along four chains."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    four = K // 4 * 4
    for k in range(first, first + four, 4):
        a += values[np.uintp(k)]
        b += values[np.uintp(k + 1)]
        c += values[np.uintp(k + 2)]
        d += values[np.uintp(k + 3)]
    for k in range(first + four, first + K):
        a += values[np.uintp(k)]
    return (a + b) + (c + d)


@jit(inner=True)
def _shift_rows(logits, first, last, own, top):
    """Fill top with the largest logit of some rows, and own with the logits less that, row by row."""
    K = logits.shape[1]
    for n in range(first, last):
        largest, place = np.float64(_largest(logits, n)), (n - first) * K
        top[n - first] = largest
        for k in range(K):
            own[np.uintp(place + k)] = np.float64(logits[np.uintp(n), np.uintp(k)]) - largest


@jit(inner=True)
def _shift_columns(logits, first, last, own, top):
    """Fill own as `_shift_rows`, class by class: loops run over the rows, which are many where the classes are few."""
    K, rows = logits.shape[1], last - first
    for i in range(rows):
        top[np.uintp(i)] = np.float64(logits[np.uintp(first + i), np.uintp(0)])
    for k in range(1, K):
        for i in range(rows):
            x = np.float64(logits[np.uintp(first + i), np.uintp(k)])
            top[np.uintp(i)] = x if x > top[np.uintp(i)] else top[np.uintp(i)]
    for k in range(K):
        for i in range(rows):
            x = np.float64(logits[np.uintp(first + i), np.uintp(k)])
            own[np.uintp(k * rows + i)] = x - top[np.uintp(i)]


@jit(inner=True)
def _fill_losses(logits, labels, weights, smoothing, top, logs, first, last, losses):
    """Fill the losses of some rows from their logits, the largest of them, and the logarithms of their sums."""
    K = logits.shape[1]
    every = 0.0
    if smoothing != 0.0:
        every = smoothing / K * _total(weights, 0, K)
    for n in range(first, last):
        label, i = labels[n], n - first
        loss = 0.0
        if label < K:
            hard = (1.0 - smoothing) * weights[label]
            loss = (hard + every) * logs[i] - hard * (np.float64(logits[n, label]) - top[i])
            if smoothing != 0.0:
                for k in range(K):
                    if weights[k] != 0.0:  # 0 * (-infinity) is no number
                        loss -= smoothing / K * weights[k] * (np.float64(logits[n, k]) - top[i])
        losses[n] = loss


@jit(inner=True)
def _softmax_rows(block, thread, rows, logits, labels, weights, smoothing, work, losses, probabilities):
    K = logits.shape[1]
    first, last = block * rows, min(logits.shape[0], block * rows + rows)
    count = last - first
    size = count * K
    # Logits less the largest, then their exponentials; and three numbers a row.
    powers, rest = work[thread, :size], work[thread, size:]
    top, totals, logs = rest[:count], rest[count : 2 * count], rest[2 * count : 3 * count]
    by_columns = K <= FEW
    if by_columns:
        _shift_columns(logits, first, last, powers, top)
    else:
        _shift_rows(logits, first, last, powers, top)
    for i in range(size):
        powers[np.uintp(i)] = exp(powers[np.uintp(i)])
    if by_columns:
        totals[:] = 0.0
        for k in range(K):
            for i in range(count):
                totals[np.uintp(i)] += powers[np.uintp(k * count + i)]
    else:
        for i in range(count):
            totals[i] = _total(powers, i * K, K)
    for i in range(count):
        logs[np.uintp(i)] = log_from_one(totals[np.uintp(i)])
        totals[np.uintp(i)] = 1.0 / totals[np.uintp(i)]
    _fill_losses(logits, labels, weights, smoothing, top, logs, first, last, losses)
    if by_columns:
        for k in range(K):
            for i in range(count):
                share_of_k = powers[np.uintp(k * count + i)] * totals[np.uintp(i)]
                probabilities[np.uintp(first + i), np.uintp(k)] = share_of_k
    else:
        for i in range(count):
            for k in range(K):
                share_of_k = powers[np.uintp(i * K + k)] * totals[np.uintp(i)]
                probabilities[np.uintp(first + i), np.uintp(k)] = share_of_k


@jit
def _softmax_blocks(team, rows, logits, labels, weights, smoothing, work, losses, probabilities):
    arguments = (rows, logits, labels, weights, smoothing, work, losses, probabilities)
    share(team, (logits.shape[0] + rows - 1) // rows, _softmax_rows, arguments)


def softmax_cross_entropy_forward(
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    smoothing: float,
    losses: np.ndarray,
    probabilities: np.ndarray,
) -> None:
    """Fill losses with one loss a row and probabilities with the softmax of every row."""
    worth, rows = logits.size > SERIAL_EXPONENTIALS, min(_rows_of_a_task(logits), max(1, logits.shape[0]))
    size = (rows * logits.shape[1] + 3 * rows + 7) // 8 * 8
    threads = threads_for(worth)
    work = scratch("softmax", threads * size, losses.dtype)[: threads * size].reshape(threads, size)
    call_parallel(worth, _softmax_blocks, rows, logits, labels, weights, float(smoothing), work, losses, probabilities)


@jit(inner=True)
def _softmax_gradient_rows(block, thread, rows, probabilities, labels, weights, smoothing, scale, dlogits):
    K, kind = dlogits.shape[1], dlogits.dtype.type
    every = 0.0
    if smoothing != 0.0:
        every = smoothing / K * _total(weights, 0, K)
    for n in range(block * rows, min(dlogits.shape[0], block * rows + rows)):
        label, row = labels[n], np.uintp(n)
        if label == K:
            for k in range(K):
                dlogits[row, np.uintp(k)] = 0
            continue
        hard = (1.0 - smoothing) * weights[label]
        factor = kind(scale * (hard + every))
        for k in range(K):
            dlogits[row, np.uintp(k)] = factor * probabilities[row, np.uintp(k)]
        if smoothing != 0.0:
            for k in range(K):
                dlogits[row, np.uintp(k)] -= kind(scale * smoothing / K * weights[np.uintp(k)])
            dlogits[row, label] -= kind(scale * hard)
        else:
            dlogits[row, label] = factor * (probabilities[row, label] - kind(1))


@jit
def _softmax_gradient_blocks(team, rows, probabilities, labels, weights, smoothing, scale, dlogits):
    arguments = (rows, probabilities, labels, weights, smoothing, scale[0], dlogits)
    share(team, (dlogits.shape[0] + rows - 1) // rows, _softmax_gradient_rows, arguments)


def softmax_cross_entropy_backward(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    smoothing: float,
    scale: np.ndarray,
    dlogits: np.ndarray,
) -> None:
    """Fill dlogits with scale times the gradient; 1 / sum of weights is the scale of a mean."""
    rule = labels, weights, float(smoothing), scale
    worth, rows = dlogits.size > LARGE, _rows_of_a_task(dlogits)
    call_parallel(worth, _softmax_gradient_blocks, rows, probabilities, *rule, dlogits)


@jit
def _nll_rows(team, log_probabilities, labels, weights, losses):
    for n in range(labels.size):
        label = labels[n]
        losses[n] = 0.0
        if label < log_probabilities.shape[1]:
            losses[n] = -weights[label] * log_probabilities[n, label]


def nll_forward(log_probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, losses: np.ndarray) -> None:
    """Fill losses with one loss a row."""
    call_parallel(False, _nll_rows, log_probabilities, labels, weights, losses)


@jit(inner=True)
def _nll_gradient_rows(block, thread, rows, labels, weights, scale, dx):
    K = dx.shape[1]
    for n in range(block * rows, min(dx.shape[0], block * rows + rows)):
        for k in range(K):
            dx[np.uintp(n), np.uintp(k)] = 0
        if labels[n] < K:
            dx[n, labels[n]] = -scale * weights[labels[n]]


@jit
def _nll_gradient_blocks(team, rows, labels, weights, scale, dx):
    share(team, (dx.shape[0] + rows - 1) // rows, _nll_gradient_rows, (rows, labels, weights, scale[0], dx))


def nll_backward(labels: np.ndarray, weights: np.ndarray, scale: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx with scale times the gradient."""
    call_parallel(dx.size > LARGE, _nll_gradient_blocks, _rows_of_a_task(dx), labels, weights, scale, dx)


@jit(inner=True)
def _hinge_rows(block, thread, rows, scores, labels, weights, p, margin, losses):
    K = scores.shape[1]
    for n in range(block * rows, min(scores.shape[0], block * rows + rows)):
        label = labels[n]
        base, total = margin - np.float64(scores[n, label]), 0.0
        for k in range(K):
            over = base + np.float64(scores[np.uintp(n), np.uintp(k)])
            over = 0.0 if over <= 0.0 or k == label else over
            total += over if p == 1 else over * over
        losses[n] = weights[label] / K * total


@jit
def _hinge_blocks(team, rows, scores, labels, weights, p, margin, losses):
    arguments = (rows, scores, labels, weights, p, margin, losses)
    share(team, (scores.shape[0] + rows - 1) // rows, _hinge_rows, arguments)


def hinge_forward(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, p: int, margin: float, losses: np.ndarray
) -> None:
    """Fill losses with one loss a row; every row has a class."""
    rule = labels, weights, int(p), float(margin)
    call_parallel(scores.size > LARGE, _hinge_blocks, _rows_of_a_task(scores), scores, *rule, losses)


@jit(inner=True)
def _hinge_gradient_rows(block, thread, rows, scores, labels, weights, p, margin, scale, dscores):
    K = scores.shape[1]
    for n in range(block * rows, min(scores.shape[0], block * rows + rows)):
        label = labels[n]
        base, total = margin - np.float64(scores[n, label]), 0.0
        factor = scale * weights[label] / K
        for k in range(K):
            over = base + np.float64(scores[np.uintp(n), np.uintp(k)])
            slope = 1.0 if p == 1 else 2.0 * over
            slope = 0.0 if over <= 0.0 or k == label else slope
            total += slope
            dscores[np.uintp(n), np.uintp(k)] = factor * slope
        dscores[n, label] = -factor * total


@jit
def _hinge_gradient_blocks(team, rows, scores, labels, weights, p, margin, scale, dscores):
    arguments = (rows, scores, labels, weights, p, margin, scale[0], dscores)
    share(team, (scores.shape[0] + rows - 1) // rows, _hinge_gradient_rows, arguments)


def hinge_backward(
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    p: int,
    margin: float,
    scale: np.ndarray,
    dscores: np.ndarray,
) -> None:
    """Fill dscores with scale times the gradient, 0 where a score stands on the hinge."""
    rule = labels, weights, int(p), float(margin), scale
    call_parallel(scores.size > LARGE, _hinge_gradient_blocks, _rows_of_a_task(scores), scores, *rule, dscores)


@jit(inner=True)
def _binary_block(block, thread, x, t, weights, K, work, partial):
    first, last = block * BLOCK, min(x.size, block * BLOCK + BLOCK)
    own, turn = work[thread], first % K
    for i in range(last - first):
        v, target = np.float64(x[np.uintp(first + i)]), np.float64(t[np.uintp(first + i)])
        small = log1p(exp(-abs(v)))
        low, high = (0.0 if v > 0.0 else -v), (v if v > 0.0 else 0.0)
        loss = weights[np.uintp(turn + i)] * target * (small + low) + (1.0 - target) * (small + high)
        own[np.uintp(i)] = loss
    partial[block] = _total(own, 0, last - first)


@jit(inner=True)
def _repeat(weights, repeated):
    """Fill repeated with the weights, over and over: a block finds its own from any place in a row."""
    for i in range(repeated.size):
        repeated[i] = weights[i] if i < weights.size else repeated[i - weights.size]


@jit
def _binary_blocks(team, x, t, weights, repeated, work, partial, total):
    _repeat(weights, repeated)
    share(team, partial.size, _binary_block, (x, t, repeated, weights.size, work, partial))
    total[0] = 0.0
    for block in range(partial.size):
        total[0] += partial[block]


def _repeated(x):
    return scratch("binary weights", BLOCK + x.shape[1], np.dtype(np.float64))[: min(BLOCK, x.size) + x.shape[1]]


def binary_cross_entropy_forward(x: np.ndarray, t: np.ndarray, weights: np.ndarray, total: np.ndarray) -> None:
    """Fill total (1,) with the sum over all elements; x and t are (M, K), weights (K,) those of t = 1."""
    worth, blocks = x.size > SERIAL_EXPONENTIALS, -(-x.size // BLOCK)
    threads = threads_for(worth)
    work = scratch("binary", threads * BLOCK, total.dtype)[: threads * BLOCK].reshape(threads, BLOCK)
    partial = scratch("binary sums", blocks, total.dtype)[:blocks]
    flat = x.reshape(-1), t.reshape(-1)
    call_parallel(worth, _binary_blocks, *flat, weights, _repeated(x), work, partial, total)


@jit(inner=True)
def _binary_gradient_block(block, thread, x, t, weights, K, scale, dx):
    first, last = block * BLOCK, min(x.size, block * BLOCK + BLOCK)
    turn = first % K
    for i in range(last - first):
        v, target = np.float64(x[np.uintp(first + i)]), np.float64(t[np.uintp(first + i)])
        small = exp(-abs(v))
        above, below = (1.0 if v > 0.0 else small), (small if v > 0.0 else 1.0)
        slope = (1.0 - target) * above - weights[np.uintp(turn + i)] * target * below
        dx[np.uintp(first + i)] = scale * slope / (1.0 + small)


@jit
def _binary_gradient_blocks(team, x, t, weights, repeated, scale, dx):
    _repeat(weights, repeated)
    arguments = (x, t, repeated, weights.size, scale[0], dx)
    share(team, (dx.size + BLOCK - 1) // BLOCK, _binary_gradient_block, arguments)


def binary_cross_entropy_backward(
    x: np.ndarray, t: np.ndarray, weights: np.ndarray, scale: np.ndarray, dx: np.ndarray
) -> None:
    """Fill dx with scale * (sigmoid(x) (1 - t + w t) - w t)."""
    flat, rule = (x.reshape(-1), t.reshape(-1)), (weights, _repeated(x), scale)
    call_parallel(dx.size > SERIAL_EXPONENTIALS, _binary_gradient_blocks, *flat, *rule, dx.reshape(-1))


@jit(inner=True)
def _hit_rows(block, thread, rows, scores, labels, hits):
    K = scores.shape[1]
    for n in range(block * rows, min(scores.shape[0], block * rows + rows)):
        label, over = min(labels[n], K), 0
        if label < K and K <= PAIRS:
            x = scores[n, label]
            for k in range(K):
                v = scores[np.uintp(n), np.uintp(k)]
                over += not (v < x if k < label else v <= x)
        elif label < K:  # two loops without a branch are vectors
            x = scores[n, label]
            for k in range(label):
                over += not scores[np.uintp(n), np.uintp(k)] < x
            for k in range(label, K):
                over += not scores[np.uintp(n), np.uintp(k)] <= x
        hits[n] = label < K and over == 0


@jit
def _hit_blocks(team, rows, scores, labels, hits):
    share(team, (scores.shape[0] + rows - 1) // rows, _hit_rows, (rows, scores, labels, hits))


def first_largest(scores: np.ndarray, labels: np.ndarray, hits: np.ndarray) -> None:
    """Fill hits (M,) with 1 where the first of the largest scores stands at the label, else (and for NaN) with 0."""
    call_parallel(scores.size > LARGE, _hit_blocks, _rows_of_a_task(scores), scores, labels, hits)
