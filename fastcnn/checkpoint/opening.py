"""Safetensors files of networks, opened to read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastcnn.errors import CheckpointError

# Far above any network's description, far below what would fill the memory.
LONGEST_JSON = 16 * 1024 * 1024

OTHER_LAYOUT = (
    "a PyTorch state_dict keeps filters as (out, in, R, S) and linear weights as (out, in), where fastcnn has "
    "(R, S, in, out) and (in, out)"
)

TENSOR_DTYPES = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}


@contextmanager
def open_tensors(path: str | PathLike[str]) -> Iterator[Any]:
    """Open a safetensors file to read; what goes wrong with it becomes a CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        with Path(path).open("rb"):
            pass
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise unreadable(path, f"is damaged or no safetensors file ({error})") from None
    except CheckpointError:
        raise
    except OSError as error:
        raise unreadable(path, f"cannot be read ({error.strerror or error})") from None


def unreadable(path: str | PathLike[str], problem: str) -> CheckpointError:
    """Return the error for a file that cannot be read."""
    return CheckpointError(f"the model file {os.fspath(path)} {problem}: give a file that fastcnn has saved.")
