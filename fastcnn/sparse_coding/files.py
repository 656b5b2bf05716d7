"""Files of sparse-coding layers: safetensors with the layers' arguments as JSON in their header.

    "fastcnn_sparse_coding"   {"version", "pool", "layers": [{"dtype", "arguments"}, ...]}
    tensors                   "layer1.filters", "layer2.filters", ...

Reading runs no code from the file, and every tensor's shape is compared before memory is taken for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastcnn.backend import check_device
from fastcnn.errors import CheckpointError, FastcnnError
from fastcnn.files import write_tensors

if TYPE_CHECKING:
    from fastcnn.sparse_coding.model import SparseCoding

KEY = "fastcnn_sparse_coding"
VERSION = 1
LONGEST_JSON = 16 * 1024 * 1024  # far above any description, far below what would fill the memory
DTYPES = {"F32": "float32", "F64": "float64"}


def save(layers: Sequence[SparseCoding], pool: int | None, path: str | PathLike[str]) -> None:
    """Write layers to a file, which then holds either all of them or what it held before."""
    entries = [{"dtype": layer.dtype.name, "arguments": layer.config()} for layer in layers]
    header = {KEY: json.dumps({"version": VERSION, "pool": pool, "layers": entries})}
    tensors = {tensor_name(number): layer.filters for number, layer in enumerate(layers)}
    try:
        write_tensors(path, tensors, header)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"the file {os.fspath(path)} cannot be written ({reason}): choose another place."
        ) from None


def load(
    path: str | PathLike[str], make: type[SparseCoding], device: str = "cpu"
) -> tuple[list[SparseCoding], int | None]:
    """Return the layers in a file that `save` wrote, made by `make`, and the pooling between them."""
    from safetensors import SafetensorError, safe_open

    check_device(device)
    try:
        with Path(path).open("rb"):
            pass
        with safe_open(path, framework="np") as file:
            return _read(file, path, make, device)
    except SafetensorError as error:
        raise unreadable(path, f"is damaged or no safetensors file ({error})") from None
    except CheckpointError:
        raise
    except OSError as error:
        raise unreadable(path, f"cannot be read ({error.strerror or error})") from None


def is_sparse_coding(path: str | PathLike[str]) -> bool:
    """Say whether a file is a safetensors file with sparse-coding layers."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read(
    file: Any, path: str | PathLike[str], make: type[SparseCoding], device: str
) -> tuple[list[SparseCoding], int | None]:
    text = (file.metadata() or {}).get(KEY)
    if text is None:
        raise unreadable(path, "holds no layers of sparse coding")
    try:
        if len(text) > LONGEST_JSON:
            raise unreadable(path, f"has a description of {len(text)} characters")
        description = json.loads(text)
        if description["version"] != VERSION:
            raise unreadable(path, f"has format version {description['version']!r}, and {VERSION} is known")
        entries = description["layers"]
        layers = [make(**entry["arguments"], dtype=entry["dtype"], device=device) for entry in entries]
        pool = description["pool"]
    except CheckpointError:
        raise
    except (FastcnnError, TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise unreadable(path, f"describes layers that cannot be built ({str(error).rstrip('.')})") from None
    names = [tensor_name(number) for number in range(len(layers))]
    if not layers or set(file.keys()) != set(names):
        raise unreadable(path, "does not hold the filters of each of its layers, and no more")
    for name, layer in zip(names, layers, strict=True):
        tensor = file.get_slice(name)
        shape, dtype = tuple(tensor.get_shape()), DTYPES.get(tensor.get_dtype())
        if (shape, dtype) != (layer.filter_shape, layer.dtype.name):
            needed = f"{layer.dtype.name} of shape {layer.filter_shape}"
            raise unreadable(path, f"holds {name} as {dtype} of shape {shape}, where {needed} is needed")
        layer.restore(file.get_tensor(name))
    return layers, pool


def tensor_name(number: int) -> str:
    """Return the name of the filters of a layer, counted from 0.

    >>> tensor_name(0)
    'layer1.filters'
    """
    return f"layer{number + 1}.filters"


def unreadable(path: str | PathLike[str], problem: str) -> CheckpointError:
    """Return the error for a file that cannot be read."""
    return CheckpointError(f"the file {os.fspath(path)} {problem}: give a file that SparseCoding has saved.")
