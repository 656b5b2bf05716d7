"""From the losses of rows to the loss of a batch, and to the scale of its gradient.

    sums (2,)     the sum of all terms, and their number or weight, by which a mean divides it
    loss (1,)     weight * sum / divisor
    scale (1,)    weight / divisor: the factor of the gradient of the sum of all terms

All are in float64. The divisor is 1 for a sum, and where no term counts.
"""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def sum_values(values: Doubles, total: Doubles) -> None:
    """Fill total (1,) with the sum of values (M,)."""
    total[0] = values.sum()


def pick(weights: Doubles, labels: npt.NDArray[np.int64], picked: Doubles) -> None:
    """Fill picked (M,) with the weight of every label."""
    picked[:] = weights[labels]


def weigh(sums: Doubles, is_mean: bool, weight: float, scale: Doubles, loss: Doubles) -> None:
    """Fill the scale of the gradient and the loss."""
    total, count = sums
    divisor = count if is_mean and count else 1.0
    scale[0] = weight / divisor
    loss[0] = weight * (total / divisor)


def count_hits(hits: npt.NDArray[np.int8], labels: npt.NDArray[np.int64], classes: int, counts: Doubles) -> None:
    """Fill counts (2,) with how many rows are hits, and how many have a label below `classes`."""
    counts[:] = np.count_nonzero(hits), np.count_nonzero(labels < classes)


def count_signs(y: npt.NDArray[np.floating], t: npt.NDArray[np.floating], counts: Doubles) -> None:
    """Fill counts (2,) with how many of y are above 0 where t is above 1/2, and only there, and with their number."""
    counts[:] = np.count_nonzero((y > 0) == (t > 0.5)), y.size
