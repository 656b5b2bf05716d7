"""Which input pixels meet which output pixels: the index arithmetic of convolution, done once per shape.

A convolution pass is a *gather*: output pixel i of an axis reads input pixels start + i * step + offset, one for each
tap, and is written to out_start + i * out_step. The forward pass is one gather. The gradient by the input of a strided
convolution is one gather per phase (the output pixels that share a remainder by the stride): each phase meets
only its own taps, so no zeros are multiplied. Axis letters: source axes D H W, filter T R S, output O P Q.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.axes import (
    Axis,
    forward_axis,
    input_gradient_axes,
    reaching,
    sampled,
)
from fastcnn.kernels.cpu.runtime.partition import LINE, MIN_TASKS, SERIAL_FLOPS, blocks_of
from fastcnn.kernels.cpu.simd.tile import DOT_CHANNELS, DOT_MIN_RUN, TILES_AHEAD
from fastcnn.kernels.problem import ConvProblem, Triple

L1_PERIOD = 4096  # bytes after which addresses fall into the same set of L1
CROWD = 6  # lines of one set that the rows of a tile may take: B's pass through the rest (measured)
COPY_PANELS = 4  # of output channels from which on a copy that spreads the lines over the sets pays
SOURCE_BYTES = 256 * 1024  # of one task's input pixels: with a weight panel they stay in a 512 KiB to 1 MiB L2


class Gather(NamedTuple):
    """Everything the kernel of a gather needs, as integers and tables of offsets in elements.

    Of three numbers, one is for each axis: slices, rows, columns.
    """

    groups: int
    channels: tuple[int, int]  # of a group: in the source, in the output
    panels: int  # of output channels, of all groups
    panel_chunks: int  # tasks of a block of pixels
    start: Triple  # the first output pixel reads source pixels from here on,
    step: Triple  # the next one so many of those further that are taken,
    skip: Triple  # and every skip-th one is
    extent: Triple  # of one output's taps, in pixels that are taken
    out_start: Triple
    out_step: Triple
    counts: Triple  # of outputs
    block: tuple[int, int]  # rows and columns of outputs
    blocks_across: tuple[int, int]  # blocks down a slice, and across
    pitch: Triple  # of the source, or of its copy
    merge: int  # output pixels side by side that share a vector
    merge_step: int  # source pixels between them
    dot: bool  # very few output channels: the lanes run along the reduction
    taps: np.ndarray  # filter taps in the order the packed weights hold them
    batch: np.ndarray  # offset of every tap, or of every run of taps that lies contiguous in the source
    run: int  # elements of the source that one entry of the batch reads
    a_rows: np.ndarray  # (2, pixels / merge): offset of a block's pixels in the source; row 1: blocks at the right edge
    c_rows: np.ndarray  # the same in the output
    lines: np.ndarray  # offsets in bytes of the cache lines of a block's source pixels from the first
    scratch: int  # elements of the source's copy that one task holds; 0: the source itself is read
    outputs: int  # of one image
    blocks: int  # of pixels, each with tasks for its chunks of panels
    tasks: int
    parallel: bool

    @property
    def measured_blocks(self) -> int:
        """The blocks of which each may sum its outputs up: none where outputs overlap, or lanes are no channels."""
        return self.blocks if self.merge == 1 and not self.dot else 0


def block_shape(N: int, axes: Sequence[Axis], channels: int, itemsize: int, tile_rows: int) -> tuple[int, int]:
    """Return (rows, columns) of one task's outputs: their source fits SOURCE_BYTES; MIN_TASKS tasks where possible."""
    depth, height, width = axes
    pixel = channels * itemsize * depth.extent

    def source(rows: int, columns: int) -> int:
        high = (rows - 1) * height.step + height.extent
        return high * ((columns - 1) * width.step + width.extent) * pixel

    columns = width.outputs
    while columns > tile_rows and source(1, columns) > SOURCE_BYTES:
        columns = -(-columns // 2)
    line = max(1, source(1, columns) // height.extent)
    rows = min(height.outputs, max(1, (SOURCE_BYTES // line - height.extent) // height.step + 1))
    columns_blocks = -(-width.outputs // columns)
    while rows > 1:
        tasks = N * depth.outputs * columns_blocks * -(-height.outputs // rows)
        fewer = -(-rows // 2)
        if tasks >= MIN_TASKS or fewer * columns < 4 * tile_rows:
            break
        rows = fewer
    return blocks_of(height.outputs, rows)[0], blocks_of(width.outputs, columns)[0]


def crowds(pitch: int, rows: int) -> bool:
    """Say whether the rows of a tile, `pitch` bytes apart, fall into so few sets of L1 that they evict one another."""
    return rows * gcd(L1_PERIOD, pitch) > CROWD * L1_PERIOD


def runs_of(axes: Sequence[Axis], pitches: Triple, channels: int, groups: int) -> tuple[np.ndarray, int]:
    """Return the offsets of the batch and the length of the run each one reads."""
    depth, height, width = axes
    contiguous = groups == 1 and pitches[2] == channels and width.offsets == tuple(range(len(width.offsets)))
    columns = (0,) if contiguous and width.taps else width.offsets
    offsets = [
        d * pitches[0] + h * pitches[1] + w * pitches[2] for d, h, w in product(depth.offsets, height.offsets, columns)
    ]
    run = channels // groups * (len(width.taps) if contiguous else 1)
    return np.array(offsets, np.int64), run


def _pixel_table(
    rows: int, columns: int, last_columns: int, merge: int, row_pitch: int, column_pitch: int, after: int = 0
) -> np.ndarray:
    """Return the offsets of a block's pixels, for whole blocks and for those at the right edge.

    Of `merge` pixels side by side the first is listed; the last of a row may overlap the ones before. The last pixel's
    offset stands `after` more times, for those who look ahead.
    """
    wide = (columns, last_columns)
    table = np.zeros((2, rows * -(-columns // merge) + after), np.int64)
    for i, count in enumerate(wide):
        places = np.minimum(np.arange(-(-count // merge)) * merge, count - merge)
        grid = np.arange(rows)[:, None] * row_pitch + places[None] * column_pitch
        table[i, : grid.size], table[i, grid.size :] = grid.ravel(), grid[-1, -1]
    return table


def line_table(
    shape: tuple[int, ...], box: tuple[int, int, int, int], skips: Triple, channels: int, steps: int, itemsize: int
) -> np.ndarray:
    """Return the offsets in bytes of the cache lines of a box of (images, slices, rows, columns) of an array.

    Every skip-th pixel is taken. Zeros make the table a multiple of `steps` long.
    """
    _, D, H, W, C = shape
    columns = box[3]
    if channels == C and skips[2] == 1:
        columns, channels = 1, min(columns, W) * C
    counts, skips_all = (*box[:3], columns), (1, *skips)
    n, d, h, w = np.ix_(*(np.arange(count) * skip for count, skip in zip(counts, skips_all, strict=True)))
    starts = (((n * D + d) * H + h) * W + w).ravel() * C * itemsize
    size = channels * itemsize
    places = np.arange(0, size, LINE) if size % LINE == 0 else np.append(np.arange(0, size, LINE), size - 1)
    lines = (starts[:, None] + places).ravel()
    return np.append(lines, np.zeros(-lines.size % max(1, steps), np.int64))


def merged_pixels(axis: Axis, channels: int, run_taps: int, last_columns: int, lanes: int) -> int:
    """Return how many output pixels side by side should share a vector, where there are few output channels.

    The vector's lanes are (pixel, channel), and the filter is widened by zeros to meet all its pixels: fewer vectors,
    each with more taps. In cycles per pixel, a tile of one vector costs 0.6 a step, one of two vectors 1 (measured).
    """

    def cost(merge: int) -> float:
        vectors = -(-channels * merge // lanes)
        return (run_taps + (merge - 1) * axis.step) / merge * (1.0 if vectors == 2 else 0.6)

    if run_taps == 0 or axis.out_step != 1 or 2 * channels > 2 * lanes:
        return 1
    best = min(range(1, min(2 * lanes // channels, last_columns) + 1), key=cost)
    return best if cost(best) < 0.9 * cost(1) else 1


def make_gather(
    source: tuple[int, int, int, int, int],
    target: tuple[int, int, int, int, int],
    axes: tuple[Axis, Axis, Axis],
    filters: Triple,
    groups: int,
    lanes: int,
    tile_rows: int,
    itemsize: int,
) -> Gather:
    """Plan one gather from an array of shape `source` (N, D, H, W, C) into one of shape `target` (N, O, P, Q, K)."""
    N, D, H, W, C = source
    K = target[4]
    depth, height, width = whole_axes = reaching(axes[0], D), reaching(axes[1], H), reaching(axes[2], W)
    panels = groups * -(-(K // groups) // (2 * lanes))
    rows, columns = block_shape(N, whole_axes, C, itemsize, tile_rows)
    rows_blocks, columns_blocks = -(-height.outputs // rows), -(-width.outputs // columns)
    last_columns = width.outputs - (columns_blocks - 1) * columns
    _, run = runs_of(whole_axes, (0, 0, C), C, groups)
    whole_rows = groups == 1 and run == C * len(width.taps)
    dot = groups == 1 and K <= DOT_CHANNELS and run >= DOT_MIN_RUN
    merge = merged_pixels(width, K, len(width.taps) if whole_rows and not dot else 0, last_columns, lanes)
    crowded = merge == 1 and not dot and crowds(width.step * C * itemsize, tile_rows)
    padded = any(axis.outside(size) for axis, size in zip(whole_axes, (D, H, W), strict=True))
    copied = padded or (crowded and panels >= COPY_PANELS)
    read_axes, skip, pitch = _reading(whole_axes, source, (rows, columns), copied, crowded, itemsize)
    depth, height, width = read_axes
    batch, run = runs_of(read_axes, pitch, C, groups)
    run += (merge - 1) * width.step * C
    blocks = N * depth.outputs * rows_blocks * columns_blocks
    panel_chunks = min(panels, -(-MIN_TASKS // max(1, blocks))) if blocks < MIN_TASKS // 2 else 1
    taps = [(t * filters[1] + r) * filters[2] + s for t, r, s in product(depth.taps, height.taps, width.taps)]
    steps = run * batch.size
    shape = rows, columns, last_columns, merge
    return Gather(
        groups=groups,
        channels=(C // groups, K // groups),
        panels=panels,
        panel_chunks=panel_chunks,
        skip=skip,
        **_of_axes(read_axes),
        block=(rows, columns),
        blocks_across=(rows_blocks, columns_blocks),
        pitch=pitch,
        merge=merge,
        merge_step=width.step,
        dot=dot,
        taps=np.array(taps, np.int64),
        batch=batch,
        run=run,
        a_rows=_pixel_table(*shape, height.step * pitch[1], width.step * pitch[2]),
        c_rows=_pixel_table(*shape, height.out_step * target[3] * K, width.out_step * K, (1 + TILES_AHEAD) * tile_rows),
        lines=np.append(_block_lines(source, whole_axes, (rows, columns), steps, itemsize), np.zeros(steps, np.int64)),
        scratch=depth.extent * pitch[0] if copied else 0,
        outputs=depth.outputs * height.outputs * width.outputs,
        blocks=blocks,
        tasks=blocks * panel_chunks,
        parallel=2 * N * depth.outputs * height.outputs * width.outputs * K * max(1, len(taps)) * C // groups
        > SERIAL_FLOPS,
    )


def _of_axes(axes: tuple[Axis, Axis, Axis]) -> dict[str, Any]:
    """Return the fields of a gather that hold a number of each axis."""
    fields = zip(*((a.start, a.step, a.extent, a.out_start, a.out_step, a.outputs) for a in axes), strict=True)
    return dict(zip(("start", "step", "extent", "out_start", "out_step", "counts"), fields, strict=True))


def _reading(
    axes: tuple[Axis, Axis, Axis], source: tuple[int, ...], block: tuple[int, int], copied: bool, crowded: bool,
    itemsize: int,
) -> tuple[tuple[Axis, Axis, Axis], Triple, Triple]:  # fmt: skip
    """Return the axes on what tasks read, every how many of the source's pixels that holds, and its pitches.

    That is the source itself, or a copy of the pixels that a block meets: where rows of a tile would crowd in few sets
    of L1, with a cache line between pixels.
    """
    _, _, H, W, C = source
    if not copied:
        return axes, (1, 1, 1), (H * W * C, W * C, C)
    (depth, skip_d), (height, skip_h), (width, skip_w) = (sampled(axis) for axis in axes)
    rows, columns = block
    pitch_w = C + LINE // itemsize if crowded else C
    pitch_h = ((columns - 1) * width.step + width.extent) * pitch_w
    pitch_d = ((rows - 1) * height.step + height.extent) * pitch_h
    return (depth, height, width), (skip_d, skip_h, skip_w), (pitch_d, pitch_h, pitch_w)


def _block_lines(
    source: tuple[int, ...], axes: tuple[Axis, Axis, Axis], block: tuple[int, int], steps: int, itemsize: int
) -> np.ndarray:
    """Return the offsets in bytes of the cache lines that a block of outputs meets in the source."""
    taken, skips = zip(*(sampled(axis) for axis in axes), strict=True)
    depth, height, width = (
        (count - 1) * axis.step + axis.extent for axis, count in zip(taken, (1, *block), strict=True)
    )
    return line_table(source, (1, depth, height, width), skips, source[4], steps, itemsize)


@lru_cache(maxsize=1024)
def plan_gathers(
    problem: ConvProblem, transposed: bool, lanes: int, tile_rows: int, itemsize: int
) -> tuple[Gather, ...]:
    """Return the gather of a forward pass; `transposed`: those from dy into dx, one for each combination of phases."""
    source, target = problem.ends(transposed)
    given = zip(problem.filter, problem.stride, problem.padding, problem.dilation, target[1:4], strict=True)
    axes = [
        input_gradient_axes(taps, stride, before, dilation, count)
        if transposed
        else [forward_axis(taps, stride, before, dilation, count)]
        for taps, stride, (before, _), dilation, count in given
    ]
    return tuple(
        make_gather(source, target, phase, problem.filter, problem.groups, lanes, tile_rows, itemsize)  # type: ignore[arg-type]
        for phase in product(*axes)
    )
