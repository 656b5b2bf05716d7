"""The fully connected layer as a thing to measure, without bias: x (N, F)   w (F, K)   y (N, K)."""

import numpy as np

from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.case import Case, Work, layer_case
from fastcnn.bench.cases.conv import Array
from fastcnn.bench.shapes.linear import FullyConnected
from fastcnn.kernels.cpu import linear

PASSES = ("forward", "backward_input", "backward_weight")
ALGORITHMS = ("auto", "direct")


def served_by(problem: FullyConnected, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return "direct", the only algorithm there is."""
    return "direct"


def case(problem: FullyConnected, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass, with its arrays made."""
    N, F, K = problem.batch, problem.features, problem.outputs
    random = np.random.default_rng(0)
    x, w, y = (random.standard_normal(shape, np.dtype(dtype)) for shape in ((N, F), (F, K), (N, K)))
    work, moved = _work(problem, pass_name, x, w, y), x.nbytes + w.nbytes + y.nbytes
    flops = 2 * N * F * K
    return layer_case("linear", problem, pass_name, "direct", dtype, flops, moved, work, least_flops=flops)


def _work(problem: FullyConnected, pass_name: str, x: Array, w: Array, y: Array) -> Work:
    c = problem.as_convolution()
    images = x.reshape(c.x_shape), w.reshape(c.w_shape), y.reshape(c.y_shape)
    if pass_name == "forward":
        return lambda: linear.linear_forward(x, w, None, False, y), lambda: accuracy.forward_error(c, *images)
    if pass_name == "backward_input":
        dx, w5, dy = images
        return lambda: linear.linear_backward_input(y, w, x), lambda: accuracy.backward_input_error(c, dy, w5, dx)
    x5, dw, dy = images
    return lambda: linear.linear_backward_weight(x, y, w), lambda: accuracy.backward_weight_error(c, x5, dy, dw)
