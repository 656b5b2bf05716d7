"""A report beside an older one, both made up."""

import json

import pytest

from fastcnn.bench.report import compare
from fastcnn.bench.run import Report
from fastcnn.errors import DataError


@pytest.fixture
def old(tmp_path, machine):
    """Return a writer and reader of an older report."""

    def make(*rows, cpu="a CPU"):
        found = Report(machine(), list(rows))
        found.machine.cpu = cpu
        path = tmp_path / "old.json"
        path.write_text(json.dumps(found.as_dict()))
        return compare.read_old(path)

    return make


def test_rows_meet_by_what_they_measure(old, machine, row, printed):
    before = old(row(median_ms=0.4, name="another name", algorithm="winograd"), row(descriptor="mb9ic1", name=""))
    rows = [row(layer="pool", name="pool1"), row(dtype="float64"), row(), row(descriptor="mb2ic1ih5oc1kh3", name="new")]
    text = printed(compare.show_comparison, Report(machine(), rows), before)
    assert "direct (was winograd)" in text
    assert "1 of 4 rows stand in the older report; geometric mean of old / new: 4.00 (above 1: faster now)" in text
    assert "not in the older report: pool1 forward, net:conv1 forward, new forward" in text
    assert "only in the older report: mb9ic1 forward" in text
    assert "another CPU" not in text


def test_equal_reports_leave_nothing_to_say(old, machine, row, printed):
    rows = [row(), row(pass_name="backward_input")]
    text = printed(compare.show_comparison, Report(machine(), rows), old(*rows))
    assert "2 of 2 rows" in text
    assert "geometric mean of old / new: 1.00" in text
    assert "only in" not in text
    assert "not in" not in text
    assert "was" not in text


def test_nothing_in_common_on_another_cpu(old, machine, row, printed):
    others = [row(descriptor=f"mb{n}ic1", name=f"row{n}") for n in range(5)]
    text = printed(compare.show_comparison, Report(machine(), [row()]), old(*others, cpu="an old CPU"))
    assert "0 of 1 rows stand in the older report\n" in text
    assert "only in the older report: row0 forward, row1 forward, row2 forward and 2 more" in text
    assert "the older report is of another CPU: an old CPU" in text


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"rows": [{}]}', '{"rows": 3}', '{"rows": [3]}', '{"rows": [], "machine": 3}']
)
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(DataError, match="is not a report to compare with"):
        compare.read_old(path)
