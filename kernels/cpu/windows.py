"""Where windows meet the image: the whole-number geometry of the pooling kernels.

Along one axis, tap t of window o meets pixel o * stride + t * dilation - pad.
A *run* is a stretch of outputs for which one tap meets pixels of the image at a constant distance.
"""

import numpy as np

from fastcnn.kernels.cpu.compiler import jit
from fastcnn.kernels.cpu.tile import copy_bytes

WIDE = 32  # channels from which a loop over them is faster than packing them first (measured)
LINE = 64  # bytes copied at once: a cache line, and the longest vector
SMALL = 1 << 15  # elements read: for fewer no second thread wakes
BLOCK = 1 << 10  # outputs that a thread fills at once where the channels are few: they stay in L1


@jit(inner=True)
def pack(window, stride, padding, dilation):
    """Return the windows' numbers as one array, since a parallel loop takes no nested tuples."""
    how = np.empty((5, 3), np.int64)
    for axis in range(3):
        how[0, axis], how[1, axis], how[2, axis] = window[axis], stride[axis], dilation[axis]
        how[3, axis], how[4, axis] = padding[axis]
    return how


@jit(inner=True)
def unpack(how):
    """Return the window, stride, padding and dilation that `pack` was given."""
    window = (how[0, 0], how[0, 1], how[0, 2])
    stride = (how[1, 0], how[1, 1], how[1, 2])
    dilation = (how[2, 0], how[2, 1], how[2, 2])
    padding = ((how[3, 0], how[4, 0]), (how[3, 1], how[4, 1]), (how[3, 2], how[4, 2]))
    return window, stride, padding, dilation


@jit(inner=True)
def tap_range(size, outputs, stride, offset):
    """Return the first output whose pixel o * stride + offset is in [0, size), and the end."""
    first = max(0, (stride - 1 - offset) // stride)
    last = min(outputs, (size - 1 - offset) // stride + 1)
    return first, max(first, last)


@jit(inner=True)
def cover_range(pixel, outputs, taps, stride, before):
    """Return the first output whose window of adjacent taps holds the pixel, and the end."""
    first = max(0, (pixel + before - taps + stride) // stride)
    last = min(outputs, (pixel + before) // stride + 1)
    return first, max(first, last)


@jit(inner=True)
def counted(output, size, taps, stride, pads, count_include_pad):
    """Return how many pixels of a window of adjacent taps a mean divides by, along one axis."""
    start = output * stride - pads[0]
    if count_include_pad:
        return max(0, min(start + taps, size + pads[1]) - start)
    return max(0, min(start + taps, size) - max(start, 0))


@jit(inner=True)
def row_count(image, o, p, how, count_include_pad, divisor):
    """Return the share of depth and height in what the means of output row p, depth o divide by."""
    if divisor:
        return divisor
    window, stride, padding, _ = unpack(how)
    deep = counted(o, image[0], window[0], stride[0], padding[0], count_include_pad)
    return deep * counted(p, image[1], window[1], stride[1], padding[1], count_include_pad)


@jit(inner=True)
def column_counts(image, Q, C, how, count_include_pad, divisor, counts):
    """Fill counts (Q * C,) with the width's share in what the means of an output row divide by."""
    window, stride, padding, _ = unpack(how)
    for q in range(Q):
        count = counted(q, image[2], window[2], stride[2], padding[2], count_include_pad)
        counts[q * C : q * C + C] = 1 if divisor else count


@jit(inner=True)
def cover_index(W, Q, C, how):
    """Return, for the elements of a row of dx, the places in an output row of the windows over it.

    One line for each window that can overlap here; Q * C, past the row's end, stands for none.
    """
    window, stride, padding, _ = unpack(how)
    lines = max(1, min(Q, (window[2] + stride[2] - 1) // stride[2]))
    index = np.full((lines, W * C), Q * C)
    for w in range(W):
        first, last = cover_range(w, Q, window[2], stride[2], padding[2][0])
        for q in range(first, last):
            for c in range(C):
                index[q - first, w * C + c] = q * C + c
    return index


@jit(inner=True)
def first_inside(output, size, taps, stride, before, dilation):
    """Return the first tap that meets the image along one axis, or -1."""
    start = output * stride - before
    if start >= 0:
        return 0 if start < size else -1
    tap = (dilation - 1 - start) // dilation
    return tap if tap < taps and start + tap * dilation < size else -1


@jit(inner=True)
def block_rows(output, C, stride):
    """Return how many output rows are filled at once: one where its inner loops are long."""
    P, Q = output[1], output[2]
    if P == 0 or C >= WIDE or stride[2] == 1:
        return 1
    blocks = (P * Q * C + BLOCK - 1) // BLOCK
    return (P + blocks - 1) // blocks


@jit(inner=True)
def pack_pixels(x, at, first, pixels, Q, W, C, stride, packed):
    """Copy the pixels of a run side by side into packed, which has room for a line more.

    Few channels make short loops, so every pixel is copied as whole lines; what is too much, the
    next pixel overwrites. Where lines would reach past the end of x, single elements are copied.
    """
    size = x.itemsize
    lines, source, target = (C * size + LINE - 1) // LINE, x.ctypes.data, packed.ctypes.data
    done = 0
    while done < pixels:
        row, left = (first + done) // Q, (first + done) % Q
        count = min(pixels - done, Q - left)
        start = at + (row * stride[1] * W + left * stride[2]) * C
        step = stride[2] * C
        last = start + (count - 1) * step
        if last * size + lines * LINE <= x.size * size:
            for pixel in range(count):
                here, there = start + pixel * step, (done + pixel) * C
                for line in range(lines):
                    move = line * LINE
                    copy_bytes(target + there * size + move, source + here * size + move, LINE)
        else:
            for pixel in range(count):
                for c in range(C):
                    packed[(done + pixel) * C + c] = x[start + pixel * step + c]
        done += count


@jit(inner=True)
def find_runs(image, output, C, window, stride, padding, dilation, o, p, rows, runs):
    """Fill runs with (tap, place in image, first output of block, outputs); return their number.

    Outputs are pixels of the block of `rows` rows that starts at row p of depth o; a place counts
    elements, and is where the block's first output would find its pixel for this tap.
    """
    D, H, W = image
    Q, count = output[2], 0
    for t in range(window[0]):
        d = o * stride[0] - padding[0][0] + t * dilation[0]
        if d < 0 or d >= D:
            continue
        for r in range(window[1]):
            h = p * stride[1] - padding[1][0] + r * dilation[1]
            top, bottom = tap_range(H, rows, stride[1], h)
            for s in range(window[2]):
                w = s * dilation[2] - padding[2][0]
                left, right = tap_range(W, Q, stride[2], w)
                whole = left == 0 and right == Q
                for row in range(top, bottom if right > left else top):
                    if whole and row > top:
                        runs[count - 1, 3] += Q
                        continue
                    runs[count, 0] = (t * window[1] + r) * window[2] + s
                    runs[count, 1] = ((d * H + h) * W + w) * C
                    runs[count, 2] = row * Q + left
                    runs[count, 3] = right - left
                    count += 1
    return count
