"""Ceilings kept on disk: the highest stays, and a broken file costs no more than a new measurement."""

import json

import numpy as np
import pytest

from fastcnn.bench.roofline import peak, record
from fastcnn.bench.roofline.record import Ceilings


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "cache_folder", lambda: tmp_path)
    return tmp_path / record.FILE


def test_the_highest_stays():
    assert record.kept(2) is None
    assert record.keep(2, np.float32, Ceilings(100.0, 10.0)) == (100, 10)
    assert record.keep(2, np.float32, Ceilings(90.0, 12.0)) == (100, 12)
    assert record.keep(2, np.float32, Ceilings(1.0, 1.0)) == (100, 12)
    assert record.kept(2) == (100, 12)


def test_each_cpu_type_and_thread_count_has_its_own(monkeypatch):
    record.keep(1, np.float32, Ceilings(1.0, 10.0))
    record.keep(2, np.float32, Ceilings(2.0, 20.0))
    record.keep(1, np.float64, Ceilings(3.0, 30.0))
    assert [record.kept(*how)[0] for how in ((1, np.float32), (2, np.float32), (1, np.float64))] == [1, 2, 3]
    monkeypatch.setattr(record, "cpu_name", lambda: "another CPU")
    assert record.kept(1) is None


def test_measured_once(monkeypatch, file):
    found = iter([100.0])
    monkeypatch.setattr(peak, "measure", lambda threads, dtype: next(found))
    monkeypatch.setattr(peak, "bandwidth", lambda threads: 10.0)
    assert record.ceilings(2) == record.ceilings(2) == (100, 10)
    (entry,) = json.loads(file.read_text()).values()
    assert len(entry["cache_bytes"]) == 3


@pytest.mark.parametrize("content", ["", "[]", "3", '{"half', "\xff"])
def test_a_broken_file_is_replaced(file, content):
    file.write_text(content, encoding="latin-1")
    assert record.kept(2) is None
    record.keep(2, np.float32, Ceilings(100.0, 10.0))
    assert record.kept(2) == (100, 10)


def test_a_broken_entry_is_replaced(file):
    record.keep(2, np.float32, Ceilings(100.0, 10.0))
    (key,) = json.loads(file.read_text())
    for entry in (None, 3, {}, {"peak_gflops": "x", "bandwidth_gbytes_per_s": 1}):
        file.write_text(json.dumps({key: entry}))
        assert record.kept(2) is None
        record.keep(2, np.float32, Ceilings(50.0, 5.0))
        assert record.kept(2) == (50, 5)


def test_a_changed_digit_is_no_ceiling(file):
    record.keep(2, np.float32, Ceilings(100.0, 10.0))
    file.write_text(file.read_text().replace("100.0", "900.0"))
    assert record.kept(2) is None
    assert record.keep(2, np.float32, Ceilings(90.0, 9.0)) == (90, 9)


def test_a_folder_that_cannot_be_written_keeps_none(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "cache_folder", lambda: tmp_path / "absent")
    assert record.keep(2, np.float32, Ceilings(100.0, 10.0)) == (100, 10)
    assert record.kept(2) is None
