"""Blocks of the input copied with their padding, and where a block begins."""

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.simd.tile import call_copy_rows, copy_bytes, zero_bytes


@jit(inner=True)
def copy_padded(copy, source, start, skips, sizes, pitches, target):
    """Copy a box of pixels from `start` (n, d, h, w, c) on to the address target; pixels outside become zero.

    source (N, D, H, W, C), of which every skip-th pixel is taken; `sizes` (slices, rows, columns, channels) of the
    box; pitches in elements between target's slices, rows and pixels (no fewer than channels). The address of
    copy_rows serves where not all channels or pixels are taken, or pixels are set apart.
    """
    _, D, H, W, C = source.shape
    n, d0, h0, w0, c0 = start
    skip_d, skip_h, skip_w = skips
    depth, rows, columns, channels = sizes
    pitch_d, pitch_h, pitch_w = pitches
    size = source.itemsize
    first, last = min(max(0, -(w0 // skip_w)), columns), max(0, min(columns, (W - w0 + skip_w - 1) // skip_w))
    for i in range(depth):
        for j in range(rows):
            d, h = d0 + i * skip_d, h0 + j * skip_h
            at = target + size * (i * pitch_d + j * pitch_h)
            if d < 0 or d >= D or h < 0 or h >= H or first >= last:
                zero_bytes(at, size * columns * pitch_w)
                continue
            zero_bytes(at, size * first * pitch_w)
            zero_bytes(at + size * last * pitch_w, size * (columns - last) * pitch_w)
            row = source.ctypes.data + size * ((((n * D + d) * H + h) * W + w0 + first * skip_w) * C + c0)
            at += size * first * pitch_w
            if pitch_w == channels == C and skip_w == 1:
                copy_bytes(at, row, size * (last - first) * C)
            else:
                call_copy_rows(copy, row, skip_w * C, at, pitch_w, last - first, channels)


@jit(inner=True)
def block_start(index, depth, rows_blocks, rows_block, columns_blocks, columns_block):
    """Return (image, slice, row, column) of the first output of block `index`; columns count fastest."""
    q_block, rest = index % columns_blocks, index // columns_blocks
    p_block, rest = rest % rows_blocks, rest // rows_blocks
    return rest // depth, rest % depth, p_block * rows_block, q_block * columns_block
