"""The index arithmetic of the fused stage of `conv_pool.py`, done once per shape."""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.axes import Axis, forward_axis
from fastcnn.kernels.cpu.convolution.copy_padded import copy_padded
from fastcnn.kernels.cpu.convolution.direct_plan import merged_pixels, runs_of
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.partition import SERIAL_FLOPS
from fastcnn.kernels.problem import ConvProblem, Shape, Triple


class PoolPlan(NamedTuple):
    """One fused stage, with tables of offsets in elements; three numbers are for slices, rows and columns."""

    start: Triple  # of the pixels of x that windows meet
    region: Triple  # how many these are
    pitch: tuple[int, int]  # of slices and rows
    jump: tuple[int, int]  # from a window to the next slice's, and to the next row's
    window_taps: int
    taps: np.ndarray  # filter taps in the order of the packed weights
    batch: np.ndarray  # offsets of the runs of taps
    merge: int  # pooled pixels side by side whose outputs share a vector
    merge_step: int  # filter taps between them
    forward_run: int  # elements of a run, widened for merged pixels
    a_rows: np.ndarray  # offsets of a pooled row's pixels in the padded x, window tap by window tap
    c_rows: np.ndarray  # and in the buffer of convolution outputs (window taps, Q, K)
    patches: np.ndarray  # offset of each window tap's patch in the padded x, and 0 for the tap where ReLU cut
    windows: np.ndarray  # offset of each window in the padded x
    run: int
    filter_rows: np.ndarray  # offsets of the runs in a filter packed by channel, each filled up to whole vectors
    padded: bool
    image: int  # elements of one padded image
    parallel: bool


def pooled_shape(problem: ConvProblem, window: Triple) -> Shape:
    """Return the shape of the convolution's outputs after pooling by whole windows side by side."""
    sizes = (size // taps for size, taps in zip(problem.y[1:4], window, strict=True))
    return (problem.y[0], *sizes, problem.y[4])


def pooled_axes(problem: ConvProblem, window: Triple) -> tuple[Axis, ...]:
    """Return the axes of the convolution's outputs that windows meet."""
    _, _, filters, stride, padding, dilation, _ = problem
    return tuple(
        forward_axis(filters[i], stride[i], padding[i][0], dilation[i], problem.y[i + 1] // window[i] * window[i])
        for i in range(3)
    )


@lru_cache(maxsize=256)
def plan_conv_pool(problem: ConvProblem, window: Triple, lanes: int) -> PoolPlan:
    """Plan the stage of a convolution and windows of this size."""
    filters, target = problem.filter, pooled_shape(problem, window)
    _, D, H, W, C = problem.x
    Q, K = target[3], target[4]
    axes = pooled_axes(problem, window)
    depth, height, width = axes
    region = tuple((axis.outputs - 1) * axis.step + axis.extent for axis in axes)
    padded = any(axis.outside(size) for axis, size in zip(axes, (D, H, W), strict=True))
    pitch_h = (region[2] if padded else W) * C
    pitch_d = (region[1] if padded else H) * pitch_h
    batch, run = runs_of(axes, (pitch_d, pitch_h, C), C, 1)
    steps = (depth.step * pitch_d, height.step * pitch_h, width.step * C)
    patches = np.array(
        [sum(t * s for t, s in zip(tap, steps, strict=True)) for tap in product(*map(range, window))], np.int64
    )
    jumps = [np.arange(target[i + 1]) * window[i] * steps[i] for i in range(3)]
    pooled = width._replace(step=width.step * window[2])
    merge = merged_pixels(pooled, K, filters[2] if run == C * filters[2] else 0, Q, lanes)
    places = np.minimum(np.arange(-(-Q // merge)) * merge, Q - merge)
    flops = 2 * int(np.prod(target)) * patches.size * int(np.prod(filters)) * C
    return PoolPlan(
        start=(depth.start, height.start, width.start),
        region=(region[0], region[1], region[2]),
        pitch=(pitch_d, pitch_h),
        jump=(window[0] * steps[0], window[1] * steps[1]),
        window_taps=patches.size,
        taps=np.arange(int(np.prod(filters))),
        batch=batch,
        merge=merge,
        merge_step=pooled.step,
        forward_run=run + (merge - 1) * pooled.step * C,
        a_rows=(patches[:, None] + places * window[2] * steps[2]).ravel(),
        c_rows=(np.arange(patches.size)[:, None] * Q * K + places * K).ravel(),
        patches=np.append(patches, 0),
        windows=np.add.outer(np.add.outer(*jumps[:2]), jumps[2]).ravel(),
        run=run,
        filter_rows=np.arange(batch.size) * (-(-run // lanes) * lanes),
        padded=padded,
        image=region[0] * pitch_d if padded else D * H * W * C,
        parallel=flops > SERIAL_FLOPS,
    )


@jit(inner=True, inline=True)
def source_address(plan, x, n, buffer):
    """Return the address of image n's first window: in a padded copy where there is padding, else in place."""
    (d, h, w), (_, D, H, W, C) = plan.start, x.shape
    if plan.padded:
        (depth, rows, columns), (pitch_d, pitch_h) = plan.region, plan.pitch
        copy_padded(0, x, (n, d, h, w, 0), (1, 1, 1), (depth, rows, columns, C), (pitch_d, pitch_h, C),
                    buffer.ctypes.data)  # fmt: skip
        return buffer.ctypes.data
    return x.ctypes.data + x.itemsize * ((((n * D + d) * H + h) * W + w) * C)
