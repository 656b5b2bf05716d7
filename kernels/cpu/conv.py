"""Convolution in 1, 2 and 3 dimensions: cross-correlation, channels last, all passes through the register tile.

    x (N, D, H, W, C)   w (T, R, S, C / groups, K)   b (K,)   y (N, O, P, Q, K)

    y[n, o, p, q, k] = b[k] + sum over t, r, s, c of
        x[n, o * stride + t * dilation - before, ..., c] * w[t, r, s, c, k]

No im2col: a row of taps (s, c) is contiguous in a channels-last image, so an output pixel is a sum of a few contiguous
runs. The three passes are gathers (`geometry.py`, `gather.py`) and a product over pixels (`weight_gradient.py`).
Signals and images come with leading axes of length 1.

`algorithm` is "direct" (the sums of the definition), "winograd" (3x3 and 5x5 at stride 1 in float32, see
`winograd.py`) or "auto": the one that is faster for the shape. Direct sums run as gathers on the register tile or,
"depthwise", lane by lane where groups hold few channels (`depthwise.py`), or, "scatter", pixel by pixel where a gather
would mostly meet padding or idle lanes (`scatter.py`). Few output pixels are the rows of a matrix product, which reads
the filter once (`few_pixels.py`).
"""

from functools import lru_cache

import numpy as np

from fastcnn.kernels.cpu import depthwise, few_pixels, records, scatter, winograd, winograd_gradient
from fastcnn.kernels.cpu.activation import add_epilogue
from fastcnn.kernels.cpu.channel_sums import UNBOUNDED
from fastcnn.kernels.cpu.depthwise_gradient import lanewise_gradient
from fastcnn.kernels.cpu.gather import clear, gather
from fastcnn.kernels.cpu.geometry import Padding, Triple, forward_gather, input_gradient_gathers
from fastcnn.kernels.cpu.norm_gradient import gradient_sums
from fastcnn.kernels.cpu.reduce import sum_pixels
from fastcnn.kernels.cpu.threads import repeatable
from fastcnn.kernels.cpu.tile import tiles
from fastcnn.kernels.cpu.weight_gradient import weight_gradient
from fastcnn.kernels.cpu.workspace import keeps

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
    costs = winograd_gradient.COSTS if pass_name == "backward_weight" else winograd.FORWARD
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


@repeatable
def conv_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    epilogue: int, y: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y with the convolution of x by w, plus b, after an epilogue (1, or True, is ReLU; see `epilogue.py`)."""
    if y.size == 0:
        return
    block, filters = tiles(x.dtype), w.shape[:3]
    how = (x.shape, y.shape, filters, stride, padding, dilation, groups)
    if algorithm in DIRECT and few_pixels.suits(*how) and not keeps(w):
        few_pixels.convolve(x, w, b, stride, padding, dilation, epilogue, y)
        return
    used = algorithm_of("forward", *how, x.dtype, algorithm)
    if used == "depthwise":
        depthwise.lanewise(x, w, b, stride, padding, dilation, groups, block.lanes, False, epilogue, y)
        return
    if used == "winograd":
        winograd.winograd(block, x, w, b, padding[1][0], padding[2][0], groups, False, epilogue, y)
        return
    if used == "scatter":
        scattered = scatter_plan(False, *how, block.lanes, block.rows, x.itemsize)
        scatter.scatter(block, x, w, b, scattered, groups, False, epilogue, y)
        return
    plan = forward_gather(*how, block.lanes, block.rows, x.itemsize)
    gather(block, x, w, b, plan, False, epilogue, y)


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
    if not transposed and algorithm in DIRECT and few_pixels.suits(*how):
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


@repeatable
def conv_measured_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Triple, padding: Padding, dilation: Triple, groups: int,
    shift: np.ndarray, eps: float, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill y as `conv_forward`, and the mean and biased variance (1, K) of its channels, in float64.

    `shift` (K,) are numbers near the means, such as running ones: the closer, the less is lost. `eps` will be added to
    the variance.
    """
    if y.size == 0:
        mean[...], variance[...] = 0, 0
        return
    how = stride, padding, dilation, groups
    blocks = measured_blocks("forward", x.shape, y.shape, w.shape[:3], *how, x.dtype, algorithm)
    sums, pitch, epilogue = records.begin(b, shift, blocks)
    if blocks:
        conv_forward(x, w, sums, *how, epilogue, y, algorithm)
    else:
        conv_forward(x, w, b, *how, 0, y, algorithm)
    records.join(y, sums, pitch, shift, eps, mean, variance)


@repeatable
def conv_backward_input(
    dy: np.ndarray, w: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, dx: np.ndarray,
    algorithm: str = "auto", epilogue: int = 0,
) -> None:  # fmt: skip
    """Fill dx, the gradient by x, after an epilogue: one gather from dy for each phase of the stride."""
    conv_adjoint(dy, w, None, stride, padding, dilation, groups, epilogue, dx, algorithm)


@repeatable
def conv_measured_backward_input(
    dy: np.ndarray, w: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, norm: records.Norm,
    dx: np.ndarray, sums: np.ndarray, algorithm: str = "auto", total: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Fill dx as `conv_backward_input`, plus `total` if there is one, and sums (2, C), float64, for `norm`'s way back.

    These are the sums over the pixels of g and of g * (x - shift), where g is dx behind the clip of the normalization
    `norm` = (x, gamma, beta, mean, variance, eps, bounds), whose gradient dx is, and the shift its mean in the dtype of
    x: what `group_norm_backward` takes as its `sums`.
    """
    if dx.size == 0:
        sums.fill(0)
        return
    how, adds = (stride, padding, dilation, groups), total is not None
    blocks = measured_blocks("backward_input", dy.shape, dx.shape, w.shape[:3], *how, dy.dtype, algorithm, adds)
    if blocks:
        held, pitch, epilogue = records.begin_back(norm, dx, total, blocks)
        conv_adjoint(dy, w, held, *how, epilogue, dx, algorithm)
        records.join_back(held, pitch, sums)
        return
    conv_adjoint(dy, w, None, *how, 0 if total is None else add_epilogue(total, dx, UNBOUNDED), dx, algorithm)
    gradient_sums(norm, dx, sums)


def conv_adjoint(
    dy: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Triple, padding: Padding, dilation: Triple,
    groups: int, epilogue: int, dx: np.ndarray, algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill dx with the transpose of the convolution by w, applied to dy, plus b (C,), after an epilogue."""
    if dx.size == 0:
        return
    block, filters = tiles(dy.dtype), w.shape[:3]
    how = (dy.shape, dx.shape, filters, stride, padding, dilation, groups)
    used = algorithm_of("backward_input", *how, dy.dtype, algorithm)
    if used == "depthwise":
        depthwise.lanewise(dy, w, b, stride, padding, dilation, groups, block.lanes, True, epilogue, dx)
        return
    if used == "winograd":
        last = filters[1] - 1
        winograd.winograd(block, dy, w, b, last - padding[1][0], last - padding[2][0], groups, True, epilogue, dx)
        return
    if used == "scatter":
        scattered = scatter_plan(True, *how, block.lanes, block.rows, dy.itemsize)
        scatter.scatter(block, dy, w, b, scattered, groups, True, epilogue, dx)
        return
    plans = input_gradient_gathers(*how, block.lanes, block.rows, dy.itemsize)
    meeting = [plan for plan in plans if b is not None or epilogue or plan.batch.size]
    if len(meeting) < len(plans):
        clear(dx)  # pixels that no tap meets, and the others between them
    first = 0
    for plan in meeting:
        own = b[first : first + plan.blocks] if b is not None and b.ndim == 2 else b  # the records of its blocks
        gather(block, dy, w, own, plan, True, epilogue, dx)
        first += plan.blocks


@repeatable
def conv_backward_weight(
    x: np.ndarray, dy: np.ndarray, stride: Triple, padding: Padding, dilation: Triple, groups: int, dw: np.ndarray,
    algorithm: str = "auto",
) -> None:  # fmt: skip
    """Fill dw, the gradient by w: products of x and dy summed over all pixels, in a fixed order."""
    if dy.size == 0:
        dw.fill(0)
        return
    how = (x.shape, dy.shape, dw.shape[:3], stride, padding, dilation, groups)
    used = algorithm_of("backward_weight", *how, x.dtype, algorithm)
    if used == "depthwise":
        lanewise_gradient(x, dy, stride, padding, dilation, groups, tiles(x.dtype).lanes, dw)
        return
    if used == "winograd":
        winograd_gradient.winograd_weight_gradient(tiles(x.dtype), x, dy, padding[1][0], padding[2][0], groups, dw)
        return
    weight_gradient(tiles(x.dtype), x, dy, stride, padding, dilation, groups, dw)


@repeatable
def conv_backward_bias(dy: np.ndarray, db: np.ndarray) -> None:
    """Fill db (K,) with the sum of dy over all axes but the last."""
    sum_pixels(dy.reshape(-1, db.size), db)
