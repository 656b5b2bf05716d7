"""Dropout: an element is dropped with probability p, and the others are scaled by 1 / (1 - p).

Random bits come from counters (Salmon et al. 2011): those of element i are a hash of the key and i, the key one of
(seed, step). So they are the same in any order and dtype, and no mask is kept: the gradient computes it again.

    y = x * m   dx = dy * m   m = 0 where bits(key, i) < p * 2^32, else 1 / (1 - p)   (Srivastava et al. 2014)
"""

import numpy as np
import numpy.typing as npt

from fastcnn.kernels.reference.definition.windows import Array

STEPS = 1 << 24  # that are told apart: float32 holds each as a whole number
BLOCK = 1 << 14  # elements that share two words of the key
SHIFTS = (16, 15, 16)  # these and the factors: the 32-bit mixer of C. Wellons's hash prospector (public domain)
FACTORS = (0x7FEB352D, 0x846CA68B)

U64 = npt.NDArray[np.uint64]


def mix(word: U64) -> U64:
    """Return the finalizer of SplitMix64 (Steele et al. 2014)."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def bits(key: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint32]:
    """Return 32 random bits for every element."""
    index = np.arange(size, dtype=np.uint64)
    words = mix(key.astype(np.uint64) + index // np.uint64(BLOCK))
    low, high = words.astype(np.uint32), (words >> np.uint64(32)).astype(np.uint32)
    h = (index % np.uint64(BLOCK)).astype(np.uint32) ^ low
    h = (h ^ (h >> np.uint32(SHIFTS[0]))) * np.uint32(FACTORS[0])
    h = ((h ^ (h >> np.uint32(SHIFTS[1]))) + high) * np.uint32(FACTORS[1])
    return h ^ (h >> np.uint32(SHIFTS[2]))


def draw_key(seed: Array, step: Array, key: npt.NDArray[np.int64]) -> None:
    """Fill key (1,) from seed (1,) and step (1,), whole numbers below STEPS, and count the step."""
    word = seed.astype(np.uint64) * np.uint64(STEPS) + step.astype(np.uint64)
    key[...] = (mix(word) >> np.uint64(1)).astype(np.int64)
    step[...] = (step + 1) % STEPS


def dropout_forward(x: Array, p: float, key: npt.NDArray[np.int64], y: Array) -> None:
    """Fill y with x, scaled or dropped; with dy for x this is the gradient. NaN and infinity stay NaN where dropped."""
    scale = 1 / (1 - p) if p < 1 else 0.0
    dropped = bits(key, x.size).reshape(x.shape) < min(round(p * 2**32), 2**32 - 1)
    with np.errstate(invalid="ignore"):
        y[...] = x * np.where(dropped, 0, scale).astype(x.dtype)
