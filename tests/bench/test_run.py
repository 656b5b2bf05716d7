"""Rows, roofs and reports, from measurements made up here."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from fastcnn.bench.cases.case import Case
from fastcnn.bench.machine import cache_sizes
from fastcnn.bench.report import table
from fastcnn.bench.roofline import peak
from fastcnn.bench.run import Report, against_roofs, measure, measure_all
from fastcnn.bench.timing import Effort
from fastcnn.kernels.cpu.runtime import workspace


def test_bound_is_the_roof_that_takes_longer(machine, row):
    for flops, bound, percent in ((2_000_000, "compute", 20.0), (900_000, "memory", 10.0)):
        one = row(flops=flops)
        against_roofs(one, machine())
        assert one.bound == bound
        assert one.percent_of_peak == 20.0
        assert one.percent_of_roof == pytest.approx(percent)


def test_json_keys(machine, compared):
    found = Report(machine(), [compared(2.0), compared(8.0, pass_name="backward_input")])
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert set(content) >= {"machine", "rows", "geomean_ratio"}
    assert content["geomean_ratio"] == pytest.approx(4.0)
    assert content["geomean_ratio_by_pass"] == pytest.approx({"forward": 2.0, "backward_input": 8.0})
    assert set(content["rows"][0]) >= {
        "name", "descriptor", "pass", "algorithm", "median_ms", "gflops", "percent_of_peak",
        "gbytes_per_s", "bound", "max_relative_error", "peer_median_ms", "ratio", "layer", "scratch_bytes",
    }  # fmt: skip
    assert content["rows"][0]["pass"] == "forward"
    assert content["machine"]["peak_gflops"] == 100.0


def test_totals_weigh_rows_by_their_count(machine, compared):
    found = Report(machine(), [compared(2.0, count=3), compared(0.25), compared(4.0, pass_name="backward_input")])
    content = found.as_dict()
    assert content["total_ratio"] == pytest.approx((3 * 2.0 + 0.25 + 4.0) / 5)
    assert content["total_ratio_by_pass"] == pytest.approx({"forward": 6.25 / 4, "backward_input": 4.0})
    assert content["ratio_distribution"]["rows"] == 3
    assert content["ratio_distribution_by_pass"]["forward"]["share_below_1"] == 0.5
    lines = table.summary(found)
    assert lines[0].startswith("forward: 0.400 ms in all, counts included (20 GFLOP/s); peer 0.625 ms, ratio 1.56; ")
    assert lines[0].endswith("geometric mean of the ratios, each row once: 0.707")
    assert lines[2].startswith("all passes: 0.500 ms in all, counts included (20 GFLOP/s); peer 1.03 ms, ratio 2.05; ")


def test_a_report_without_a_peer_has_no_ratios(machine, row, printed):
    found = Report(machine(), [row(), row(pass_name="backward_input")])
    content = found.as_dict()
    assert content["total_ratio"] is None
    assert content["ratio_distribution"] is None
    text = printed(table.show, found)
    assert "peer" not in text
    assert "ratio" not in text


@pytest.mark.parametrize(("memory", "words"), [("fresh", "as users have it"), ("kept", "kept by its process")])
def test_the_peer_is_told_with_its_memory(machine, compared, printed, memory, words):
    peer = {"name": "torch", "version": "2", "memory": memory}
    found = Report(machine(), [compared(2.0)], peer)
    assert f"against torch 2, its memory {words}" in printed(table.show, found)
    assert found.as_dict()["peer"] == peer


def test_slower_rows_are_listed(machine, compared, printed):
    rows = [compared(ratio, descriptor=f"mb1ic{n}ih5oc1kh3") for n, ratio in enumerate((0.5, 1.5, 0.25), 1)]
    text = printed(table.show, Report(machine(), rows))
    assert "slower than the peer: 2 of 3 rows" in text
    listed = text[text.index("lowest ratios") :]
    assert listed.index("mb1ic3ih5oc1kh3") < listed.index("mb1ic1ih5oc1kh3")
    assert "mb1ic2ih5oc1kh3" not in listed
    assert "below 1" not in text
    faster = printed(table.show, Report(machine(), [compared(1.5)]))
    assert "slower than the peer: 0 of 1 rows" in faster
    assert "lowest ratios" not in faster


def test_many_rows_get_percentiles_and_their_ten_lowest(machine, compared, printed):
    ratios = [1 + n / 100 for n in range(table.ENOUGH - 1)] + [0.75]
    rows = [compared(ratio, descriptor=f"mb{n}ic1ih5oc1kh3") for n, ratio in enumerate(ratios, 1)]
    text = printed(table.show, Report(machine(), rows))
    spread = next(line for line in text.splitlines() if line.startswith("|forward") and "5.0%" in line)
    assert [cell.strip() for cell in spread.strip("|").split("|")] == [
        "forward", "20", "0.750", "0.988", "1.04", "1.08", "1.13", "1.17", "1.18", "5.0%",
    ]  # fmt: skip
    listed = text[text.index("lowest ratios") :]
    assert listed.count("forward") == table.MOST_SLOWEST
    assert listed.index("mb20ic1") < listed.index("mb1ic1")


def test_a_nan_error_is_null_in_json_and_seen_in_the_table(machine, row, printed):
    found = Report(machine(), [row(max_relative_error=float("nan"))])
    assert found.as_dict()["rows"][0]["max_relative_error"] is None
    assert "nan" in printed(table.show, found)


def test_table_is_ascii_and_whole_in_a_pipe(machine, compared, printed):
    found = Report(machine(), [compared(2.0, name="resnet50:res2a_shortcut", count=4)])
    text = printed(table.show, found, width=table.PIPE_WIDTH)
    assert text.isascii()
    assert "resnet50:res2a_shortcut x4" in text
    assert "nhwc" in text
    assert "measured peak 100 GFLOP/s" in text
    assert "forward: 0.400 ms in all" in text
    assert "peer 0.800 ms" in text
    assert "scratch" in text
    assert "1.50" in text  # MiB of it


@pytest.mark.parametrize(
    ("width", "there", "gone"),
    [(80, "ratio", "error"), (120, "error", "compile"), (163, "compile", "scratch"), (180, "scratch", "")],
)
def test_a_narrow_table_leaves_out_columns_and_cuts_no_cell(width, there, gone, machine, compared):
    rows = [compared(2.0, name="lenet:conv1", pass_name=p, spread_ms=0.000748) for p in ("forward", "backward_weight")]
    out = io.StringIO()
    Console(file=out, width=width).print(table.table(Report(machine(), rows), Console(width=width)))
    text = out.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert there in text
    assert not gone or gone not in text
    assert all(cell in text for cell in ("lenet:conv1", "backward_weight", "0.100", "0.200", "2.00"))


def test_csv_reads_back(machine, row):
    found = Report(machine(), [row(name='a,"b"'), row(name="c")])
    rows = list(csv.DictReader(io.StringIO(table.as_csv(found))))
    assert [r["name"] for r in rows] == ['a,"b"', "c"]
    assert float(rows[0]["median_ms"]) == 0.1


def test_scratch_is_that_of_the_call_alone(machine):
    workspace.scratch("left from before", 1000, np.dtype(np.float32))

    def call():
        workspace.scratch("needed", 100, np.dtype(np.float32))

    case = Case("conv", "n", "d", "forward", "direct", 1, 10, 10, call, lambda: 0.0, {})
    assert measure(case, machine(), Effort(1, 0.0), None).scratch_bytes == 400
    workspace.release()


class FakePeer:
    """A peer whose channels_last layout is the faster one."""

    def __init__(self):
        self.prepared = []

    def prepare(self, request):
        self.prepared.append(request)

    def turn(self, effort):
        return {"nchw": [3.0, 3.0], "channels_last": [2.0, 2.0]}


def test_the_better_layout_counts(machine):
    peer = FakePeer()
    case = Case(
        "conv",
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


def test_cache_sizes_have_a_unit():
    assert all(name.startswith("L") and size.endswith("iB") for name, size in cache_sizes().items())


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({"least_flops": 20_000_000, "flops": 20_000_000}, "!", "100 GFLOP/s, which is too low"),
        ({"least_flops": 0, "flops": 18_800_000, "algorithm": "winograd"}, "*", "products of direct sums"),
        ({"least_flops": 9_000_000, "flops": 11_000_000}, "*", "taps on padding"),
        ({"least_flops": 10_100_000, "flops": 10_100_000}, "", ""),  # noise
        ({"least_flops": 9_000_000, "flops": 9_000_000}, "", ""),
    ],
)
def test_a_row_above_the_peak_is_explained(machine, row, printed, changes, mark, words):
    one = row(gflops=changes["flops"] / 1e5, **changes)
    against_roofs(one, machine())
    found = Report(machine(), [one])
    assert table.peak_mark(one, machine()) == mark
    assert found.as_dict()["peak_is_too_low"] == (mark == "!")
    text = printed(table.show, found)
    assert f"{one.percent_of_peak:.1f}{mark}" in text
    assert words in text
    assert ("too low" in text) == (mark == "!")
    assert ("direct sums" in text) == (mark == "*")


def test_a_peak_that_a_kernel_passes_is_measured_again(machine, monkeypatch):
    measured = iter((90.0, 150.0, 400.0))
    monkeypatch.setattr(peak, "measure", lambda threads, dtype: next(measured))
    one = machine()
    one.measure_peak_again(80.0)
    assert one.peak_gflops == 100.0
    one.measure_peak_again(140.0)
    assert one.peak_gflops == 150.0
    assert next(measured) == 400.0


def test_operations_are_told_in_table_and_csv(machine, row, printed):
    found = Report(machine(), [row(flops=2_340_000)])
    text = printed(table.show, found)
    assert "MFLOP" in text
    assert "2.34" in text
    (read,) = csv.DictReader(io.StringIO(table.as_csv(found)))
    assert (read["flops"], read["complete"]) == ("2340000", "True")


def interrupted_after(count, monkeypatch, machine):
    """Measure three cases, of which the one after `count` is interrupted."""
    monkeypatch.setattr(type(machine()), "measure_peak", lambda self: None)
    monkeypatch.setattr(type(machine()), "measure_bandwidth", lambda self: None)
    monkeypatch.setattr(type(machine()), "keep_ceilings", lambda self: None)

    def case(number):
        def call():
            if number == count:
                raise KeyboardInterrupt

        return Case("conv", f"n{number}", "d", "forward", "direct", 1, 10, 10, call, lambda: 0.0, {})

    return measure_all([lambda n=n: case(n) for n in range(3)], machine(), Effort(1, 0.0), None)


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupt_keeps_the_rows_so_far(machine, monkeypatch, printed, count):
    found = interrupted_after(count, monkeypatch, machine)
    assert [row.name for row in found.rows] == ["n0", "n1"][:count]
    assert not found.complete
    assert found.rows[0].bound
    content = found.as_dict()
    assert (content["complete"], content["planned_rows"]) == (False, 3)
    assert f"incomplete: interrupted after {count} of 3 rows." in printed(table.show, found)
    assert [row["complete"] for row in csv.DictReader(io.StringIO(table.as_csv(found)))] == ["False"] * count


def test_a_whole_run_is_complete(machine, monkeypatch):
    content = interrupted_after(3, monkeypatch, machine).as_dict()
    assert (content["complete"], content["planned_rows"]) == (True, 3)


def test_an_interrupt_before_any_row_ends_the_run(machine, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        interrupted_after(0, monkeypatch, machine)
