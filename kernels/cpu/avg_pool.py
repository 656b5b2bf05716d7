"""The mean of every window and its gradient; `pool.py` defines both.

Arrays: x (N, D, H, W, C), window (T, R, S), y (N, O, P, Q, C).
"""

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tasks import share
from fastcnn.kernels.cpu.threads import call_parallel
from fastcnn.kernels.cpu.windows import (
    LINE,
    SMALL,
    WIDE,
    block_rows,
    column_counts,
    cover_index,
    cover_range,
    find_runs,
    pack,
    pack_pixels,
    row_count,
    unpack,
)

ADJACENT = (1, 1, 1)  # the dilation of a mean's window


@jit(inner=True)
def sum_tap(x, at, step, y, to, segments, length):
    """Add one tap: to segment k of the outputs the pixels from at + k * step."""
    for k in range(segments):
        source, target = at + k * step, to + k * length
        for i in range(length):
            y[np.uintp(target + i)] += x[np.uintp(source + i)]


@jit(inner=True)
def avg_pool_block(task, thread, x, image, y, output, C, how, padded, divisor, counts, height):
    """Fill one block of `height` output rows; blocks are counted through images and depths."""
    window, stride, padding, dilation = unpack(how)
    O, P, Q = output
    blocks = (P + height - 1) // height
    n, o, p = task // (O * blocks), task // blocks % O, task % blocks * height
    rows, to = min(height, P - p), ((n * O + o) * P + p) * Q * C
    here, step = n * image[0] * image[1] * image[2] * C, stride[2] * C
    y[to : to + rows * Q * C] = 0
    runs = np.empty((window[0] * window[1] * window[2] * rows, 4), np.int64)
    packed = np.empty(rows * Q * C + LINE, x.dtype)
    count = find_runs(image, output, C, window, stride, padding, dilation, o, p, rows, runs)
    for k in range(count):
        at, first, pixels = here + runs[k, 1], runs[k, 2], runs[k, 3]
        start = to + first * C
        source, segments, length = x, 1, pixels * C
        if stride[2] > 1 and C >= WIDE:
            segments, length = pixels, C
        if stride[2] == 1 or C >= WIDE:
            at += first * step
        else:
            pack_pixels(x, at, first, pixels, Q, image[2], C, stride, packed)
            source, at = packed, 0
        sum_tap(source, at, step, y, start, segments, length)
    one = y.dtype.type(1)
    for row in range(rows):
        share = y.dtype.type(row_count(image, o, p + row, how, padded, divisor))
        start = to + row * Q * C
        for i in range(Q * C):
            y[np.uintp(start + i)] /= max(one, share * counts[np.uintp(i)])


@jit
def avg_pool_blocks(team, x, window, stride, padding, padded, divisor, y):
    """Do `avg_pool_forward`, a block of output rows at a time."""
    (N, O, P, Q, C), image = y.shape, x.shape[1:4]
    output, how = (O, P, Q), pack(window, stride, padding, ADJACENT)
    height, counts = block_rows(output, C, stride), np.empty(Q * C, y.dtype)
    column_counts(image, Q, C, how, padded, divisor, counts)
    flat, means = x.reshape(-1), y.reshape(-1)
    blocks = N * O * ((P + height - 1) // height)
    share(team, blocks, avg_pool_block, (flat, image, means, output, C, how, padded, divisor, counts, height))


def avg_pool_forward(x, window, stride, padding, count_include_pad, divisor, y):
    """Fill y with the sum of every window over its number of pixels, or over `divisor` if not 0.

    The pixels inside the padded image count (count_include_pad), or those inside the image itself;
    those past the padded image never do.
    """
    worth = y.size * window[0] * window[1] * window[2] > SMALL
    how = (window, stride, padding, count_include_pad, divisor)
    call_parallel(worth, avg_pool_blocks, x, *how, y)


@jit(inner=True)
def spread_wide(shares, dx, to, W, Q, C, how):
    """Fill the row of dx at `to` from the shares of the windows over its pixels, loops over C."""
    window, stride, padding, _ = unpack(how)
    for w in range(W):
        first, last = cover_range(w, Q, window[2], stride[2], padding[2][0])
        start = to + w * C
        for i in range(C):
            dx[np.uintp(start + i)] = 0
        for q in range(first, last):
            for i in range(C):
                dx[np.uintp(start + i)] += shares[np.uintp(q * C + i)]


@jit(inner=True)
def spread_narrow(shares, index, dx, to):
    """Fill the row of dx at `to` from the shares of the windows over its pixels, by index."""
    for i in range(index.shape[1]):
        dx[np.uintp(to + i)] = shares[index[0, np.uintp(i)]]
    for line in range(1, index.shape[0]):
        for i in range(index.shape[1]):
            dx[np.uintp(to + i)] += shares[index[line, np.uintp(i)]]


@jit(inner=True)
def avg_pool_backward_row(row, thread, dy, output, how, padded, divisor, counts, index, dx, image, C):
    """Fill one row of dx, counted through all images and depths."""
    window, stride, padding, _ = unpack(how)
    (O, P, Q), (D, H, W) = output, image
    n, d, h = row // (D * H), row // H % D, row % H
    shares, one = np.zeros(Q * C + 1, dx.dtype), dx.dtype.type(1)
    deep, deep_end = cover_range(d, O, window[0], stride[0], padding[0][0])
    low, low_end = cover_range(h, P, window[1], stride[1], padding[1][0])
    for o in range(deep, deep_end):
        for p in range(low, low_end):
            count = dx.dtype.type(row_count(image, o, p, how, padded, divisor))
            at = ((n * O + o) * P + p) * Q * C
            for i in range(Q * C):
                share = dy[np.uintp(at + i)] / max(one, count * counts[np.uintp(i)])
                shares[np.uintp(i)] += share
    if C >= WIDE:
        spread_wide(shares, dx, row * W * C, W, Q, C, how)
    else:
        spread_narrow(shares, index, dx, row * W * C)


@jit
def avg_pool_backward_rows(team, dy, window, stride, padding, padded, divisor, dx):
    """Do `avg_pool_backward_input`, row by row."""
    (N, D, H, W, C), output = dx.shape, dy.shape[1:4]
    image, Q, how = (D, H, W), dy.shape[3], pack(window, stride, padding, ADJACENT)
    index, counts = cover_index(W, Q, C, how), np.empty(Q * C, dx.dtype)
    column_counts(image, Q, C, how, padded, divisor, counts)
    given, flat = dy.reshape(-1), dx.reshape(-1)
    how_much = (given, output, how, padded, divisor, counts, index, flat, image, C)
    share(team, N * D * H, avg_pool_backward_row, how_much)


def avg_pool_backward_input(dy, window, stride, padding, count_include_pad, divisor, dx):
    """Fill dx: every pixel collects dy over the divisor from the windows that hold it."""
    how = (window, stride, padding, count_include_pad, divisor)
    call_parallel(dx.size > SMALL, avg_pool_backward_rows, dy, *how, dx)
