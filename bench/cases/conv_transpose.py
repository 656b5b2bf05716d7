"""Transposed convolution as a thing to measure, without bias.

It is the gradient by the input of another convolution, its adjoint: forward here is that one's input
gradient, the input gradient here that one's forward pass, and the weight gradient that one's with the
two images in each other's place.
"""

from fastcnn.bench.cases import accuracy, conv
from fastcnn.bench.cases.case import Case, Work, layer_case
from fastcnn.bench.cases.conv import Array
from fastcnn.bench.shapes.conv_transpose import Transposed
from fastcnn.bench.shapes.convolution import Convolution
from fastcnn.kernels.cpu import conv_transpose

PASSES, ALGORITHMS = conv.PASSES, conv.ALGORITHMS

ADJOINT = {"forward": "backward_input", "backward_input": "forward", "backward_weight": "backward_weight"}


def served_by(problem: Transposed, pass_name: str, algorithm: str, dtype: str) -> str:
    """Return the algorithm that serves a pass; a ValueError says why the one named cannot."""
    return conv.served_by(problem.adjoint, ADJOINT[pass_name], algorithm, dtype)


def case(problem: Transposed, pass_name: str, algorithm: str, dtype: str) -> Case:
    """Return one pass of a transposed convolution, with its arrays made."""
    c = problem.adjoint
    y, w, x = conv.random_arrays(c, dtype)
    used = served_by(problem, pass_name, algorithm, dtype)
    work, moved = _work(c, pass_name, used, x, w, y), c.elements * x.itemsize
    least = conv.least_flops(c, used)
    return layer_case("conv_transpose", problem, pass_name, used, dtype, 2 * c.multiply_adds, moved, work, least)


def _work(c: Convolution, pass_name: str, algorithm: str, x: Array, w: Array, y: Array) -> Work:
    if pass_name == "forward":
        return (
            lambda: conv_transpose.conv_transpose_forward(x, w, None, c.problem, False, y, algorithm),
            lambda: accuracy.backward_input_error(c, x, w, y),
        )
    if pass_name == "backward_input":
        return (
            lambda: conv_transpose.conv_transpose_backward_input(y, w, c.problem, x, algorithm),
            lambda: accuracy.forward_error(c, y, w, x),
        )
    return (
        lambda: conv_transpose.conv_transpose_backward_weight(x, y, c.problem, w, algorithm),
        lambda: accuracy.backward_weight_error(c, y, x, w),
    )
