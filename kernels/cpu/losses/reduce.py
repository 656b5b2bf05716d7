"""From the losses of rows to the loss of a batch, and to the scale of its gradient.

    sums (2,)     the sum of all terms, and their number or weight, by which a mean divides it
    loss (1,)     weight * sum / divisor
    scale (1,)    weight / divisor: the factor of the gradient of the sum of all terms

All are in float64. The divisor is 1 for a sum, and where no term counts. Sums are pairwise (Higham 1993): blocks of
values, then halves, in an order that depends on their number alone, and the error grows with its logarithm.
"""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_serial
from fastcnn.kernels.cpu.runtime.workspace import scratch

BLOCK = 128  # values that are added up along LANES chains
LANES = 8  # chains of additions; halves of a sum start where whole ones do
DEPTH = 128  # parts that wait while others are halved: two for every bit of their number
JOIN = -1  # in the place of a part's length: add the last two sums


@jit
def _sum(values, lanes, waiting, sums, total):
    waiting[0] = values.size
    parts, done, first = 1, 0, 0
    while parts > 0:
        parts -= 1
        count = waiting[parts]
        if count == JOIN:
            done -= 1
            sums[done - 1] += sums[done]
        elif count <= BLOCK:
            whole = first + (count & -LANES)
            for lane in range(LANES):
                lanes[np.uintp(lane)] = 0.0
            for i in range(first, whole, LANES):
                for lane in range(LANES):
                    lanes[np.uintp(lane)] += values[np.uintp(i + lane)]
            block = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
            for i in range(whole, first + count):
                block += values[np.uintp(i)]
            sums[done] = block
            first += count
            done += 1
        else:
            half = (count >> 1) & -LANES
            waiting[parts], waiting[parts + 1], waiting[parts + 2] = JOIN, count - half, half
            parts += 3
    total[0] = sums[0]


def sum_values(values: np.ndarray, total: np.ndarray) -> None:
    """Fill total (1,) with the sum of values (M,)."""
    lanes, sums = (scratch(purpose, DEPTH, values.dtype)[:DEPTH] for purpose in ("chains of a sum", "parts of a sum"))
    waiting = scratch("parts that wait", DEPTH, np.dtype(np.int64))[:DEPTH]
    call_serial(_sum, values, lanes[:LANES], waiting, sums, total)


@jit
def _pick(weights, labels, picked):
    for i in range(labels.size):
        picked[np.uintp(i)] = weights[np.uintp(labels[np.uintp(i)])]


def pick(weights: np.ndarray, labels: np.ndarray, picked: np.ndarray) -> None:
    """Fill picked (M,) with the weight of every label."""
    call_serial(_pick, weights, labels, picked)


@jit
def _weigh(sums, is_mean, weight, scale, loss):
    divisor = sums[1] if is_mean and sums[1] != 0.0 else 1.0
    scale[0] = weight / divisor
    loss[0] = weight * (sums[0] / divisor)


def weigh(sums: np.ndarray, is_mean: bool, weight: float, scale: np.ndarray, loss: np.ndarray) -> None:
    """Fill the scale of the gradient and the loss."""
    call_serial(_weigh, sums, bool(is_mean), float(weight), scale, loss)


@jit
def _count_hits(hits, labels, classes, counts):
    right, known = 0, 0
    for i in range(labels.size):
        right += hits[np.uintp(i)] != 0
        known += labels[np.uintp(i)] < classes
    counts[0], counts[1] = right, known


def count_hits(hits, labels, classes, counts):
    """Fill counts (2,) with how many rows are hits, and how many have a label below `classes`."""
    call_serial(_count_hits, hits, labels, classes, counts)


@jit
def _count_signs(y, t, counts):
    right = 0
    for i in range(y.size):
        right += (y[np.uintp(i)] > 0) == (t[np.uintp(i)] > 0.5)
    counts[0], counts[1] = right, y.size


def count_signs(y, t, counts):
    """Fill counts (2,) with how many of y are above 0 where t is above 1/2, and only there, and with their number."""
    call_serial(_count_signs, y.reshape(-1), t.reshape(-1), counts)
