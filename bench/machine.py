"""The machine a table was measured on: CPU, measured roofs, threads and versions."""

import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from fastcnn.bench.roofline import peak, record
from fastcnn.bench.roofline.record import Ceilings
from fastcnn.kernels.cpu.runtime.cpu_info import cpu_name, told_caches
from fastcnn.kernels.cpu.runtime.launch import LAYER, thread_count
from fastcnn.kernels.cpu.simd.tile import tiles

MORE_PEAKS = 5  # times that a peak below what a kernel reached is measured again, each some milliseconds


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

    def measure_peak_again(self, reached: float) -> None:
        """Measure the peak until it is no lower than what a kernel reached, a few times at most."""
        for _ in range(MORE_PEAKS):
            if self.peak_gflops >= reached:
                return
            self.measure_peak()

    def measure_bandwidth(self) -> None:
        """Measure the bandwidth, keeping the highest median so far."""
        self.bandwidth_gbytes_per_s = max(self.bandwidth_gbytes_per_s, peak.bandwidth(self.threads))

    def keep_ceilings(self) -> None:
        """Start from the ceilings that earlier runs found, and keep for later ones what is higher here."""
        found = Ceilings(self.peak_gflops, self.bandwidth_gbytes_per_s)
        self.peak_gflops, self.bandwidth_gbytes_per_s = record.keep(self.threads, np.dtype(self.dtype), found)

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
    """Return this machine with the thread count now set and its roofs measured, or as high as they were before."""
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
    machine.keep_ceilings()
    return machine


def kept_ceilings(threads: int) -> tuple[Ceilings, bool]:
    """Return the float32 ceilings of this many threads, and whether an earlier run had found them."""
    known = record.kept(threads)
    return known or record.ceilings(threads), known is not None


def cache_sizes() -> dict[str, str]:
    """Return the sizes of the first core's data caches, as {"L1": "48 KiB"}, where they are known."""
    return {f"L{level}": in_bytes(size) for level, size in sorted(told_caches().items())}


def in_bytes(size: int) -> str:
    """Return a number of bytes in the largest unit that divides it.

    >>> in_bytes(48 << 10), in_bytes(32 << 20)
    ('48 KiB', '32 MiB')
    """
    return f"{size >> 20} MiB" if size % (1 << 20) == 0 else f"{size / 1024:g} KiB"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that our side runs on."""
    packages = {name: metadata.version(name) for name in ("fastcnn", "numpy", "numba", "llvmlite")}
    return {"python": platform.python_version(), **packages}
