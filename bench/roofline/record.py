"""The roofs of `peak.py`, kept on disk: a busy machine only lowers what it measures, so the highest stays.

They stand in a JSON file beside the machine code, in a folder named after the kernels, the compilers and the CPU's
type, one entry for each name of a CPU, number type and number of threads, with a checksum: a wrong one that is too high
would stay.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastcnn.bench.roofline import peak
from fastcnn.kernels.cpu.runtime.cache import write_atomically
from fastcnn.kernels.cpu.runtime.compiler import cache_folder
from fastcnn.kernels.cpu.runtime.cpu_info import cache_bytes, cpu_name

FILE = "ceilings.json"


class Ceilings(NamedTuple):
    """Multiply-adds (counted 2 each) in GFLOP/s, and bytes from memory in GB/s."""

    peak_gflops: float
    bandwidth_gbytes_per_s: float


def ceilings_file() -> Path:
    """Return where they are kept."""
    return cache_folder() / FILE


def _key(threads: int, dtype: np.dtype | type) -> str:
    return f"{cpu_name()}, {np.dtype(dtype).name}, {threads} threads"


def _entries() -> dict[str, Any]:
    """Return what the file holds; nothing where it is absent or broken, for it can be measured again."""
    try:
        entries = json.loads(ceilings_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def kept(threads: int, dtype: np.dtype | type = np.float32) -> Ceilings | None:
    """Return the ceilings found before for this many threads, None where none were."""
    try:
        entry = _entries()[key := _key(threads, dtype)]
        found = Ceilings(*(float(entry[name]) for name in Ceilings._fields))
        return found if entry["checksum"] == _checksum(key, found) else None
    except (KeyError, TypeError, ValueError):
        return None


def _checksum(key: str, found: Ceilings) -> str:
    return hashlib.blake2b(repr((key, *found)).encode(), digest_size=8).hexdigest()


def keep(threads: int, dtype: np.dtype | type, found: Ceilings) -> Ceilings:
    """Keep ceilings just measured, unless higher ones are kept; return the higher of each."""
    before = kept(threads, dtype)
    highest = found if before is None else Ceilings(*map(max, before, found))
    if highest != before:
        key = _key(threads, dtype)
        entry = highest._asdict() | {"cache_bytes": cache_bytes(), "checksum": _checksum(key, highest)}
        text = json.dumps(_entries() | {key: entry}, indent=2)
        with contextlib.suppress(OSError):  # measured again next time
            write_atomically(ceilings_file(), text.encode())
    return highest


def ceilings(threads: int, dtype: np.dtype | type = np.float32) -> Ceilings:
    """Return the ceilings of this many threads: those kept, else measured now (a second) and kept."""
    known = kept(threads, dtype)
    return known or keep(threads, dtype, Ceilings(peak.measure(threads, dtype), peak.bandwidth(threads)))
