"""Which pixels an output meets along one axis, where windows are not of one size or meet pixels by weight."""

import numpy as np
import numpy.typing as npt


def adaptive_span(size: int, outputs: int, output: int) -> tuple[int, int]:
    """Return the first pixel of an adaptive window, floor(o * size / outputs), and the end, ceil((o + 1) * ...).

    >>> [adaptive_span(7, 3, output) for output in range(3)]
    [(0, 3), (2, 5), (4, 7)]
    """
    return output * size // outputs, -(-(output + 1) * size // outputs)


def adaptive_window(image: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the largest adaptive window along each of three axes: taps are numbered in it."""
    depth, height, width = (
        max((b - a for a, b in (adaptive_span(size, outputs, o) for o in range(outputs))), default=1)
        for size, outputs in zip(image, output, strict=True)
    )
    return depth, height, width


def gaussian_weights(taps: int, sigma: float) -> npt.NDArray[np.float64]:
    """Return exp(-d^2 / (2 sigma^2)) for the distances d of a window's taps from its centre.

    >>> gaussian_weights(3, 1.0).round(3).tolist()
    [0.607, 1.0, 0.607]
    """
    distance = np.arange(taps) - (taps - 1) / 2
    weights: npt.NDArray[np.float64] = np.exp(-0.5 * (distance / sigma) ** 2)
    return weights


Sampling = tuple[str, bool, float]  # "nearest", "nearest64" or "linear"; align_corners; enlargement, or 0: by sizes


def samples(size: int, outputs: int, how: Sampling) -> list[list[tuple[int, float]]]:
    """Return the (pixel, weight) pairs that each output of an axis is the sum of, as PyTorch's interpolation does.

    nearest    pixel floor(o / scale), in float32; nearest64 computes o / scale in float64, and only rounds it so
    linear     between the two pixels about (o + 1/2) / scale - 1/2; with align_corners, about
               o * (size - 1) / (outputs - 1)

    >>> samples(2, 4, ("nearest", False, 0.0))
    [[(0, 1.0)], [(0, 1.0)], [(1, 1.0)], [(1, 1.0)]]
    >>> samples(3, 3, ("nearest", False, 1.1))
    [[(0, 1.0)], [(0, 1.0)], [(1, 1.0)]]
    >>> samples(2, 3, ("linear", True, 0.0))
    [[(0, 1.0)], [(0, 0.5), (1, 0.5)], [(1, 1.0)]]
    """
    mode, align_corners, scale = how
    if mode != "linear":
        number = np.dtype(np.float64 if mode == "nearest64" else np.float32)
        near = np.array(1 / scale if scale else size / max(outputs, 1), number)
        places = (np.arange(outputs).astype(number) * near).astype(np.float32)
        return [[(min(int(place), size - 1), 1.0)] for place in places]
    if size == outputs:
        return [[(o, 1.0)] for o in range(outputs)]
    found = []
    for o in range(outputs):
        if align_corners:
            place = o * ((size - 1) / (outputs - 1)) if outputs > 1 else 0.0
        else:
            place = max(0.0, (o + 0.5) * (1 / scale if scale else size / outputs) - 0.5)
        first = min(int(place), size - 1)
        second, part = min(first + 1, size - 1), min(max(place - first, 0.0), 1.0)
        pairs = [(first, 1 - part), (second, part)] if first != second else [(first, 1.0)]
        found.append([pair for pair in pairs if pair[1] > 0])
    return found
