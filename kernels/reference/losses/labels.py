"""Losses of classifiers: one loss for each row of scores, and its gradient by the scores.

Arrays: scores (M, K), labels (M,) from 0 to K, weights (K + 1,), losses (M,) and scale (1,) in float64.
Label K belongs to no class: its row is left out, and weights[K] is 0. With x a row of scores, l its label, w the
weights, c = smoothing / K and lse(x) = log(sum over k of exp(x[k])):

    softmax cross-entropy   (1 - smoothing) w[l] (lse(x) - x[l]) + c sum over k of w[k] (lse(x) - x[k])
    negative log-likelihood -w[l] x[l], of scores that are log-probabilities
    hinge                   w[l] / K sum over k != l of max(0, margin - x[l] + x[k])^p
    binary cross-entropy    w[k] t[k] log(1 + exp(-x[k])) + (1 - t[k]) log(1 + exp(x[k])), for every k

The largest score is first taken off every one: no exponential overflows, and the sum is at least 1. Sources: Szegedy et
al. 2016 (label smoothing), Crammer and Singer 2001 (hinge).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array

Labels = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


def _picked(labels: Labels, K: int) -> tuple[Labels, Labels]:
    """Return the rows that have a class, and their labels."""
    rows = np.flatnonzero(labels < K)
    return rows, labels[rows]


def softmax_cross_entropy_forward(
    logits: Array, labels: Labels, weights: Doubles, smoothing: float, losses: Doubles, probabilities: Array
) -> None:
    """Fill losses with one loss a row and probabilities with the softmax of every row."""
    K = logits.shape[1]
    rows, classes = _picked(labels, K)
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1)
    probabilities[...] = exponentials / total[:, np.newaxis]
    below = np.log(total)[:, np.newaxis] - shifted
    losses[:] = 0
    losses[rows] = (1 - smoothing) * weights[classes] * below[rows, classes]
    if smoothing:
        losses[rows] += smoothing / K * (below[rows] * weights[:K]).sum(axis=1)


def softmax_cross_entropy_backward(
    probabilities: Array, labels: Labels, weights: Doubles, smoothing: float, scale: Doubles, dlogits: Array
) -> None:
    """Fill dlogits with scale times the gradient; 1 / sum of weights is the scale of a mean."""
    K = probabilities.shape[1]
    rows, classes = _picked(labels, K)
    hard, soft = (1 - smoothing) * weights[classes], smoothing / K * weights[:K]
    dlogits[...] = 0
    gradient = probabilities[rows].astype(np.float64) * (hard + soft.sum())[:, np.newaxis] - soft
    gradient[np.arange(len(rows)), classes] -= hard
    dlogits[rows] = scale[0] * gradient


def nll_forward(log_probabilities: Array, labels: Labels, weights: Doubles, losses: Doubles) -> None:
    """Fill losses with one loss a row."""
    rows, classes = _picked(labels, log_probabilities.shape[1])
    losses[:] = 0
    losses[rows] = -weights[classes] * log_probabilities[rows, classes]


def nll_backward(labels: Labels, weights: Doubles, scale: Doubles, dx: Array) -> None:
    """Fill dx with scale times the gradient."""
    rows, classes = _picked(labels, dx.shape[1])
    dx[...] = 0
    dx[rows, classes] = -scale[0] * weights[classes]


def _over(scores: Array, labels: Labels, margin: float) -> Doubles:
    """Return by how much each score is over the label's less the margin, 0 at the label."""
    x, rows = scores.astype(np.float64), np.arange(len(labels))
    over = np.maximum(0, margin - x[rows, labels][:, np.newaxis] + x)
    over[rows, labels] = 0
    return over


def hinge_forward(scores: Array, labels: Labels, weights: Doubles, p: int, margin: float, losses: Doubles) -> None:
    """Fill losses with one loss a row; every row has a class."""
    losses[:] = weights[labels] / scores.shape[1] * (_over(scores, labels, margin) ** p).sum(axis=1)


def hinge_backward(
    scores: Array, labels: Labels, weights: Doubles, p: int, margin: float, scale: Doubles, dscores: Array
) -> None:
    """Fill dscores with scale times the gradient, 0 where a score stands on the hinge."""
    over = _over(scores, labels, margin)
    slope = (2 * over if p == 2 else (over > 0)) * (scale[0] * weights[labels] / scores.shape[1])[:, np.newaxis]
    slope[np.arange(len(labels)), labels] = -slope.sum(axis=1)
    dscores[...] = slope


def binary_cross_entropy_forward(x: Array, t: Array, weights: Doubles, total: Doubles) -> None:
    """Fill total (1,) with the sum over all elements; x and t are (M, K), weights (K,) those of t = 1."""
    wide = x.astype(np.float64)
    small = np.log1p(np.exp(-np.abs(wide)))
    total[0] = (weights * t * (small + np.maximum(-wide, 0)) + (1 - t) * (small + np.maximum(wide, 0))).sum()


def binary_cross_entropy_backward(x: Array, t: Array, weights: Doubles, scale: Doubles, dx: Array) -> None:
    """Fill dx with scale * (sigmoid(x) (1 - t + w t) - w t)."""
    wide = x.astype(np.float64)
    small = np.exp(-np.abs(wide))
    above, below = np.where(wide > 0, 1, small) / (1 + small), np.where(wide > 0, small, 1) / (1 + small)
    dx[...] = scale[0] * ((1 - t) * above - weights * t * below)


def first_largest(scores: Array, labels: Labels, hits: npt.NDArray[np.int8]) -> None:
    """Fill hits (M,) with 1 where the first of the largest scores stands at the label, else (and for NaN) with 0."""
    K = scores.shape[1]
    own = scores[np.arange(len(labels)), np.minimum(labels, K - 1)]
    hits[:] = (scores.argmax(axis=1) == labels) & (own == own)
