"""Dropout: an element is dropped with probability p, and the others are scaled by 1 / (1 - p).

Random bits come from counters (Salmon et al. 2011): those of element i are a hash of the key and i, the key one of
(seed, step). So they are the same in any order and dtype, and no mask is kept: the gradient computes it again.

    y = x * m   dx = dy * m   m = 0 where bits(key, i) < p * 2^32, else 1 / (1 - p)   (Srivastava et al. 2014)

The hash takes two 32-bit products an element, which a vector of lanes computes faster than memory brings the next one.
"""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_parallel, call_serial
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.cpu.runtime.partition import SERIAL_ELEMENTS

STEPS = 1 << 24  # that are told apart: float32 holds each as a whole number
BLOCK = 1 << 14  # elements that share two words of the key, and that a thread takes at once
U32, U64 = np.uint32, np.uint64


@jit(inner=True)
def mix(word):
    """Return the finalizer of SplitMix64 (Steele et al. 2014)."""
    word = U64(word) + U64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> U64(27))) * U64(0x94D049BB133111EB)
    return word ^ (word >> U64(31))


@jit(inner=True)
def bits(i, low, high):
    """Return 32 random bits for element i of a block: C. Wellons's 32-bit mixer (public domain) with two keys."""
    h = U32(i) ^ low
    h = U32((h ^ (h >> U32(16))) * U32(0x7FEB352D))
    h = U32((h ^ (h >> U32(15))) + high)
    h = U32(h * U32(0x846CA68B))
    return U32(h ^ (h >> U32(16)))


@jit
def _draw_key(seed, step, key):
    """Do `draw_key`."""
    word = mix(U64(np.int64(seed[0])) * U64(STEPS) + U64(np.int64(step[0])))
    key[0] = np.int64(word >> U64(1))
    step[0] = (np.int64(step[0]) + 1) % STEPS


def draw_key(seed: np.ndarray, step: np.ndarray, key: np.ndarray) -> None:
    """Fill key (1,) from seed (1,) and step (1,), whole numbers below STEPS, and count the step."""
    call_serial(_draw_key, seed, step, key)


@jit(inner=True)
def dropout_block(block, thread, x, limit, scale, key, y):
    """Fill a block of y with x, scaled or dropped."""
    word = mix(U64(key[0]) + U64(block))
    low, high = U32(word & U64(0xFFFFFFFF)), U32(word >> U64(32))
    start, zero = block * BLOCK, y.dtype.type(0)
    for i in range(min(BLOCK, y.size - start)):
        kept = zero if bits(i, low, high) < limit else scale
        y[np.uintp(start + i)] = x[np.uintp(start + i)] * kept


@jit
def dropout_blocks(team, x, limit, scale, key, y):
    """Do `dropout_forward` on flat arrays."""
    share(team, (y.size + BLOCK - 1) // BLOCK, dropout_block, (x, U32(limit), y.dtype.type(scale), key, y))


def dropout_forward(x: np.ndarray, p: float, key: np.ndarray, y: np.ndarray) -> None:
    """Fill y with x, scaled or dropped; with dy for x this is the gradient. NaN and infinity stay NaN where dropped."""
    limit, scale = min(round(p * 2**32), 2**32 - 1), 1 / (1 - p) if p < 1 else 0.0
    call_parallel(y.size > SERIAL_ELEMENTS, dropout_blocks, x.reshape(-1), limit, scale, key, y.reshape(-1))
