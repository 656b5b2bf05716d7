"""Convolutions as the kernels take them, described by the arrays of a test."""

import numpy as np

from fastcnn.kernels.problem import ConvProblem


def describe(x, y, w, stride, padding, dilation, groups=1):
    """Return the problem of a convolution by w from x to y: arrays or their shapes."""
    to_x, to_y, to_w = (a.shape if isinstance(a, np.ndarray) else tuple(a) for a in (x, y, w))
    return ConvProblem(to_x, to_y, to_w[:3], stride, padding, dilation, groups)
