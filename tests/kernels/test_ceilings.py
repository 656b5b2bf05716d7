"""Ceilings kept on disk: the highest stays, and a broken file costs no more than a new measurement."""

import json

import numpy as np
import pytest

from fastcnn.kernels.cpu import ceilings, peak
from fastcnn.kernels.cpu.ceilings import Ceilings


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(ceilings, "cache_folder", lambda: tmp_path)
    return tmp_path / ceilings.FILE


def test_the_highest_stays():
    assert ceilings.kept(2) is None
    assert ceilings.keep(2, np.float32, Ceilings(100.0, 10.0)) == (100, 10)
    assert ceilings.keep(2, np.float32, Ceilings(90.0, 12.0)) == (100, 12)
    assert ceilings.keep(2, np.float32, Ceilings(1.0, 1.0)) == (100, 12)
    assert ceilings.kept(2) == (100, 12)


def test_each_cpu_type_and_thread_count_has_its_own(monkeypatch):
    ceilings.keep(1, np.float32, Ceilings(1.0, 10.0))
    ceilings.keep(2, np.float32, Ceilings(2.0, 20.0))
    ceilings.keep(1, np.float64, Ceilings(3.0, 30.0))
    assert [ceilings.kept(*how)[0] for how in ((1, np.float32), (2, np.float32), (1, np.float64))] == [1, 2, 3]
    monkeypatch.setattr(ceilings, "cpu_name", lambda: "another CPU")
    assert ceilings.kept(1) is None


def test_measured_once(monkeypatch, file):
    found = iter([100.0])
    monkeypatch.setattr(peak, "measure", lambda threads, dtype: next(found))
    monkeypatch.setattr(peak, "bandwidth", lambda threads: 10.0)
    assert ceilings.ceilings(2) == ceilings.ceilings(2) == (100, 10)
    (entry,) = json.loads(file.read_text()).values()
    assert len(entry["cache_bytes"]) == 3


@pytest.mark.parametrize("content", ["", "[]", "3", '{"half', "\xff"])
def test_a_broken_file_is_replaced(file, content):
    file.write_text(content, encoding="latin-1")
    assert ceilings.kept(2) is None
    ceilings.keep(2, np.float32, Ceilings(100.0, 10.0))
    assert ceilings.kept(2) == (100, 10)


def test_a_broken_entry_is_replaced(file):
    ceilings.keep(2, np.float32, Ceilings(100.0, 10.0))
    (key,) = json.loads(file.read_text())
    for entry in (None, 3, {}, {"peak_gflops": "x", "bandwidth_gbytes_per_s": 1}):
        file.write_text(json.dumps({key: entry}))
        assert ceilings.kept(2) is None
        ceilings.keep(2, np.float32, Ceilings(50.0, 5.0))
        assert ceilings.kept(2) == (50, 5)


def test_a_changed_digit_is_no_ceiling(file):
    ceilings.keep(2, np.float32, Ceilings(100.0, 10.0))
    file.write_text(file.read_text().replace("100.0", "900.0"))
    assert ceilings.kept(2) is None
    assert ceilings.keep(2, np.float32, Ceilings(90.0, 9.0)) == (90, 9)


def test_a_folder_that_cannot_be_written_keeps_none(monkeypatch, tmp_path):
    monkeypatch.setattr(ceilings, "cache_folder", lambda: tmp_path / "absent")
    assert ceilings.keep(2, np.float32, Ceilings(100.0, 10.0)) == (100, 10)
    assert ceilings.kept(2) is None
