"""Sums of blocks in a fixed order."""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.workspace import scratch

BLOCK = 1 << 14  # elements a thread takes at once
LANES = 64  # chains of additions: eight vectors of eight doubles, as each waits for its last sum to come back


@jit(inner=True)
def join_lanes(lanes):
    """Add the chains of a block up, in order, in the first."""
    for lane in range(1, LANES):
        lanes[0] += lanes[lane]


@jit(inner=True)
def join_blocks(partial):
    """Return the sum of the blocks' first chains, in order."""
    total = 0.0
    for block in range(partial.shape[0]):
        total += partial[block, 0]
    return total


def partial_sums(a):
    """Return scratch memory (blocks, LANES) for the sums of a flat array."""
    blocks = -(-a.size // BLOCK)
    return scratch("sums of blocks", blocks * LANES, np.dtype(np.float64))[: blocks * LANES].reshape(blocks, LANES)
