"""Guards: they raise on what must not be, wherever it stands, and on nothing else."""

import numpy as np
import pytest


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_guards_raise_on_numbers_that_are_not_finite(room, bad):
    numbers = np.array([0.0, -1e300, 5e-324])
    assert room.guard.stop_unless_finite(numbers) is None
    for place in range(3):
        kept, numbers[place] = numbers[place], bad
        with pytest.raises(room.guard.GuardError):
            room.guard.stop_unless_finite(numbers)
        numbers[place] = kept


def test_guards_raise_on_any_count(room):
    for count in (0, 1, 3):
        counts = np.zeros(count, np.int64)
        assert room.guard.stop_if_any(counts) is None
        for place in range(count):
            counts[:] = 0
            counts[place] = 7
            with pytest.raises(room.guard.GuardError):
                room.guard.stop_if_any(counts)
