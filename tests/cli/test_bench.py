"""`fastcnn bench`: what it prints and writes, and one sentence for what it cannot do."""

import json

import pytest
from click.testing import CliRunner

from fastcnn.bench.peer import process
from fastcnn.bench.roofline import record
from fastcnn.cli.main import main
from fastcnn.kernels.cpu.runtime.launch import thread_count

QUICK = ["--seconds", "0", "--repeats", "1"]
SHAPE = "mb1ic2ih5oc3kh3ph1"


pytestmark = pytest.mark.usefixtures("quick_roofs")


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *arguments])


def refused(status, *arguments):
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


def test_layer_report(tmp_path):
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv")}
    result = run(
        "--layer", "conv", "--shapes", f'{SHAPE}n"small"*2', "--shapes", "mb2ic4iw9oc4kw3", *QUICK,
        "--json", str(files["json"]), "--csv", str(files["csv"]),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "measured peak" in result.output
    assert "small x2" in result.output
    content = json.loads(files["json"].read_text())
    assert [(r["name"], r["pass"]) for r in content["rows"]] == [
        (name, p) for p in ("forward", "backward_input", "backward_weight") for name in ("small", "")
    ]
    for one in content["rows"]:
        assert one["algorithm"] == "direct"
        assert one["median_ms"] > 0
        assert one["gflops"] > 0
        assert one["max_relative_error"] < 1e-5
        assert one["bound"] in ("compute", "memory")
        assert one["ratio"] is None
    assert content["geomean_ratio"] is None
    assert len(files["csv"].read_text().splitlines()) == 1 + len(content["rows"])

    again = run("--layer", "conv", "--shapes", f'{SHAPE}n"small"*2', *QUICK, "--compare", str(files["json"]))
    assert again.exit_code == 0, again.output
    assert "3 of 3 rows stand in the older report" in again.output
    assert "only in the older report: mb2ic4iw9oc4ow7kw3pw0 forward" in again.output


def test_ceilings_are_kept_and_only_rise(read):
    threads = thread_count()
    high = record.Ceilings(1e9, 1e-6)
    record.keep(threads, "float32", high)
    result = run("--layer", "conv", "--shapes", SHAPE, "--pass", "forward", *QUICK)
    assert result.exit_code == 0, result.output
    assert "measured peak 1000000000 GFLOP/s" in result.output
    (entry,) = read(record.ceilings_file()).values()
    assert entry["peak_gflops"] == 1e9
    assert entry["bandwidth_gbytes_per_s"] > 1e-6


@pytest.mark.parametrize(
    ("layer", "shape", "passes"),
    [
        ("depthwise", "mb1g3ic3ih5oc3kh3ph1", 3),
        ("conv_transpose", "mb1ic2ih5oc3kh4sh2ph1", 3),
        ("pool", "avg_np:mb1ic3ih6kh3sh2ph1", 2),
        ("linear", "mb3ic7oc5", 3),
        ("activation", "mb2ic3ih5", 2),
    ],
)
def test_every_layer(layer, shape, passes, tmp_path, read):
    out = tmp_path / "out.json"
    result = run("--layer", layer, "--shapes", shape, "--batch", "2", *QUICK, "--json", str(out))
    assert result.exit_code == 0, result.output
    rows = read(out)["rows"]
    assert len(rows) == passes
    for one in rows:
        assert one["batch"] == 2
        assert one["max_relative_error"] < 1e-5
        assert one["scratch_bytes"] >= 0
        assert one["flops"] > 0


def test_random_shapes(tmp_path, read):
    out = tmp_path / "out.json"
    choices = ("--layer", "conv", "--shapes", "random:3:4", "--pass", "forward", "--batch", "1")
    result = run(*choices, *QUICK, "--json", str(out))
    assert result.exit_code == 0, result.output
    rows = read(out)["rows"]
    assert [one["name"] for one in rows] == ["random:4:1", "random:4:2", "random:4:3"]
    assert all(one["flops"] <= 4e9 and one["batch"] == 1 for one in rows)


def test_choices_narrow_the_rows(tmp_path):
    out = tmp_path / "out.json"
    result = run(
        "--layer", "conv", "--shapes", SHAPE, "--pass", "backward_weight,forward",
        "--algorithm", "direct", "--batch", "3", "--dtype", "float64",
        "--threads", "1", *QUICK, "--json", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert [r["pass"] for r in content["rows"]] == ["backward_weight", "forward"]
    assert {(r["batch"], r["threads"], r["dtype"]) for r in content["rows"]} == {(3, 1, "float64")}
    assert all(r["max_relative_error"] < 1e-13 for r in content["rows"])


def test_model_report_against_torch(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is the peer")
    out = tmp_path / "out.json"
    result = run(
        "--model", "lenet5", "--batch", "2", "--against", "torch", "--peer-memory", "kept", *QUICK, "--json", str(out)
    )
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert [r["pass"] for r in content["rows"]] == ["train", "infer"]
    for one in content["rows"]:
        assert one["ratio"] == pytest.approx(one["peer_median_ms"] / one["median_ms"])
        assert one["images_per_s"] > 0
        assert one["max_relative_error"] < 1e-4
    assert content["geomean_ratio"] > 0
    assert "torch" in content["machine"]["versions"]
    assert content["peer"]["memory"] == "kept"


def test_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot is drawn by matplotlib")
    out = tmp_path / "roofline.png"
    assert run("--layer", "conv", "--shapes", SHAPE, *QUICK, "--plot", str(out)).exit_code == 0
    assert out.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give either --layer"),
        (["--layer", "conv", "--model", "lenet5"], "Give either --layer"),
        (["--layer", "attention"], "is not one of 'conv', 'depthwise', 'conv_transpose', 'pool'"),
        (["--layer", "conv", "--shapes", "resnet51"], "The sets are lenet, alexnet"),
        (["--layer", "conv", "--shapes", "ic3ih5oc4kh6"], "more than the padded image"),
        (["--layer", "conv", "--shapes", "ic3" * 200], "ic is given twice"),
        (
            ["--layer", "conv", "--pass", "forward,sideways"],
            "'sideways' is no pass: choose of forward",
        ),
        (["--layer", "conv", "--algorithm", "fast"], "choose of auto, direct"),
        (["--layer", "conv", "--batch", "0"], "--batch"),
        (["--layer", "conv", "--shapes", "random:x"], "write random:N or random:N:SEED"),
        (["--layer", "conv", "--shapes", "random:1", "--batch", "1000000000"], "give a smaller --batch"),
        (["--layer", "pool", "--shapes", "random:3"], "The sets are lenet, alexnet"),
        (["--layer", "pool", "--pass", "backward_weight"], "choose of forward, backward_input"),
        (["--layer", "linear", "--algorithm", "winograd"], "choose of auto, direct"),
        (["--layer", "depthwise", "--shapes", SHAPE], "has g (=1) equal to ic (=2)"),
        (
            ["--layer", "conv", "--shapes", "ic3ih8oc4kh3", "--shapes", "ic3ih8oc4kh4", "--algorithm", "winograd"],
            "mb2ic3ih8oc4oh5kh4ph0, forward: algorithm 'winograd' takes 3x3",
        ),
        (["--layer", "conv", "--shapes", SHAPE, "--plot", "roofline.txt"], "use one of"),
        (["--layer", "conv", "--shapes", SHAPE, "--threads", "100000"], "must lie between 1 and"),
        (["--model", "lenet6"], "lenet5"),
        (["--model", "autoencoder"], "'autoencoder' gives no scores"),
        (["--model", "lenet5", "--shapes", SHAPE], "--shapes goes with --layer"),
        (["--model", "lenet5", "--pass", "forward"], "--pass goes with --layer"),
        (["--layer", "conv", "--json", "no/such/folder/out.json"], "does not exist"),
        (["--layer", "conv", "--compare", "no-such-file.json"], "does not exist"),
    ],
)
def test_bad_usage(arguments, words):
    text = " ".join(refused(2, *arguments).split())
    assert words in text


def test_failed_runs(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_text("ic3ih5\n")
    assert "broken, line 1" in refused(1, "--layer", "conv", "--shapes", str(broken))
    assert "is not a report" in refused(1, "--layer", "conv", "--compare", str(broken))
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "fastcnn[oracle]"' in refused(1, "--layer", "conv", "--against", "torch")


def test_help_has_examples():
    text = run("--help").output
    assert "fastcnn bench --model lenet5 --batch 128 --against torch" in text
    assert "deepbench" in text
    assert "random:100:7" in text
    assert "[dcgan], [unet]" in text
    assert "allocates its own at every call" in " ".join(text.split())


def test_profile_of_a_network(tmp_path):
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv")}
    result = run(
        "--model", "lenet5", "--batch", "2", "--profile", *QUICK, "--json", str(files["json"]), "--csv",
        str(files["csv"]),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "lenet5, batch 2, inference" in result.output
    content = json.loads(files["json"].read_text())
    assert {row["run"] for row in content["rows"]} == {"train", "infer"}
    assert {row["kind"] for row in content["kinds"]} >= {"Conv2d", "Linear", "optimizer", "python"}
    assert len(files["csv"].read_text().splitlines()) == 1 + len(content["rows"])


@pytest.mark.parametrize("more", [["--against", "torch"], ["--plot", "roof.png"], ["--shapes", "resnet50"]])
def test_profile_refuses_what_it_does_not_measure(more):
    assert more[0] in refused(2, "--model", "lenet5", "--profile", *more)


def test_profile_needs_a_network():
    assert "--model" in refused(2, "--layer", "conv", "--profile")
