"""Which algorithm a convolution takes."""

from functools import lru_cache

import numpy as np

from fastcnn.kernels.cpu.convolution import scatter, small_output
from fastcnn.kernels.cpu.convolution.axes import Padding, Triple
from fastcnn.kernels.cpu.convolution.depthwise import forward as depthwise
from fastcnn.kernels.cpu.convolution.direct_plan import forward_gather, input_gradient_gathers
from fastcnn.kernels.cpu.convolution.winograd import backward_weight
from fastcnn.kernels.cpu.convolution.winograd import forward as winograd
from fastcnn.kernels.cpu.simd.tile import tiles

DIRECT = ("auto", "direct")
ALGORITHMS = ("auto", "direct", "depthwise", "scatter", "winograd")
SCATTER_GAIN = 0.9  # of a gather's estimated cycles below which a scatter is taken


@lru_cache(maxsize=4096)
def algorithm_of(
    pass_name: str, source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, dtype: np.dtype, algorithm: str = "auto",
) -> str:  # fmt: skip
    """Return the algorithm that serves "forward", "backward_input" or "backward_weight".

    source, target: the shapes of x and y (of dy and dx for the input gradient).

    Raises
    ------
    ValueError
        If the one named does not exist or does not take such a convolution.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} was given: choose one of {', '.join(ALGORITHMS)}.")
    if algorithm == "scatter":
        if pass_name == "backward_weight" or (pass_name == "forward" and stride != (1, 1, 1)):
            raise ValueError(
                "algorithm 'scatter' takes input gradients, and forward passes at stride 1: choose 'auto'."
            )
        return algorithm
    group, block = (source[4] // groups, target[4] // groups), tiles(dtype)
    few = depthwise.serves(*group, groups, block.lanes)
    if pass_name == "backward_weight" and min(group) >= block.lanes:
        few = False  # x would be read again for each of many channels
    if algorithm == "depthwise" and not few:
        raise ValueError("algorithm 'depthwise' takes groups of few channels: choose 'auto'.")
    if algorithm != "winograd" and few:
        return "depthwise"
    if algorithm == "direct":
        how = (source, target, filters, stride, padding, dilation, groups)
        return "scatter" if scatters(pass_name, *how, block.lanes, block.rows, dtype.itemsize) else "direct"
    possible = winograd.applies(filters, stride, padding, dilation, dtype, pass_name == "backward_input")
    if algorithm == "winograd" and not possible:
        raise ValueError(
            "algorithm 'winograd' takes 3x3 and 5x5 filters at stride 1 in float32: choose 'auto' or 'direct'."
        )
    N, O, P, Q, _ = target
    costs = backward_weight.COSTS if pass_name == "backward_weight" else winograd.FORWARD
    faster = possible and winograd.is_faster(costs, N * O, P, Q, *group, filters[1], block.lanes)
    if faster or algorithm == "winograd":
        return "winograd"
    return algorithm_of(pass_name, source, target, filters, stride, padding, dilation, groups, dtype, "direct")


def scatter_plan(
    transposed: bool, source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple,
    padding: Padding, dilation: Triple, groups: int, lanes: int, rows: int, itemsize: int,
) -> scatter.Scatter:  # fmt: skip
    """Return the scatter of an input gradient, or of a forward pass at stride 1 as one with the filter turned."""
    before = tuple(pair[0] for pair in padding)
    if not transposed:
        before = tuple((filters[i] - 1) * dilation[i] - before[i] for i in range(3))
    return scatter.plan_scatter(source, target, filters, stride, before, dilation, groups, lanes, rows, itemsize)


@lru_cache(maxsize=1024)
def scatters(
    pass_name: str, source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, lanes: int, rows: int, itemsize: int,
) -> bool:  # fmt: skip
    """Say whether a scatter takes fewer cycles than gathers."""
    transposed = pass_name == "backward_input"
    if pass_name == "backward_weight" or (not transposed and stride != (1, 1, 1)) or not all(source):
        return False
    how = (source, target, filters, stride, padding, dilation, groups)
    plan = scatter_plan(transposed, *how, lanes, rows, itemsize)
    made = (*how, lanes, rows, itemsize)
    plans = input_gradient_gathers(*made) if transposed else (forward_gather(*made),)
    return plan.cycles < SCATTER_GAIN * scatter.gather_cycles(plans, target, lanes)


@lru_cache(maxsize=1024)
def measured_blocks(
    pass_name: str, source: tuple[int, ...], target: tuple[int, ...], filters: Triple, stride: Triple, padding: Padding,
    dilation: Triple, groups: int, dtype: np.dtype, algorithm: str, adds: bool = False,
) -> int:  # fmt: skip
    """Return in how many blocks "forward" or "backward_input" can sum up what it fills; 0 where its kernels cannot.

    `adds`: another array is added before.
    """
    block, how = tiles(dtype), (source, target, filters, stride, padding, dilation, groups)
    transposed = pass_name == "backward_input"
    if not transposed and algorithm in DIRECT and small_output.suits(*how):
        return 0
    used = algorithm_of(pass_name, *how, dtype, algorithm)
    if used == "depthwise":  # adds in memory
        return 0 if adds else depthwise.plan_lanewise(*how, transposed, block.lanes, dtype).blocks
    if used == "winograd":
        return winograd.tasks_of(source, target, filters[1], groups, transposed, block, dtype.itemsize)
    if used == "scatter":
        return 0
    made = (*how, block.lanes, block.rows, dtype.itemsize)
    plans = input_gradient_gathers(*made) if transposed else (forward_gather(*made),)
    blocks = [plan.measured_blocks for plan in plans]
    return sum(blocks) if all(blocks) else 0
