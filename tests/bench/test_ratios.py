"""Means and percentiles of ratios."""

import pytest

from fastcnn.bench.report.ratios import distribution, geometric_mean, lowest, total_ms, total_ratio


def test_geometric_mean():
    assert geometric_mean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([None]) is None


def test_a_total_needs_the_peer_in_every_row(row, compared):
    rows = [compared(2.0, count=3), row()]
    assert total_ms(rows) == (pytest.approx(0.4), None)
    assert total_ratio(rows) is None
    assert total_ratio(rows[:1]) == pytest.approx(2.0)
    assert total_ratio([]) is None


def test_distribution():
    found = distribution([None, *range(21)])
    assert found == {
        "rows": 21, "min": 0, "p5": 1, "p25": 5, "p50": 10, "p75": 15, "p95": 19, "max": 20, "share_below_1": 1 / 21,
    }  # fmt: skip
    assert distribution([None]) is None


def test_lowest_come_first(row, compared):
    rows = [compared(2.0), compared(0.5), row(), compared(1.0), compared(0.5)]
    assert [r.ratio for r in lowest(rows, 3)] == [0.5, 0.5, 1.0]
    assert [r.ratio for r in lowest(rows, 9, below=1)] == [0.5, 0.5]
