"""Numbers moved about in memory: copies into another dtype, one number everywhere, chosen rows."""

import numpy as np


def test_memory_is_copied_filled_and_gathered(room, fill):
    source = np.arange(12.0).reshape(4, 3)
    for dtype in ("float32", "float64"):
        copied = fill(room.memory.copy, source.astype(np.int64), shapes=[(4, 3)], dtype=dtype)
        np.testing.assert_array_equal(copied, source)
        np.testing.assert_array_equal(
            fill(room.memory.gather, source, np.array([2, 0]), shapes=[(2, 3)], dtype=dtype), source[[2, 0]]
        )
    out = np.ones((3, 2), np.float32)
    room.memory.fill(out, 0.5)
    assert (out == 0.5).all()
