"""Profiles: every call of a run is there, with the work it does, and the rows add up to the whole."""

import csv
import io

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.bench import profile
from fastcnn.bench.cases import model
from fastcnn.bench.profile import Stage
from fastcnn.bench.report import profile_table, table
from fastcnn.bench.timing import Effort
from fastcnn.layers.base import Call

QUICK = Effort(3, 0.0)


@pytest.fixture(scope="module")
def found(machine):
    return profile.profile("lenet5", 4, machine(), QUICK)


def test_calls_stand_in_the_order_of_a_step(found):
    rows = [row for row in found.rows if row.run == "train"]
    passes = list(dict.fromkeys(row.pass_name for row in rows))
    assert passes == ["input", "forward", "backward", "update", ""]
    layers = list(dict.fromkeys(row.layer for row in rows if row.layer and row.pass_name == "forward"))
    assert layers == ["conv1", "conv2", "linear1", "linear2", "linear3"]
    back = list(dict.fromkeys(row.layer for row in rows if row.layer and row.pass_name == "backward"))
    assert back == layers[::-1]
    assert {row.fused for row in rows if row.layer == "linear1"} == {"ReLU"}
    assert [row.kind for row in rows if not row.layer] == ["input", "loss", "loss", "check", "optimizer", "python"]


def test_rows_hold_the_work_of_the_whole(found):
    for case in model.cases("lenet5", 4, "float32"):
        rows = [row for row in found.rows if row.run == case.pass_name]
        assert sum(row.flops for row in rows) == case.flops
        assert min(row.bytes for row in rows if row.kind != profile.REST) > 0
        assert found.whole_ms[case.pass_name] > 0
        # Medians of rows and of wholes are taken over the same rounds: they agree but for the noise.
        assert sum(row.median_ms for row in rows) == pytest.approx(found.whole_ms[case.pass_name], rel=0.5)
        for row in rows:
            assert row.share == pytest.approx(100 * row.median_ms / found.whole_ms[case.pass_name])


def test_kinds_are_the_sums_of_rows(found):
    kinds = found.by_kind()
    for run in ("train", "infer"):
        ours = [row for row in kinds if row.run == run]
        rows = [row for row in found.rows if row.run == run]
        assert [row.median_ms for row in ours] == sorted((row.median_ms for row in ours), reverse=True)
        for name in ("flops", "bytes", "median_ms", "share"):
            assert sum(getattr(row, name) for row in ours) == pytest.approx(sum(getattr(row, name) for row in rows))
    (forward,) = [row for row in kinds if (row.run, row.kind, row.pass_name) == ("train", "Linear", "forward")]
    assert forward.flops == 2 * 4 * (400 * 120 + 120 * 84 + 84 * 10)


def test_a_table_and_csv_hold_every_row(found, printed):
    text = printed(profile_table.show, found)
    assert "lenet5, batch 4, training step" in text
    assert "conv_pool_backward" in text
    rows = list(csv.DictReader(io.StringIO(table.as_csv(found))))
    assert [row["kernel"] for row in rows] == [row.kernel for row in found.rows]
    assert rows[1]["pass"] == "forward"
    content = found.as_dict()
    assert (len(content["rows"]), content["batch"]) == (len(found.rows), 4)


LAYERS = (
    fc.Conv2d(8, 12, 3, stride=2, padding=1, groups=2), fc.Conv2d(8, 8, 3, groups=8), fc.Conv2d(8, 4, 1, bias=False),
    fc.ConvTranspose2d(8, 6, 4, stride=2, groups=2), fc.SeparableConv2d(8, 5, 3, padding=1), fc.MaxPool2d(2), fc.ReLU(),
)  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_products_are_those_of_the_layer(layer):
    """Every pass of a layer whose input has a gradient does as many products as the forward one."""
    x = fc.Input(12, 11, 8)
    net = fc.Graph(x, layer(fc.Conv2d(8, 8, 1, name="before")(x)), fuse=False)
    plan = net.plan(3, True, "parameters")
    expected = 2 * 3 * layer.multiply_adds(layer.output_shape((12, 11, 8)))
    for parts, times in ((plan.forward_parts, 1), (plan.backward_parts, 2)):
        name = "forward" if times == 1 else "backward"
        stages = [
            stage
            for stage in profile.layer_stages(parts, name, plan.backend.program.Program)
            if stage.layer != "before"
        ]
        assert sum(stage.flops for stage in stages) == times * expected
        assert all(stage.kind == type(layer).__name__ for stage in stages)


def test_the_algorithm_is_the_one_that_serves():
    x = fc.Input(56, 56, 64)
    net = fc.Graph(x, fc.Conv2d(64, 64, 3, padding=1)(fc.Conv2d(64, 64, 3, padding=1, algorithm="direct")(x)))
    plan = net.plan(1, True, "parameters")
    assert [profile.algorithm_of(calls[0]) for _, calls in plan.forward_parts] == ["direct", "winograd"]
    back = {(step.nodes[0], profile.kernel_name(call)): call for step, calls in plan.backward_parts for call in calls}
    direct, free = (step.nodes[0] for step, _ in plan.forward_parts)
    assert profile.algorithm_of(back[direct, "conv_backward_weight"]) == "direct"
    assert profile.algorithm_of(back[free, "conv_backward_input"]) == "winograd"
    assert profile.algorithm_of(back[free, "conv_backward_bias"]) == ""


def test_a_convolution_that_measures_is_shown_as_one():
    net = fc.Sequential(fc.Conv2d(64, 64, 3, padding=1), fc.BatchNorm2d(64), fc.Conv2d(64, 64, 3, padding=1),
                        input_shape=(56, 56, 64))  # fmt: skip
    plan = net.plan(1, True, "parameters")
    calls = [call for _, part in (*plan.forward_parts, *plan.backward_parts) for call in part]
    measured = [call for call in calls if "measured" in profile.kernel_name(call)]
    assert {profile.kernel_name(call) for call in measured} == {
        "conv_measured_forward", "conv_measured_backward_input",
    }  # fmt: skip
    assert all(profile.algorithm_of(call) == "winograd" for call in measured)
    assert all(profile.multiply_adds(call) == 56 * 56 * 9 * 64 * 64 for call in measured)


def test_arrays_count_once():
    a, b = np.zeros((4, 4), np.float32), np.zeros(10)
    assert profile.array_bytes([a, 3, (b, [a, None]), a.reshape(-1), b[:2]]) == 64 + 80 + 16


def test_runs_and_wholes_take_turns():
    order: list[str] = []
    stages = [Stage("", "", "", "", "", "", 0, 0, lambda name=name: order.append(name)) for name in "ab"]
    times, wholes = profile.measure(stages, lambda: order.append("whole"), QUICK)
    assert (times.shape, wholes.shape) == ((3, 2), (3,))
    assert order == ["a", "b", "whole"] * (3 + profile.WARM_ROUNDS)


def test_a_call_without_a_filter_counts_no_products():
    call: Call = (np.copyto, (np.zeros(3), np.ones(3)))
    assert (profile.multiply_adds(call), profile.algorithm_of(call)) == (0, "")
