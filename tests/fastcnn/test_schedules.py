"""Schedules: they start at the full learning rate and never rise."""

from itertools import pairwise

import pytest

from fastcnn.schedules import SCHEDULES, cosine, step


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_falls_from_one(name: str) -> None:
    factors = [SCHEDULES[name](progress / 100) for progress in range(100)]
    assert factors[0] == 1
    assert all(later <= earlier for earlier, later in pairwise(factors))
    assert factors[-1] > 0


def test_step_and_cosine_values() -> None:
    assert [step(progress) for progress in (0.49, 0.5, 0.74, 0.75)] == [
        1,
        0.1,
        0.1,
        pytest.approx(0.01),
    ]
    assert cosine(1 / 3) == pytest.approx(0.75)
