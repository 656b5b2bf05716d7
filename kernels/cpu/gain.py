"""A gain learned for each channel: y = g x and its gradients.

    x (..., C)   g (C,)   y as x

The gains are written out over a period of several pixels, so that few channels make no short loops.
"""

import numpy as np

from fastcnn.kernels.cpu.elementwise.map import RUN, Pair, call
from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, runs_on_host
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS
from fastcnn.kernels.cpu.runtime.workspace import scratch

LANES = 1 << 8  # sums side by side, at least: four vectors of 16 lanes hide the adder's latency four times
CHUNK = 1 << 16  # elements of one partial sum


@jit(inner=True)
def product(g, x, a, b):
    """Return g * x."""
    return g * x


PRODUCT = Pair(None, product)


@runs_on_host
def gain_forward(x: np.ndarray, g: np.ndarray, y: np.ndarray) -> None:
    """Fill y with g[c] * x."""
    pixels = max(1, RUN // g.size)
    pixels -= pixels % 16 if pixels > 16 else 0  # whole lines, if there is room for them
    written = scratch("gains", pixels * g.size, g.dtype)[: pixels * g.size]
    written.reshape(pixels, g.size)[...] = g
    call(PRODUCT.address("g", y.dtype), written, written.size, x, y)


@runs_on_host
def gain_backward_input(g: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> None:
    """Fill dx with g[c] * dy."""
    gain_forward(dy, g, dx)


@jit(inner=True)
def gain_chunk(chunk, thread, x, dy, partial):
    """Sum dy * x over one chunk of pixels, many lanes side by side."""
    chunks, C = partial.shape
    pixels, lanes = x.size // C, (LANES + C - 1) // C * C
    first, last = pixels * chunk // chunks * C, pixels * (chunk + 1) // chunks * C
    sums = np.zeros(lanes, x.dtype)
    whole = first + (last - first) // lanes * lanes
    for at in range(first, whole, lanes):
        for i in range(lanes):
            sums[np.uintp(i)] += dy[np.uintp(at + i)] * x[np.uintp(at + i)]
    for i in range(last - whole):
        sums[np.uintp(i)] += dy[np.uintp(whole + i)] * x[np.uintp(whole + i)]
    partial[chunk, :] = 0
    for i in range(lanes):
        partial[chunk, i % C] += sums[i]


@jit
def gain_chunks(team, x, dy, partial, dg):
    """Do `gain_backward_weight` on flat arrays: chunks cut by shape, added in order in double precision."""
    share(team, partial.shape[0], gain_chunk, (x, dy, partial))
    for c in range(dg.size):
        total = 0.0
        for chunk in range(partial.shape[0]):
            total += partial[chunk, c]
        dg[c] = total


def gain_backward_weight(x: np.ndarray, dy: np.ndarray, dg: np.ndarray) -> None:
    """Fill dg with the sums of dy * x over all pixels."""
    chunks = max(1, min(x.size // CHUNK, x.size // dg.size))
    partial = scratch("gain sums", chunks * dg.size, np.dtype(np.float64))[: chunks * dg.size]
    call_parallel(
        x.size > SERIAL_ELEMENTS, gain_chunks, x.reshape(-1), dy.reshape(-1), partial.reshape(chunks, dg.size), dg
    )
