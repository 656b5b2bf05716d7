"""What the cpu room of kernels has of this machine: vectors, threads, a folder for machine code.

Nothing is imported before a function is called: the room brings in the compiler.
"""

from pathlib import Path

from fastcnn.backend import import_kernels


def thread_count() -> int:
    """Return the number of threads that kernels called from this Python thread use."""
    return int(import_kernels("cpu", "threads").thread_count())


def set_thread_count(count: int) -> None:
    """Use this many threads from now on; the results stay the same to the last bit.

    Raises
    ------
    ValueError
        If `count` is below 1 or above the number of cores this process may use.
    """
    import_kernels("cpu", "threads").set_thread_count(count)


def available_cores() -> int:
    """Return the cores that the affinity mask and the quota leave to this process."""
    return int(import_kernels("cpu", "threads").available_cores())


def threading_layer() -> str:
    """Return the name of what runs kernels on several threads."""
    return str(import_kernels("cpu", "threads").LAYER)


def vector_bits() -> int:
    """Return the width of the vectors that kernels are compiled for."""
    _, lanes = import_kernels("cpu", "tile").tile_shape(1)
    return 8 * lanes


def cache_folder() -> Path:
    """Return the folder that keeps the machine code of the kernels as they are now."""
    return Path(import_kernels("cpu", "compiler").cache_folder())
