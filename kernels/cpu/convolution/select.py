"""Which algorithm a convolution takes."""

from functools import lru_cache

import numpy as np

from fastcnn.kernels.cpu.convolution import scatter, small_output
from fastcnn.kernels.cpu.convolution.depthwise import forward as depthwise
from fastcnn.kernels.cpu.convolution.direct_plan import plan_gathers
from fastcnn.kernels.cpu.convolution.winograd import backward_weight
from fastcnn.kernels.cpu.convolution.winograd import forward as winograd
from fastcnn.kernels.cpu.simd.tile import tiles
from fastcnn.kernels.problem import ConvProblem

DIRECT = ("auto", "direct")
ALGORITHMS = ("auto", "direct", "depthwise", "scatter", "winograd")
SCATTER_GAIN = 0.9  # of a gather's estimated cycles below which a scatter is taken


@lru_cache(maxsize=4096)
def algorithm_of(pass_name: str, problem: ConvProblem, dtype: np.dtype, algorithm: str = "auto") -> str:
    """Return the algorithm that serves "forward", "backward_input" or "backward_weight".

    Raises
    ------
    ValueError
        If the one named does not exist or does not take such a convolution.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} was given: choose one of {', '.join(ALGORITHMS)}.")
    if algorithm == "scatter":
        if pass_name == "backward_weight" or (pass_name == "forward" and problem.stride != (1, 1, 1)):
            raise ValueError(
                "algorithm 'scatter' takes input gradients, and forward passes at stride 1: choose 'auto'."
            )
        return algorithm
    transposed, block = pass_name == "backward_input", tiles(dtype)
    source, target = problem.ends(transposed)
    group = source[4] // problem.groups, target[4] // problem.groups
    few = depthwise.serves(*group, problem.groups, block.lanes)
    if pass_name == "backward_weight" and min(group) >= block.lanes:
        few = False  # x would be read again for each of many channels
    if algorithm == "depthwise" and not few:
        raise ValueError("algorithm 'depthwise' takes groups of few channels: choose 'auto'.")
    if algorithm != "winograd" and few:
        return "depthwise"
    if algorithm == "direct":
        return "scatter" if _scatters(pass_name, problem, dtype) else "direct"
    possible = winograd.applies(problem, dtype, transposed)
    if algorithm == "winograd" and not possible:
        raise ValueError(
            "algorithm 'winograd' takes 3x3 and 5x5 filters at stride 1 in float32: choose 'auto' or 'direct'."
        )
    N, O, P, Q, _ = target
    costs = backward_weight.COSTS if pass_name == "backward_weight" else winograd.FORWARD
    faster = possible and winograd.is_faster(costs, N * O, P, Q, *group, problem.filter[1], block.lanes)
    if faster or algorithm == "winograd":
        return "winograd"
    return algorithm_of(pass_name, problem, dtype, "direct")


def _scatters(pass_name: str, problem: ConvProblem, dtype: np.dtype) -> bool:
    """Say whether a scatter takes fewer cycles than gathers."""
    transposed, block = pass_name == "backward_input", tiles(dtype)
    source, target = problem.ends(transposed)
    if pass_name == "backward_weight" or (not transposed and problem.stride != (1, 1, 1)) or not all(source):
        return False
    given = problem, transposed, block.lanes, block.rows, dtype.itemsize
    cycles = scatter.gather_cycles(plan_gathers(*given), target, block.lanes)
    return scatter.plan_scatter(*given).cycles < SCATTER_GAIN * cycles


@lru_cache(maxsize=1024)
def measured_blocks(pass_name: str, problem: ConvProblem, dtype: np.dtype, algorithm: str, adds: bool = False) -> int:
    """Return in how many blocks "forward" or "backward_input" can sum up what it fills; 0 where its kernels cannot.

    `adds`: another array is added before.
    """
    transposed, block = pass_name == "backward_input", tiles(dtype)
    if not transposed and algorithm in DIRECT and small_output.suits(problem):
        return 0
    used = algorithm_of(pass_name, problem, dtype, algorithm)
    if used == "depthwise":  # adds in memory
        return 0 if adds else depthwise.plan_lanewise(problem, transposed, block.lanes, dtype).blocks
    if used == "winograd":
        return winograd.tasks_of(problem, transposed, block, dtype.itemsize)
    if used == "scatter":
        return 0
    plans = plan_gathers(problem, transposed, block.lanes, block.rows, dtype.itemsize)
    blocks = [plan.measured_blocks for plan in plans]
    return sum(blocks) if all(blocks) else 0
