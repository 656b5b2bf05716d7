"""The machine a table was measured on: CPU, measured roofs, threads and versions."""

import contextlib
import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fastcnn.kernels.cpu import peak
from fastcnn.kernels.cpu.threads import LAYER, thread_count
from fastcnn.kernels.cpu.tile import tiles

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux; elsewhere the header goes without cache sizes
CPU_INFO = Path("/proc/cpuinfo")


@dataclass
class Machine:
    """What a row's numbers depend on. Roofs are in GFLOP/s and GB/s."""

    cpu: str
    dtype: str
    vector_bits: int
    threads: int
    threading_layer: str
    caches: dict[str, str]
    versions: dict[str, str]
    peak_gflops: float = 0.0
    bandwidth_gbytes_per_s: float = 0.0

    def measure_peak(self) -> None:
        """Measure the peak, keeping the highest median: a busy machine only lowers it."""
        self.peak_gflops = max(self.peak_gflops, peak.measure(self.threads, np.dtype(self.dtype)))

    def measure_bandwidth(self) -> None:
        """Measure the bandwidth, keeping the highest median so far."""
        self.bandwidth_gbytes_per_s = max(self.bandwidth_gbytes_per_s, peak.bandwidth(self.threads))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the header of a table."""
        caches = ", ".join(f"{name} {size}" for name, size in self.caches.items())
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        threads = f"{self.threads} thread{'s' * (self.threads != 1)} ({self.threading_layer})"
        return [
            f"{self.cpu}: {self.vector_bits}-bit vectors{', ' + caches if caches else ''}",
            f"{threads}, {self.dtype}: measured peak {self.peak_gflops:.0f} GFLOP/s, "
            f"measured bandwidth {self.bandwidth_gbytes_per_s:.0f} GB/s",
            versions,
        ]


def describe(dtype: str) -> Machine:
    """Return this machine with the thread count now set and its roofs measured."""
    machine = Machine(
        cpu=cpu_name(),
        dtype=dtype,
        vector_bits=tiles(np.dtype(dtype)).lanes * np.dtype(dtype).itemsize * 8,
        threads=thread_count(),
        threading_layer=LAYER,
        caches=cache_sizes(),
        versions=versions(),
    )
    machine.measure_peak()
    machine.measure_bandwidth()
    return machine


def cpu_name() -> str:
    """Return the CPU's name as the system gives it."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def cache_sizes() -> dict[str, str]:
    """Return the sizes of the first core's data caches, as {"L1": "32K"}, where they are known."""
    sizes = {}
    for folder in sorted(CACHES.glob("index*")):
        with contextlib.suppress(OSError):
            if (folder / "type").read_text().strip() != "Instruction":
                sizes["L" + (folder / "level").read_text().strip()] = (folder / "size").read_text().strip()
    return sizes


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that our side runs on."""
    packages = {name: metadata.version(name) for name in ("fastcnn", "numpy", "numba", "llvmlite")}
    return {"python": platform.python_version(), **packages}
