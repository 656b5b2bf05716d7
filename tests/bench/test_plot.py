"""The roofline of made-up rows."""

import builtins

import pytest

from fastcnn.bench import plot
from fastcnn.bench.run import Report
from fastcnn.errors import ArgumentError, BackendError


@pytest.fixture
def found(machine, row):
    """A report of one shape in two passes, and of another one."""
    return Report(
        machine(), [row(), row(pass_name="backward_input", gflops=10.0), row(descriptor="b", name="b", gflops=90.0)]
    )


def test_the_roofs_and_the_names(machine, row, found):
    assert plot.intensity(found.rows[0]) == 20.0
    assert plot.roof(found.rows[0], machine()) == 100.0
    assert plot.roof(row(flops=500_000), machine()) == 50.0
    assert plot.named_rows(found) == [found.rows[1], found.rows[2]]


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_a_file_of_each_kind(tmp_path, found, ending, monkeypatch):
    pytest.importorskip("matplotlib", reason="the plot is drawn by matplotlib")
    monkeypatch.delenv("DISPLAY", raising=False)
    path = tmp_path / f"roofline.{ending}"
    plot.check(path)
    plot.plot_roofline(found, path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    if ending == "svg":
        text = path.read_text()
        assert all(f"<!-- {label} -->" in text for label in ("forward", "backward_input", "conv1", "b"))
        assert "measured roofs: 10 GB/s, 100 GFLOP/s" in text


@pytest.mark.parametrize("name", ["roofline", "roofline.txt", "a.png.json"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(ArgumentError, match=r"use one of .*png"):
        plot.check(tmp_path / name)


def test_no_matplotlib(tmp_path, monkeypatch):
    usual = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return usual(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match=r'pip install "fastcnn\[plot\]"'):
        plot.check(tmp_path / "roofline.png")
