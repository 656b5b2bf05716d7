"""Guards: they raise on what must not be, wherever it stands, and on nothing else."""

import numpy as np
import pytest


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_guards_raise_on_numbers_that_are_not_finite(room, bad):
    numbers = np.array([0.0, -1e300, 5e-324])
    assert room.program.stop_unless_finite(numbers) is None
    for place in range(3):
        kept, numbers[place] = numbers[place], bad
        with pytest.raises(room.program.GuardError):
            room.program.stop_unless_finite(numbers)
        numbers[place] = kept


def test_guards_raise_on_any_count(room):
    for count in (0, 1, 3):
        counts = np.zeros(count, np.int64)
        assert room.program.stop_if_any(counts) is None
        for place in range(count):
            counts[:] = 0
            counts[place] = 7
            with pytest.raises(room.program.GuardError):
                room.program.stop_if_any(counts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_was_finite_must_stay_so(room, dtype, bad):
    arrays = [np.arange(size, dtype=dtype) for size in (3, 1, 20)]
    arrays[1][0] = bad
    kept = np.empty(24, dtype)
    room.program.keep(arrays, kept)
    np.testing.assert_array_equal(kept, np.concatenate(arrays))
    arrays[1][0] = np.nan
    arrays[2][3] = -7
    assert room.program.stop_if_spoilt(arrays, kept) is None
    for array, place in ((arrays[0], 0), (arrays[2], 19)):
        held, array[place] = array[place], bad
        with pytest.raises(room.program.GuardError):
            room.program.stop_if_spoilt(arrays, kept)
        array[place] = held
    arrays[1][0] = 1
    assert room.program.stop_if_spoilt(arrays, kept) is None
