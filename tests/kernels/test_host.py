"""What the system tells of the machine, on systems made up here."""

import subprocess
import sys

import pytest

from fastcnn.kernels.cpu.runtime import cpu_info

KIB = 1 << 10


@pytest.fixture(autouse=True)
def fresh():
    """Ask the system anew, before and after."""
    for function in (cpu_info.cache_bytes, cpu_info.cpu_name):
        function.cache_clear()
    yield
    for function in (cpu_info.cache_bytes, cpu_info.cpu_name):
        function.cache_clear()


def folder_of_caches(path, *caches):
    for number, (level, kind, size) in enumerate(caches):
        index = path / f"index{number}"
        index.mkdir()
        for name, value in {"level": level, "type": kind, "size": size}.items():
            (index / name).write_text(f"{value}\n")
    return path


@pytest.mark.parametrize(
    ("caches", "sizes"),
    [
        (
            [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "1024K"), (3, "Unified", "32M")],
            (48 * KIB, 1024 * KIB, 32768 * KIB),
        ),
        ([(1, "Data", "65536"), (2, "Unified", "1M")], (64 * KIB, 1024 * KIB, 1024 * KIB)),
        ([(1, "Data", "64K"), (2, "Unified", "what?")], (64 * KIB, *cpu_info.ASSUMED[1:])),
        ([], cpu_info.ASSUMED),
    ],
)
def test_caches_of_linux(tmp_path, monkeypatch, caches, sizes):
    monkeypatch.setattr(cpu_info, "CACHES", folder_of_caches(tmp_path, *caches))
    assert cpu_info.cache_bytes() == sizes


def test_caches_and_name_of_macos(tmp_path, monkeypatch):
    values = {
        "hw.perflevel0.l1dcachesize": "131072", "hw.l1dcachesize": "65536", "hw.l2cachesize": "4194304",
        "machdep.cpu.brand_string": "Apple M1",
    }  # fmt: skip

    def sysctl(command, **keywords):
        told = "".join(f"{name}: {values[name]}\n" for name in command[1:] if name in values)
        return subprocess.CompletedProcess(command, 1, told, "unknown oid")

    monkeypatch.setattr(cpu_info, "CACHES", tmp_path / "none")
    monkeypatch.setattr(cpu_info, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(cpu_info.subprocess, "run", sysctl)
    assert cpu_info.cache_bytes() == (128 * KIB, 4096 * KIB, 4096 * KIB)
    assert cpu_info.cpu_name() == "Apple M1"


def test_the_name_on_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_info, "CPU_INFO", tmp_path / "cpuinfo")
    cpu_info.CPU_INFO.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nprocessor\t: 1\n")
    assert cpu_info.cpu_name() == "A CPU @ 2 GHz"


def test_this_machine_has_a_name_and_caches():
    assert cpu_info.cpu_name()
    assert 0 < cpu_info.cache_bytes().L1 <= cpu_info.cache_bytes().L2 <= cpu_info.cache_bytes().L3
