"""What this machine is, as the system tells it: the CPU's name, and how much its caches hold.

Nothing is measured here, so that plans which read these sizes are the same in every run on a machine.
"""

import contextlib
import math
import os
import platform
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

CPU_INFO = Path("/proc/cpuinfo")  # Linux
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux
LEVELS = (1, 2, 3)
MAC_SETTINGS = {1: "l1dcachesize", 2: "l2cachesize", 3: "l3cachesize"}  # under hw, or hw.perflevel0 for the fast cores
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


class CacheSizes(NamedTuple):
    """Bytes that the data caches hold; the third level may be shared by several cores."""

    L1: int
    L2: int
    L3: int


# Where a system tells nothing: what the smallest desktop CPUs with 256-bit vectors have.
ASSUMED = CacheSizes(32 << 10, 256 << 10, 4 << 20)


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """Return the CPU's name as the system gives it."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return _mac_settings("machdep.cpu.brand_string")[0] or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def cache_bytes() -> CacheSizes:
    """Return the bytes of the first core's data caches; ASSUMED stands in for what the system does not tell.

    A CPU without a third level gets the size of its second there.

    >>> L1, L2, L3 = cache_bytes()
    >>> 0 < L1 <= L2 <= L3
    True
    """
    told = told_caches()
    if 2 in told:
        told.setdefault(3, told[2])
    return CacheSizes(*(told.get(level, assumed) for level, assumed in zip(LEVELS, ASSUMED, strict=True)))


def told_caches() -> dict[int, int]:
    """Return bytes by level, as far as the system tells them."""
    return _from_folder() or _from_mac()


def _from_folder() -> dict[int, int]:
    sizes = {}
    for folder in sorted(CACHES.glob("index*")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if (folder / "type").read_text().strip() != "Instruction":
                size = (folder / "size").read_text().strip()
                number = size.rstrip("KM")
                sizes[int((folder / "level").read_text())] = int(number) * UNITS[size[len(number) :]]
    return sizes


def _from_mac() -> dict[int, int]:
    sizes = {}
    for level, name in MAC_SETTINGS.items():
        found = [value for value in _mac_settings(f"hw.perflevel0.{name}", f"hw.{name}") if int(value or 0) > 0]
        if found:
            sizes[level] = int(found[0])
    return sizes


def _mac_settings(*names: str) -> list[str]:
    """Return the values of macOS's settings, "" for those that do not exist or on other systems."""
    if sys.platform != "darwin":
        return [""] * len(names)
    done = subprocess.run(["sysctl", *names], capture_output=True, text=True, check=False)
    values = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return [values.get(name, "") for name in names]


CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # control groups, version 2: "<quota> <period>" or "max <period>"


def available_cores() -> int:
    """Return the cores this process may use: its affinity mask, cut by its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))


def _requested_threads() -> int | None:
    text = os.environ.get("FASTCNN_NUM_THREADS")
    if text is None or not text.strip():
        return None
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"FASTCNN_NUM_THREADS must be a whole number from 1 up, not {text!r}.")
    return int(text)
