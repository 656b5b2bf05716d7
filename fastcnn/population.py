"""Population statistics of batch normalization, after training: Ioffe and Szegedy 2015, algorithm 2, lines 7 to 12."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.arguments import checks_arguments
from fastcnn.arrays import Array
from fastcnn.errors import ArgumentError, DataError
from fastcnn.graph.graph import Graph
from fastcnn.layers.batch_norm import ChannelNorm


@checks_arguments
def estimate_population_statistics(net: Graph, batches: Iterable[ArrayLike | tuple[ArrayLike, ...]]) -> Graph:
    """Replace all running statistics of a network by averages over training batches, and return the network.

    Running averages follow weights that have moved on; these are what the final weights give:

        E[x] = mean of the batches' means     Var[x] = m / (m - 1) * mean of the batches' biased variances

    over batches of m numbers a channel (batches of several sizes count by their images). The network runs as in
    training: each layer sees what batch statistics before it give. Layers that `eval` holds still keep theirs.

    Parameters
    ----------
    net
        A network with batch normalization that tracks running statistics.
    batches
        Arrays (N, *input shape) of floats, or tuples of one for each input; at least one.

    Raises
    ------
    ArgumentError
        If no layer keeps running statistics, or `eval` holds all that do.
    DataError, ShapeError
        If there is no batch, or one does not fit the network, or holds numbers whose statistics are not finite; the
        running statistics are then what they were.

    >>> import numpy as np
    >>> from fastcnn.graph.sequential import Sequential
    >>> from fastcnn.layers import BatchNorm1d
    >>> net = Sequential(BatchNorm1d(1), input_shape=(1,)).to("reference")
    >>> batches = [np.array([[0.0], [2.0]]), np.array([[4.0], [8.0]])]
    >>> estimate_population_statistics(net, batches)[0].state["running_mean"], net[0].state["running_var"]
    (array([3.5], dtype=float32), array([5.], dtype=float32))
    """
    layers = [layer for layer in net.layers if isinstance(layer, ChannelNorm) and layer.tracks and layer.training]
    if not layers:
        raise ArgumentError(f"{net!r} has no layer that tracks running statistics: there is nothing to estimate.")
    momenta = [layer.momentum for layer in layers]
    store = net.own_store()
    kept = [{name: store.host_value(layer, name) for name in layer.state} for layer in layers]
    sums: list[dict[str, Array]] = []
    images = 0
    try:
        for layer in layers:
            layer.momentum = 1.0  # the running statistics are then the last batch's
        for batch in batches:
            for layer in layers:  # what they were counts for nothing, be it a number or not
                layer.state.update({name: np.zeros(layer.weight_shape) for name in RUNNING})
            size = _run(net, batch)
            images += size
            found = [
                {name: size * store.host_value(layer, name).astype("float64") for name in RUNNING} for layer in layers
            ]
            _check_finite(layers, found)
            sums = [{n: a[n] + b[n] for n in RUNNING} for a, b in zip(sums, found, strict=True)] if sums else found
    finally:
        for layer, momentum, state in zip(layers, momenta, kept, strict=True):
            layer.momentum = momentum
            layer.state.update(state)
    if not images:
        raise DataError("estimate_population_statistics got no images: give at least one batch of training data.")
    for layer, total in zip(layers, sums, strict=True):
        layer.state.update({name: total[name] / images for name in RUNNING})
    return net


RUNNING = ("running_mean", "running_var")


def _run(net: Graph, batch: ArrayLike | tuple[ArrayLike, ...]) -> int:
    """Run one batch as in training; return its number of images."""
    arrays = net.check_inputs(*(batch if isinstance(batch, tuple) else (batch,)))
    size = arrays[0].shape[0]
    if size:
        with net.changing() as held:
            plan = net.plan_on(held.store, held.stream, size, training=True)
            plan.load(arrays)
            plan.forward()
    return size


def _check_finite(layers: Sequence[ChannelNorm], found: Sequence[dict[str, Array]]) -> None:
    """Refuse a batch by what it gave."""
    for layer, statistics in zip(layers, found, strict=True):
        for name, value in statistics.items():
            if not np.isfinite(value).all():
                raise DataError(
                    f"a batch gave {layer.label} a {name} that is not finite: leave out images with NaN, infinities or "
                    "numbers near the largest."
                )
