"""Rows, roofs and reports, from measurements made up here."""

import csv
import io
import json

import pytest
from rich.console import Console

from fastcnn.bench import report
from fastcnn.bench.case import Case
from fastcnn.bench.machine import Machine, cache_sizes, cpu_name
from fastcnn.bench.run import Report, Row, against_roofs, geometric_mean, measure
from fastcnn.bench.timing import Effort
from fastcnn.errors import DataError


def machine():
    return Machine("a CPU", "float32", 512, 2, "omp", {"L1": "32K"}, {"numba": "1"}, 100.0, 10.0)


def row(**changes):
    fields = {
        "name": "net:conv1", "descriptor": "mb1ic1ih5oc1kh3", "pass_name": "forward",
        "algorithm": "direct", "dtype": "float32", "threads": 2, "count": 1, "batch": 1,
        "flops": 2_000_000, "bytes": 100_000, "compile_ms": 12.0, "median_ms": 0.1,
        "spread_ms": 0.01, "gflops": 20.0, "percent_of_peak": 0.0, "gbytes_per_s": 1.0,
        "bound": "", "max_relative_error": 1e-6, "images_per_s": 1e4,
    }  # fmt: skip
    return Row(**(fields | changes))


def compared(ratio, **changes):
    return row(
        ratio=ratio,
        peer_median_ms=0.1 * ratio,
        peer_layout="channels_last",
        peer_spread_ms=0.0,
        **changes,
    )


def printed(found, show=report.show, width=200):
    out = io.StringIO()
    show(found, Console(file=out, width=width))
    return out.getvalue()


def test_bound_is_the_roof_that_takes_longer():
    for flops, bound in ((2_000_000, "compute"), (900_000, "memory")):
        one = row(flops=flops)
        against_roofs(one, machine())
        assert one.bound == bound
        assert one.percent_of_peak == 20.0


def test_geometric_mean():
    assert geometric_mean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([None]) is None


def test_json_keys():
    found = Report(machine(), [compared(2.0), compared(8.0, pass_name="backward_input")])
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert set(content) >= {"machine", "rows", "geomean_ratio"}
    assert content["geomean_ratio"] == pytest.approx(4.0)
    assert content["geomean_ratio_by_pass"] == pytest.approx({"forward": 2.0, "backward_input": 8.0})
    assert set(content["rows"][0]) >= {
        "name", "descriptor", "pass", "algorithm", "median_ms", "gflops", "percent_of_peak",
        "gbytes_per_s", "bound", "max_relative_error", "peer_median_ms", "ratio",
    }  # fmt: skip
    assert content["rows"][0]["pass"] == "forward"
    assert content["machine"]["peak_gflops"] == 100.0


def test_a_nan_error_is_null_in_json_and_seen_in_the_table():
    found = Report(machine(), [row(max_relative_error=float("nan"))])
    assert found.as_dict()["rows"][0]["max_relative_error"] is None
    assert "nan" in printed(found)


def test_table_is_ascii_and_whole_in_a_pipe():
    text = printed(
        Report(machine(), [compared(2.0, name="resnet50:res2a_shortcut", count=4)]),
        width=report.PIPE_WIDTH,
    )
    assert text.isascii()
    assert "resnet50:res2a_shortcut x4" in text
    assert "nhwc" in text
    assert "measured peak 100 GFLOP/s" in text
    assert "forward: 0.400 ms in all" in text
    assert "peer 0.800 ms" in text


@pytest.mark.parametrize(
    ("width", "there", "gone"), [(80, "ratio", "error"), (120, "error", "compile"), (170, "compile", "")]
)
def test_a_narrow_table_leaves_out_columns_and_cuts_no_cell(width, there, gone):
    rows = [compared(2.0, name="lenet:conv1", pass_name=p, spread_ms=0.000748) for p in ("forward", "backward_weight")]
    out = io.StringIO()
    Console(file=out, width=width).print(report.table(Report(machine(), rows), Console(width=width)))
    text = out.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert there in text
    assert not gone or gone not in text
    assert all(cell in text for cell in ("lenet:conv1", "backward_weight", "0.100", "0.200", "2.00"))


def test_csv_reads_back():
    found = Report(machine(), [row(name='a,"b"'), row(name="c")])
    rows = list(csv.DictReader(io.StringIO(report.as_csv(found))))
    assert [r["name"] for r in rows] == ['a,"b"', "c"]
    assert float(rows[0]["median_ms"]) == 0.1


def test_comparison_with_an_older_report(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(Report(machine(), [row(median_ms=0.4), row(name="gone")]).as_dict()))
    old = report.read_old(path)
    text = printed(
        Report(machine(), [row(), row(name="new"), row(dtype="float64")]),
        lambda found, out: report.show_comparison(found, old, out),
    )
    assert "4.00" in text
    assert "1 of 3 rows stand in the older report; geometric mean of old / new: 4.00" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": [{}]}', '{"rows": 3}', '{"rows": [3]}'])
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(DataError, match="is not a report to compare with"):
        report.read_old(path)


def test_roofline_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot is drawn by matplotlib")
    path = tmp_path / "roofline.png"
    report.plot_roofline(Report(machine(), [row(), row(pass_name="backward_input")]), path)
    assert path.read_bytes().startswith(b"\x89PNG")


class FakePeer:
    """A peer whose channels_last layout is the faster one."""

    def __init__(self):
        self.prepared = []

    def prepare(self, request):
        self.prepared.append(request)

    def turn(self, effort):
        return {"nchw": [3.0, 3.0], "channels_last": [2.0, 2.0]}


def test_the_better_layout_counts():
    peer = FakePeer()
    case = Case(
        "n",
        "d",
        "forward",
        "direct",
        1,
        10,
        10,
        lambda: None,
        lambda: 0.5,
        {"work": "conv"},
        images=4,
    )
    found = measure(case, machine(), Effort(3, 0.0), peer)
    assert peer.prepared == [{"work": "conv"}]
    assert (found.peer_layout, found.peer_median_ms) == ("channels_last", 2000.0)
    assert found.ratio == pytest.approx(2000.0 / found.median_ms)
    assert found.images_per_s == pytest.approx(4e3 / found.median_ms)
    assert found.max_relative_error == 0.5


def test_the_machine_has_a_name():
    assert cpu_name()
    assert all(name.startswith("L") and size for name, size in cache_sizes().items())
