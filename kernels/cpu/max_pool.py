"""The maximum of every window and its gradient; `pool.py` defines both.

Arrays: x (N, D, H, W, C), window (T, R, S), y and winner (N, O, P, Q, C).
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
    find_runs,
    first_inside,
    pack,
    pack_pixels,
    unpack,
)

SLABS = 64  # parts of dx that the gradient is split into, where the batch is smaller
OUTSIDE = -(1 << 62)  # the place of a tap that is not in this part of dx


@jit(inner=True)
def beats(v, best):
    """Tell whether v takes the lead: it is larger, or the first NaN."""
    return (v > best) | ((v != v) & (best == best))


@jit(inner=True)
def max_tap(x, at, step, y, winner, to, segments, length, tap):
    """Let one tap compete: segment k of the outputs against the pixels from at + k * step."""
    code = winner.dtype.type(tap)
    for k in range(segments):
        source, target = at + k * step, to + k * length
        for i in range(length):
            v, best = x[np.uintp(source + i)], y[np.uintp(target + i)]
            leader = winner[np.uintp(target + i)]
            better = beats(v, best)
            y[np.uintp(target + i)] = v if better else best
            winner[np.uintp(target + i)] = code if better else leader


@jit(inner=True)
def start_maxima(y, winner, to, image, output, C, window, stride, padding, dilation, o, p, rows):
    """Set a block to minus infinity, and its winners to the first tap inside the image, or 0."""
    for i in range(to, to + rows * output[2] * C):
        y[np.uintp(i)] = -np.inf
        winner[np.uintp(i)] = 0
    (T, R, S), Q = window, output[2]
    t = first_inside(o, image[0], T, stride[0], padding[0][0], dilation[0])
    for row in range(rows):
        r = first_inside(p + row, image[1], R, stride[1], padding[1][0], dilation[1])
        for q in range(Q):
            s = first_inside(q, image[2], S, stride[2], padding[2][0], dilation[2])
            if t >= 0 and r >= 0 and s >= 0 and t + r + s > 0:
                pixel = to + (row * Q + q) * C
                winner[pixel : pixel + C] = (t * R + r) * S + s


@jit(inner=True)
def max_pool_block(task, thread, x, image, y, winner, output, C, how, height):
    """Fill one block of `height` output rows; blocks are counted through images and depths."""
    window, stride, padding, dilation = unpack(how)
    O, P, Q = output
    blocks = (P + height - 1) // height
    n, o, p = task // (O * blocks), task // blocks % O, task % blocks * height
    rows, to = min(height, P - p), ((n * O + o) * P + p) * Q * C
    here = n * image[0] * image[1] * image[2] * C
    start_maxima(y, winner, to, image, output, C, window, stride, padding, dilation, o, p, rows)
    runs = np.empty((window[0] * window[1] * window[2] * rows, 4), np.int64)
    packed = np.empty(rows * Q * C + LINE, x.dtype)
    count = find_runs(image, output, C, window, stride, padding, dilation, o, p, rows, runs)
    step = stride[2] * C
    for k in range(count):
        tap, at, first, pixels = runs[k, 0], here + runs[k, 1], runs[k, 2], runs[k, 3]
        start = to + first * C
        source, segments, length = x, 1, pixels * C
        if stride[2] > 1 and C >= WIDE:
            segments, length = pixels, C
        if stride[2] == 1 or C >= WIDE:
            at += first * step
        else:
            pack_pixels(x, at, first, pixels, Q, image[2], C, stride, packed)
            source, at = packed, 0
        max_tap(source, at, step, y, winner, start, segments, length, tap)


@jit
def max_pool_blocks(team, x, window, stride, padding, dilation, y, winner):
    """Do `max_pool_forward`, a block of output rows at a time."""
    (N, O, P, Q, C), image = y.shape, x.shape[1:4]
    output, how = (O, P, Q), pack(window, stride, padding, dilation)
    height = block_rows(output, C, stride)
    flat, maxima, winners = x.reshape(-1), y.reshape(-1), winner.reshape(-1)
    blocks = N * O * ((P + height - 1) // height)
    share(team, blocks, max_pool_block, (flat, image, maxima, winners, output, C, how, height))


def max_pool_forward(x, window, stride, padding, dilation, y, winner):
    """Fill y with the maxima and winner with the tap (t * R + r) * S + s of the first maximum.

    The first NaN of a window wins it. A window without a pixel of the image gives minus infinity
    and tap 0.
    """
    worth = y.size * window[0] * window[1] * window[2] > SMALL
    call_parallel(worth, max_pool_blocks, x, window, stride, padding, dilation, y, winner)


@jit(inner=True)
def max_pool_backward_slab(task, thread, dy, winner, how, dx, slabs):
    """Fill one of the `slabs` of rows of an image of dx, whatever the depth."""
    n, slab = task // slabs, task % slabs
    top, bottom = slab * dx.shape[2] // slabs, (slab + 1) * dx.shape[2] // slabs
    (T, R, S), stride, padding, dilation = unpack(how)
    D, H, W, C = dx.shape[1:]
    O, P, Q = dy.shape[1:4]
    for d in range(D):
        dx[n, d, top:bottom] = 0
    places = np.empty(T * R * S, np.int64)
    flat, gradients, winners = dx.reshape(-1), dy.reshape(-1), winner.reshape(-1)
    low = max(0, (top + padding[1][0] - (R - 1) * dilation[1] + stride[1] - 1) // stride[1])
    for o in range(O):
        for p in range(low, min(P, (bottom - 1 + padding[1][0]) // stride[1] + 1)):
            for t in range(T):
                d = o * stride[0] - padding[0][0] + t * dilation[0]
                for r in range(R):
                    h = p * stride[1] - padding[1][0] + r * dilation[1]
                    mine = 0 <= d < D and top <= h < bottom
                    for s in range(S):
                        place = (((n * D + d) * H + h) * W + s * dilation[2]) * C
                        places[(t * R + r) * S + s] = place if mine else OUTSIDE
            first = places[0]
            for q in range(Q):
                w = q * stride[2] - padding[2][0]
                places[0] = first if 0 <= w < W else OUTSIDE
                at = (((n * O + o) * P + p) * Q + q) * C
                for c in range(C):
                    place = places[winners[np.uintp(at + c)]]
                    if place != OUTSIDE:
                        flat[np.uintp(place + w * C + c)] += gradients[np.uintp(at + c)]


@jit
def max_pool_backward_slabs(team, dy, winner, window, stride, padding, dilation, dx):
    """Do `max_pool_backward_input`, some rows of an image at a time."""
    N, H = dx.shape[0], dx.shape[2]
    how = pack(window, stride, padding, dilation)
    slabs = min(H, (SLABS + N - 1) // max(N, 1))
    share(team, N * slabs, max_pool_backward_slab, (dy, winner, how, dx, slabs))


def max_pool_backward_input(dy, winner, window, stride, padding, dilation, dx):
    """Fill dx: every pixel collects dy from the windows that it won."""
    worth = dx.size > SMALL
    call_parallel(worth, max_pool_backward_slabs, dy, winner, window, stride, padding, dilation, dx)
