"""The roofline of made-up rows."""

import builtins

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcnn.bench.report import roofline_plot
from fastcnn.bench.run import Report
from fastcnn.errors import ArgumentError, BackendError


@pytest.fixture
def found(machine, row):
    """A report of one shape in two passes, and of another one."""
    return Report(
        machine(), [row(), row(pass_name="backward_input", gflops=10.0), row(descriptor="b", name="b", gflops=90.0)]
    )


def test_the_roofs_and_the_names(machine, row, found):
    assert roofline_plot.intensity(found.rows[0]) == 20.0
    assert roofline_plot.roof(found.rows[0], machine()) == 100.0
    assert roofline_plot.roof(row(flops=500_000), machine()) == 50.0
    assert roofline_plot.named_rows(found) == [found.rows[1], found.rows[2]]


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_a_file_of_each_kind(tmp_path, found, ending, monkeypatch):
    pytest.importorskip("matplotlib", reason="the plot is drawn by matplotlib")
    monkeypatch.delenv("DISPLAY", raising=False)
    path = tmp_path / f"roofline.{ending}"
    roofline_plot.check(path)
    roofline_plot.plot_roofline(found, path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    if ending == "svg":
        text = path.read_text()
        assert all(f"<!-- {label} -->" in text for label in ("forward", "backward_input", "1", "2"))
        assert "  net:conv1" in text
        assert all(roof in text for roof in ("measured roofs", "bandwidth 10 GB/s", "peak 100 GFLOP/s"))


@pytest.mark.parametrize("name", ["roofline", "roofline.txt", "a.png.json"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(ArgumentError, match=r"use one of .*png"):
        roofline_plot.check(tmp_path / name)


def test_no_matplotlib(tmp_path, monkeypatch):
    usual = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return usual(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match=r'pip install "fastcnn\[plot\]"'):
        roofline_plot.check(tmp_path / "roofline.png")


def drawn(tmp_path, report):
    """Return the texts of a roofline_plot."""
    pytest.importorskip("matplotlib", reason="the plot is drawn by matplotlib")
    path = tmp_path / "roofline.svg"
    roofline_plot.plot_roofline(report, path)
    return path.read_text()


def test_the_peers_points_and_those_of_transforms_have_markers_of_their_own(tmp_path, machine, row, compared):
    peer = {"name": "torch", "version": "2", "memory": "fresh"}
    rows = [compared(2.0), compared(2.0, descriptor="b", algorithm="winograd", gflops=180.0)]
    text = drawn(tmp_path, Report(machine(), rows, peer))
    assert "<!-- forward, torch -->" in text
    assert "<!-- forward, by transforms (may pass the peak) -->" in text
    assert roofline_plot.peer_gflops(rows[0]) == pytest.approx(rows[0].flops / 0.2e6)
    alone = drawn(tmp_path, Report(machine(), [row()]))
    assert "torch" not in alone
    assert "transforms" not in alone


def test_the_title_tells_what_is_wrong_with_a_run(machine, row):
    assert roofline_plot.title(Report(machine(), [row()])) == "a CPU, 2 threads, float32"
    assert "measured peak is too low" in roofline_plot.title(Report(machine(), [row(least_flops=20_000_000)]))
    assert "after 1 of 7 rows" in roofline_plot.title(Report(machine(), [row()], planned_rows=7))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 600), st.floats(0, 400)), min_size=1, max_size=30))
def test_numbers_of_up_to_thirty_points_do_not_lie_over_each_other(points):
    taken = []
    for at in points:
        taken.append(roofline_plot.free_place(at, points, taken, roofline_plot.NUMBER_SIZE))
    for i, (x, y) in enumerate(taken):
        for a, b in taken[:i]:
            assert abs(x - a) >= 1.6 * roofline_plot.NUMBER_SIZE or abs(y - b) >= 1.2 * roofline_plot.NUMBER_SIZE


@pytest.mark.parametrize("count", [1, 6, 69, 147])
def test_sets_of_any_size_have_a_list_that_fits(tmp_path, machine, row, count):
    rows = [
        row(descriptor=f"d{n}", name=f"net:layer{n}", flops=2_000_000 * (1 + n), gflops=10.0 + n % 50)
        for n in range(count)
    ]
    text = drawn(tmp_path, Report(machine(), rows))
    shown = sum(f"net:layer{n} -->" in text or f"net:layer{n}\n" in text for n in range(count))
    assert shown == min(count, roofline_plot.MOST_NAMES)
