"""Parameters from a file into a network that is not the one which wrote it: by name, as far as they fit."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple

from fastcnn.arrays import Shape
from fastcnn.checkpoint.opening import OTHER_LAYOUT, TENSOR_DTYPES, open_tensors
from fastcnn.errors import CheckpointError

if TYPE_CHECKING:
    from fastcnn.graph.graph import Graph


class Loaded(NamedTuple):
    """Names of tensors, "layer.parameter"."""

    matched: list[str]
    """Those that the network has taken."""
    missing: list[str]
    """Those of the network that the file does not hold: they stay as they were."""
    unexpected: list[str]
    """Those of the file that the network does not have."""
    mismatched: list[str]
    """Those that both have, in other shapes: they stay as they were."""


def load_parameters(net: Graph, path: str | PathLike[str], strict: bool = True) -> Loaded:
    """Fill a network's parameters and states by name from a safetensors file, which may be another network's.

    Parameters
    ----------
    net
        The network; it keeps its dtype and device.
    path
        A file that `save` wrote. Others are refused, as their tensors may have fastcnn's names and shapes and another
        order of axes; whoever makes files of his own for fastcnn says so by a key "fastcnn" among their metadata.
    strict
        Whether every tensor must be on both sides, in one shape. If not, those that are get loaded.

    Returns
    -------
    What matched and what did not.

    Raises
    ------
    CheckpointError
        If the file cannot be read, nothing matches or, with `strict`, something does not; the network is as it was.

    >>> import tempfile
    >>> from fastcnn.graph.sequential import Sequential
    >>> from fastcnn.layers import Linear
    >>> old = Sequential(Linear(3, 4), Linear(4, 2, name="head"), input_shape=(3,)).to("reference")
    >>> new = Sequential(Linear(3, 4), Linear(4, 5, name="head"), input_shape=(3,)).to("reference")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     old.save(f"{folder}/old.safetensors")
    ...     new.load_parameters(f"{folder}/old.safetensors", strict=False).mismatched
    ['head.weight', 'head.bias']
    """
    with open_tensors(path) as file:
        if "fastcnn" not in (file.metadata() or {}):
            raise _refused(path, "was not written by fastcnn", f"convert it first, as {OTHER_LAYOUT}")
        loaded = _compare(net, file)
        _check(loaded, fspath(path), strict)
        types = {name: file.get_slice(name).get_dtype() for name in loaded.matched}
        for name, kind in types.items():
            if kind not in TENSOR_DTYPES:
                raise _refused(path, f"holds {name} of type {kind}", "convert it to float32 or float64")
        values = {name: file.get_tensor(name) for name in loaded.matched}
    with net.changing():
        for name, (views, key, _) in _places(net).items():
            if name in values:
                views[key] = values[name]
    return loaded


def _places(net: Graph) -> dict[str, tuple[Any, str, Shape]]:
    """Return, by tensor name, the dict that holds it, its key there and its shape."""
    places: dict[str, tuple[Any, str, Shape]] = {}
    for name, layer in net.named_layers():
        for views in (layer.params, layer.state):
            places |= {f"{name}.{key}": (views, key, view.shape) for key, view in views.items()}
    return places


def _compare(net: Graph, file: Any) -> Loaded:
    needed, found = _places(net), set(file.keys())
    same = {n: tuple(file.get_slice(n).get_shape()) == shape for n, (*_, shape) in needed.items() if n in found}
    return Loaded(
        [name for name, fits in same.items() if fits],
        [name for name in needed if name not in found],
        sorted(found - needed.keys()),
        [name for name, fits in same.items() if not fits],
    )


def _check(loaded: Loaded, path: str, strict: bool) -> None:
    problems = {"lacks": loaded.missing, "also holds": loaded.unexpected, "has in another shape": loaded.mismatched}
    if not loaded.matched:
        raise _refused(path, "holds nothing that this network has", "give the file of one with layers of its names")
    for problem, names in problems.items() if strict else ():
        if names:
            advice = "give strict=False to load what fits"
            raise _refused(path, f"{problem} {names[0]!r} ({len(names)} such tensors)", advice)


def _refused(path: str | PathLike[str], problem: str, advice: str) -> CheckpointError:
    return CheckpointError(f"the file {fspath(path)} {problem}: {advice}.")
