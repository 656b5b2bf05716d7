"""Winograd's convolution: 3x3 filters at stride 1 with a quarter of the multiplications, 5x5 ones with a third.

    y = A' [ (G w G') * (B' x B) ] A     for every 6x6 patch x of the input, r x r filter w and m x m patch y

with m + r = 7. Transformed patches V and filters U (36, C, K) meet in 36 matrix products (`gemm.py`). A task
takes a block of patches through all three steps while V and the products stay in L2: a small block where U stays there,
too. While it multiplies, it asks for the next block's source and for the lines of its outputs, so that memory works in
that time as well. Where U outgrows the caches, all threads take a group of patches through the steps together, so that
U is read once for many. The gradient by the input is the same pass with turned, transposed filters; groups of channels
are passes of their own.

Sums are rounded as those of larger numbers: against exact results the error's root mean square stays below
`ERROR_BOUND` times the output's (normal data, up to 1024 input channels), some eight times that of direct sums.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from fastcnn.kernels.cpu.convolution.copy_padded import copy_padded
from fastcnn.kernels.cpu.convolution.winograd.gemm import call_products, point_products
from fastcnn.kernels.cpu.convolution.winograd.transforms import call_output, call_to_points, transforms
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, threads_for
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import LINE, MIN_TASKS, blocks_of
from fastcnn.kernels.cpu.runtime.workspace import packed, scratch
from fastcnn.kernels.cpu.simd.epilogue import added_away, finish
from fastcnn.kernels.cpu.simd.tile import Tiles, call_transpose, zero_bytes
from fastcnn.kernels.problem import ConvProblem

ERROR_BOUND = 2e-5
POINTS = 36  # products a patch
FUSED_WEIGHTS = 10 * 1024 * 1024  # bytes of U up to which a task takes its patches through all steps
BLOCK_BYTES = 640 * 1024  # of such a task's V and products, which should stay in L2
HELD_WEIGHTS = 256 * 1024  # bytes of U that stay in L2, too
HELD_BLOCK_BYTES = 160 * 1024  # of a task's V and products then
GROUP_BYTES = 12 * 1024 * 1024  # else: of the V and products of a group of patches, which should stay in L3
WEIGHT_BYTES = 48 * 1024 * 1024  # of U and turned filters at once: more output channels are taken in chunks
NEAR_BYTES = 12 * 1024 * 1024  # where patches are few and filters turned, so that both stay in L3 until they are read
MIN_PATCHES = 14  # of a task: a whole tile's rows
FEW_CHANNELS = 8  # fewer are left to direct sums; 8 to 15 of them take those 1.2 to 1.7 times as long (measured)


class Costs(NamedTuple):
    """Cycles of one core, as fitted to some hundred random shapes measured both ways (AVX-512, float32).

    Transforms: a multiply-add of two vectors, a patch's vector of input and of output channels, a point of a filter.
    Direct sums: a multiply-add of two vectors, a pixel's vector of channels, an element of the filter.
    """

    product: float
    input: float
    output: float
    point: float
    fixed: float
    direct_product: float
    direct_pixel: float
    direct_weight: float
    direct_fixed: float


FORWARD = Costs(1.31, 227, 185, 0.77, 180_000, 1.13, 3.3, 0.55, 130_000)


class Patches(NamedTuple):
    """How the output is cut: patches down and across, patches a block, blocks, and the pitches of the points."""

    down: int
    across: int
    fused: bool  # a block is one task's; else a block is a group of patches that all threads take step by step
    block: int
    blocks: int
    chunk: int  # output channels at once
    together: int  # points that a call multiplies: all where U stays in L2
    vector_pitch: int  # elements between vectors of channels of V and of the products
    v_pitch: int  # between points of V, of the products and of U
    m_pitch: int
    u_pitch: int

    @property
    def tasks(self) -> int:
        """How many tasks finish outputs, each a part of its own."""
        return self.blocks if self.fused else self.blocks * -(-self.block // min(self.across, self.block))


class Window(NamedTuple):
    """The patches of images that a transform takes to points: what `to_points` and its kernels need."""

    copy: int  # address of the copy of rows
    transform: int  # and of the transform
    channel: int  # the first of `channels`
    channels: int
    extent: int  # pixels of a patch, down and across
    pixels: int  # from a patch to the next
    top: int  # zeros above the first patch
    left: int  # and before it
    down: int  # patches of an image, down and across
    across: int


class Pass(NamedTuple):
    """What is the same for all tasks of a pass from one group's channels to a chunk of output channels."""

    plan: Patches
    window: Window  # of x
    products: np.ndarray  # addresses of the code
    output: int  # address of the transform to pixels
    lanes: int
    channel: int  # the first of `channels` of the output
    channels: int


def odd_lines(elements: int, itemsize: int) -> int:
    """Round up to an odd number of cache lines: rows so far apart meet in no set of a cache."""
    line = LINE // itemsize
    return (-(-elements // line) | 1) * line


@lru_cache(maxsize=512)
def plan_patches(
    N: int, P: int, Q: int, C: int, K: int, pixels: int, turned: bool, lanes: int, itemsize: int
) -> Patches:
    """Cut N images of P x Q outputs into blocks of patches of pixels x pixels; filters may have to be turned first."""
    down, across = -(-P // pixels), -(-Q // pixels)
    wide = 2 * lanes
    panel_bytes = POINTS * C * wide * itemsize
    panels = -(-K // wide)
    fused = panels * panel_bytes <= FUSED_WEIGHTS
    turned_bytes = (7 - pixels) ** 2 * C * wide * itemsize
    chunks, nearer = (-(-panels // max(1, most // (panel_bytes + turned_bytes))) for most in (WEIGHT_BYTES, NEAR_BYTES))
    if turned and 2 * (nearer - 1) * N * down * across < K:  # the points of x are made again for each chunk
        chunks = nearer
    chunk = min(K, -(-panels // chunks) * wide)
    vectors_in, vectors_out = -(-C // lanes), -(-chunk // lanes)
    count = N * down * across
    held = panels * panel_bytes <= HELD_WEIGHTS
    most = GROUP_BYTES if not fused else HELD_BLOCK_BYTES if held else BLOCK_BYTES
    fitting = most // (POINTS * (vectors_in + vectors_out) * lanes * itemsize)
    if held:
        fitting = min(fitting, count // MIN_TASKS)
    block = blocks_of(count, max(MIN_PATCHES, fitting))[0]
    if held:  # whole rows of patches, or equal parts of one
        block = block // across * across or blocks_of(across, block)[0]
    return Patches(
        down, across, fused, block, -(-count // block), chunk, POINTS if held else 1, block * lanes,
        odd_lines(vectors_in * block * lanes, itemsize), odd_lines(vectors_out * block * lanes, itemsize),
        odd_lines(-(-chunk // wide) * C * wide, itemsize),
    )  # fmt: skip


def applies(problem: ConvProblem, dtype: np.dtype, transposed: bool) -> bool:
    """Say whether a convolution is a 3x3 or 5x5 one at stride 1 in float32; float64 is for exact work, stays direct."""
    (_, _, filters, stride, padding, dilation, _) = problem
    plain = filters in ((1, 3, 3), (1, 5, 5)) and stride == dilation == (1, 1, 1) and padding[0] == (0, 0)
    reaches = not transposed or max(max(pair) for pair in padding) < filters[1]
    return plain and reaches and dtype == np.float32


def slices_as_images(a: np.ndarray) -> np.ndarray:
    """View (N, D, H, W, C) as N * D images of one slice: a filter of depth 1 meets every slice alone."""
    return a.reshape(a.shape[0] * a.shape[1], 1, *a.shape[2:])


@lru_cache(maxsize=512)
def is_faster(costs: Costs, N: int, P: int, Q: int, C: int, K: int, taps: int, lanes: int) -> bool:
    """Compare the cycles of this way, from C to K channels and N images of P x Q outputs, with those of direct sums."""
    if min(C, K) < min(lanes, FEW_CHANNELS):
        return False
    pixels, vectors_in, vectors_out = 7 - taps, -(-C // lanes), -(-K // lanes)
    patches = N * -(-P // pixels) * -(-Q // pixels)
    # A multiply-add takes half a cycle; a lone vector of outputs cannot keep both units busy.
    products = C * vectors_out / 2 * (1.2 if vectors_out == 1 else 1.0)
    transformed = POINTS * patches * products * costs.product + POINTS * C * K * costs.point + costs.fixed
    transformed += patches * (vectors_in * costs.input + vectors_out * costs.output)
    direct = taps**2 * (N * P * Q * products * costs.direct_product + C * K * costs.direct_weight) + costs.direct_fixed
    return transformed < direct + N * P * Q * (vectors_in + vectors_out) * costs.direct_pixel


@jit(inner=True)
def _filter_channel(c, thread, transform, w, taps, C, first, filters, block, U, u_pitch):
    pitch = w.shape[2]
    for panel in range((filters + block - 1) // block):
        wide = min(block, filters - panel * block)
        target = U.ctypes.data + w.itemsize * (panel * C + c) * block
        for e in range(POINTS if wide < block else 0):
            zero_bytes(target + w.itemsize * e * u_pitch, w.itemsize * block)
        source = w.ctypes.data + w.itemsize * (c * pitch + first + panel * block)
        call_to_points(transform, source, taps * C * pitch, C * pitch, target, u_pitch, block // 2, wide)


@jit
def _filters(team, transform, w, taps, C, first, filters, block, U, u_pitch):
    """Fill U (36, panels, C, block) with transformed filters, lanes past the last channel zero.

    They are `filters` columns from `first` on of w (taps * taps, C, columns).
    """
    share(team, C, _filter_channel, (transform, w, taps, C, first, filters, block, U, u_pitch))


@jit(inner=True)
def to_points(window, first, count, x, V, pitches, source):
    """Fill V with the points of `count` patches of x from patch `first` on; source is scratch.

    `pitches` lie between patches, between vectors of channels, and between points.
    """
    size, i, C, extent = x.itemsize, 0, window.channels, window.extent
    patch_pitch, vector_pitch, v_pitch = pitches
    while i < count:
        # The patches taken of one row of patches: their source is copied in one sweep.
        column, rest = (first + i) % window.across, (first + i) // window.across
        p, n = rest % window.down * window.pixels, rest // window.down
        run = min(count - i, window.across - column)
        wide = window.pixels * (run - 1) + extent
        start = n, 0, p - window.top, window.pixels * column - window.left, window.channel
        copy_padded(window.copy, x, start, (1, 1, 1), (1, extent, wide, C), (extent * wide * C, wide * C, C), source)
        for j in range(run):
            call_to_points(window.transform, source + size * window.pixels * j * C, wide * C, C,
                           V + size * (i + j) * patch_pitch, v_pitch, vector_pitch, C)  # fmt: skip
        i += run


@jit(inner=True, inline=True)
def _multiply(work, e, together, panel, part, parts, count, size, U, V, M, ahead):
    """Multiply `together` points from e on, of one of the equal parts of `count` patches, by one panel of U.

    `ahead`: addresses of what is prefetched, each with a step, and how far away what is added lies.
    """
    plan, lanes, C = work.plan, work.lanes, work.window.channels
    wide, first = 2 * lanes, count * part // parts
    vectors = (min(wide, work.channels - panel * wide) + lanes - 1) // lanes
    fetch, fetch_step, store, store_step, away = ahead
    call_products(
        work.products[count * (part + 1) // parts - first, vectors], V + size * (e * plan.v_pitch + first * lanes),
        plan.v_pitch, plan.vector_pitch, U + size * (e * plan.u_pitch + panel * C * wide), plan.u_pitch,
        M + size * (e * plan.m_pitch + first * lanes + 2 * panel * plan.vector_pitch), plan.m_pitch, C, together,
        fetch, fetch_step, store, store_step, away,
    )  # fmt: skip


@jit(inner=True, inline=True)
def _to_pixels(work, task, first, count, M, bias, epilogue, y):
    """Fill `count` patches of y, from patch `first` on, with the products' pixels plus bias: that of the task's own."""
    _, _, P, Q, K = y.shape
    plan, pixels, size, i = work.plan, work.window.pixels, y.itemsize, 0
    biases = bias.ctypes.data + size * (bias.shape[1] * min(task, bias.shape[0] - 1) + work.channel)
    while i < count:
        # The patches taken of one row of patches: a function that follows takes their rows of pixels whole.
        column, rest = (first + i) % plan.across, (first + i) // plan.across
        p, n = rest % plan.down * pixels, rest // plan.down
        run, high = min(count - i, plan.across - column), min(pixels, P - p)
        row = y.ctypes.data + size * (((n * P + p) * Q + pixels * column) * K + work.channel)
        for j in range(run):
            call_output(work.output, M + size * (i + j) * work.lanes, plan.m_pitch, plan.vector_pitch,
                        biases, epilogue, row + size * pixels * j * K, Q * K, K, work.channels, high,
                        min(pixels, Q - pixels * (column + j)))  # fmt: skip
        finish(epilogue, row, high, Q * K, min(pixels * run, Q - pixels * column), K, work.channels, size)
        i += run


@jit(inner=True)
def _block(task, thread, work, x, U, bias, epilogue, buffers, y):
    """Take one block of patches through all steps."""
    plan, window, lanes, size = work.plan, work.window, work.lanes, x.itemsize
    first, patches = task * plan.block, x.shape[0] * plan.down * plan.across
    count = min(plan.block, patches - first)
    V = buffers[thread].ctypes.data
    M = V + size * POINTS * plan.v_pitch
    to_points(window, first, count, x, V, (lanes, plan.vector_pitch, plan.v_pitch), M + size * POINTS * plan.m_pitch)
    tile_rows, panels = work.products.shape[0] - 1, (work.channels + 2 * lanes - 1) // (2 * lanes)
    parts = (count + tile_rows - 1) // tile_rows
    calls, fetch_step, store_step, away = POINTS // plan.together * panels * parts, 0, 0, added_away(epilogue)
    steps = calls * plan.together * ((window.channels + lanes - 1) // lanes)
    # While it multiplies, a task prefetches the source of the patches that this thread most likely takes next, and
    # the lines of its outputs; where it takes a part of a row of patches, a part of those of the row after.
    after, below = first + plan.block, first + plan.across
    row = (6 - window.pixels - window.top) * x.shape[3] * x.shape[4]
    fetch = x.ctypes.data + size * (x.size * max(after, below) // patches + row)
    store = y.ctypes.data + size * (y.size * (first if plan.block >= plan.across else below) // patches)
    if x.shape[4] == window.channels:
        fetch_step = size * x.size * plan.block // patches // steps
    if y.shape[4] == work.channels:
        store_step = size * y.size * plan.block // patches // steps
    for call in range(calls):
        e, panel, part = 0, call % panels, call // panels
        if plan.together == 1:
            e, panel, part = call // (panels * parts), call // parts % panels, call % parts
        done = steps * call // calls
        ahead = fetch + done * fetch_step, fetch_step, store + done * store_step, store_step, away
        _multiply(work, e, plan.together, panel, part, parts, count, size, U.ctypes.data, V, M, ahead)
    _to_pixels(work, task, first, count, M, bias, epilogue, y)


@jit
def _blocks(team, work, x, U, bias, epilogue, buffers, y):
    share(team, work.plan.blocks, _block, (work, x, U, bias, epilogue, buffers, y))


@jit(inner=True)
def _points_task(task, thread, work, first, count, run, x, V, buffers):
    plan, lanes, begin = work.plan, work.lanes, task * run
    to_points(work.window, first + begin, min(run, count - begin), x, V + x.itemsize * begin * lanes,
              (lanes, plan.vector_pitch, plan.v_pitch), buffers[thread].ctypes.data)  # fmt: skip


@jit(inner=True)
def _multiply_task(task, thread, work, panels, count, size, U, V, M):
    tile_rows, C, lanes = work.products.shape[0] - 1, work.window.channels, work.lanes
    parts = (count + tile_rows - 1) // tile_rows
    e, panel, panel_bytes = task // panels, task % panels, size * C * 2 * lanes
    fetch = U + size * (e * work.plan.u_pitch + (panel + 1) * C * 2 * lanes)  # of the next panel
    step = panel_bytes // (parts * ((C + lanes - 1) // lanes))
    for part in range(parts):
        ahead = fetch + panel_bytes * part // parts, step, 0, 0, 0
        _multiply(work, e, 1, panel, part, parts, count, size, U, V, M, ahead)


@jit(inner=True)
def _pixels_task(task, thread, work, before, first, count, run, M, bias, epilogue, y):
    begin = task * run
    _to_pixels(work, before + task, first + begin, min(run, count - begin), M + y.itemsize * begin * work.lanes, bias,
               epilogue, y)  # fmt: skip


@jit
def _groups(team, work, x, U, bias, epilogue, points, buffers, y):
    """Take group after group of patches through the steps, all threads together."""
    plan, lanes, V, size = work.plan, work.lanes, points.ctypes.data, x.itemsize
    patches, M = x.shape[0] * plan.down * plan.across, V + size * POINTS * plan.v_pitch
    panels, run = (work.channels + 2 * lanes - 1) // (2 * lanes), min(plan.across, plan.block)
    tasks = (plan.block + run - 1) // run
    for group in range(plan.blocks):
        first = group * plan.block
        count = min(plan.block, patches - first)
        share(team, (count + run - 1) // run, _points_task, (work, first, count, run, x, V, buffers))
        share(team, POINTS * panels, _multiply_task, (work, panels, count, size, U.ctypes.data, V, M))
        share(team, (count + run - 1) // run, _pixels_task, (work, group * tasks, first, count, run, M, bias, epilogue,
                                                             y))  # fmt: skip


@jit(inner=True)
def _turn_tap(tap, thread, transpose, w, lanes, first_row, rows, first, C, turned):
    taps, all_rows, columns = w.shape
    pitch = turned.shape[2]
    for c in range(0, rows, lanes):
        source = w.ctypes.data + w.itemsize * ((tap * all_rows + first_row + c) * columns + first)
        target = turned.ctypes.data + w.itemsize * ((taps - 1 - tap) * C * pitch + c)
        call_transpose(transpose, source, columns, target, pitch, min(lanes, rows - c), C)


@jit
def _turn(team, transpose, w, lanes, first_row, rows, first, C, turned):
    """Fill turned (taps, C, pitch) with filters (taps, rows, columns) transposed and turned by half a circle.

    They are `rows` rows from first_row on, and C columns from `first` on, of w.
    """
    share(team, w.shape[0], _turn_tap, (transpose, w, lanes, first_row, rows, first, C, turned))


def _cut(source: tuple[int, ...], target: tuple[int, ...], taps: int, groups: int) -> tuple[int, ...]:
    """Return (N, P, Q, C, K, pixels) of `plan_patches` for arrays of these shapes."""
    N, O, _, _, C = source
    return N * O, target[2], target[3], C // groups, target[4] // groups, 7 - taps


def tasks_of(problem: ConvProblem, transposed: bool, tiles: Tiles, itemsize: int) -> int:
    """Return how many tasks finish outputs."""
    cut = _cut(*problem.ends(transposed), problem.filter[1], problem.groups)
    return plan_patches(*cut, transposed, tiles.lanes, itemsize).tasks


def winograd(
    tiles: Tiles, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, problem: ConvProblem, transposed: bool,
    epilogue: int, y: np.ndarray,
) -> None:  # fmt: skip
    """Fill y (N, O, P, Q, K) from x (N, O, H, W, C), float32, padded by zeros, and w (1, r, r, C / groups, K).

    With `transposed`, x is dy, w the forward filter (1, r, r, K / groups, C) and y is dx. Where the epilogue measures,
    `bias` (tasks, pitch) holds a record for each of the plan's tasks (`statistics_code.py`).
    """
    x, y, groups, taps = slices_as_images(x), slices_as_images(y), problem.groups, w.shape[1]
    top, left = (taps - 1 - pair[0] if transposed else pair[0] for pair in problem.padding[1:])
    C, K = x.shape[4] // groups, y.shape[4] // groups
    code, products = transforms(x.dtype, taps), point_products(x.dtype).products
    plan = plan_patches(*_cut(x.shape, y.shape, taps, groups), transposed, tiles.lanes, x.itemsize)
    large, filters = w.size > 1 << 13, w.reshape(taps * taps, w.shape[3], w.shape[4])
    pitch = -(-plan.chunk // tiles.lanes) * tiles.lanes
    turned = scratch("turned filters", taps * taps * C * pitch * transposed, x.dtype)
    turned = turned[: taps * taps * C * pitch * transposed].reshape(-1, C, pitch)
    threads = threads_for(plan.blocks > 1 or not plan.fused)
    points, source = POINTS * (plan.v_pitch + plan.m_pitch), 6 * (7 * min(plan.block, plan.across) + 6) * C
    held = source + (points if plan.fused else 0)
    buffers = scratch("source", threads * held, x.dtype)[: threads * held].reshape(threads, held)
    add = np.zeros((1, y.shape[4]), x.dtype) if bias is None else bias.reshape(-1, bias.shape[-1])
    for group, first in product(range(groups), range(0, K, plan.chunk)):
        channels = min(plan.chunk, K - first)
        column = group * K + first
        if transposed:
            call_parallel(large, _turn, tiles.addresses[0, 0], filters, tiles.lanes, first, channels, group * C, C,
                          turned, packs=w)  # fmt: skip
        given = (turned, taps, C, 0) if transposed else (filters, taps, C, column)
        U = packed("weights", w, POINTS * plan.u_pitch, x.dtype)
        call_parallel(large, _filters, code.filter, *given, channels, 2 * tiles.lanes, U, plan.u_pitch, packs=w)
        window = Window(tiles.addresses[1, 0], code.input, group * C, C, 6, 7 - taps, top, left, plan.down, plan.across)
        work = Pass(plan, window, products, code.output, tiles.lanes, column, channels)
        if plan.fused:
            call_parallel(plan.blocks > 1, _blocks, work, x, U, add, epilogue, buffers, y)
        else:
            held_points = scratch("points", points, x.dtype)
            call_parallel(True, _groups, work, x, U, add, epilogue, held_points, buffers, y)
