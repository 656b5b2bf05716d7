"""What the cpu room of kernels has of this machine: vectors, threads, a folder for machine code.

Nothing is imported before a function is called: the room brings in the compiler.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fastcnn.backend import import_kernels


def thread_count() -> int:
    """Return the number of threads that kernels called from this Python thread use."""
    return int(import_kernels("cpu", "runtime.launch").thread_count())


def set_thread_count(count: int) -> None:
    """Use this many threads from now on; the results stay the same to the last bit.

    Raises
    ------
    ValueError
        If `count` is below 1 or above the number of cores this process may use.
    """
    import_kernels("cpu", "runtime.launch").set_thread_count(count)


def available_cores() -> int:
    """Return the cores that the affinity mask and the quota leave to this process."""
    return int(import_kernels("cpu", "runtime.cpu_info").available_cores())


def threading_layer() -> str:
    """Return the name of what runs kernels on several threads."""
    return str(import_kernels("cpu", "runtime.launch").LAYER)


def vector_bits() -> int:
    """Return the width of the vectors that kernels are compiled for."""
    _, lanes = import_kernels("cpu", "simd.tile").tile_shape(1)
    return 8 * lanes


def cache_folder() -> Path:
    """Return the folder that keeps the machine code of the kernels as they are now."""
    return Path(_machine_code().folder())


def cache_folders() -> list[Path]:
    """Return all folders that machine code is read from: others may have filled some that this user cannot write."""
    return list(_machine_code().places.read)


def cache_lasts() -> bool:
    """Say whether kernels compiled now are kept for later runs: nowhere may be a folder that can be used."""
    return bool(_machine_code().lasts())


def cache_contents() -> tuple[int, int, list[Path]]:
    """Look through what is kept: the number of compiled kernels, their bytes, and the files that cannot be used."""
    kept = _machine_code().kept()
    return kept.files, kept.size, kept.damaged


def mend_cache() -> None:
    """Remove files that cannot be used: what they held is compiled again when it is needed."""
    _machine_code().mend()


def compilation_announced(say: Callable[[str], object]) -> AbstractContextManager[None]:
    """Have it said by `say`, once a process, when kernels are being compiled."""
    from fastcnn.kernels.cpu.runtime import compiling

    return compiling.announced(say)


def _machine_code() -> Any:
    return import_kernels("cpu", "runtime.compiler").machine_code
