"""A network as a thing to measure: one training step, and the inference of one batch.

A training step is forward, loss, backward and an SGD update with momentum, as `Trainer.step` does
it. Images are random normals, labels random. `flops` counts the multiply-adds of convolutions and
linear layers: in training three times (forward, weights, input) less the input gradient of the
first layer, which nobody needs. `bytes` counts images, parameters and outputs once, in training the
gradients and velocities of the parameters too.

The error is that of the logits, in training that of all parameter gradients, on a few images,
against the same network in float64 on the reference kernels.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastcnn as fc
from fastcnn.bench.cases.accuracy import relative_error
from fastcnn.bench.cases.case import Case

PASSES = ("train", "infer")
BATCH = 128
ERROR_IMAGES = 4  # enough for hundreds of thousands of sums, few enough for the reference kernels
LEARNING_RATE, MOMENTUM = 1e-3, 0.9  # small: thousands of steps on one random batch must not diverge
OWN_ARGUMENTS = ("weight_init", "algorithm")  # of our layers: they change no network

Array = NDArray[Any]


def cases(name: str, batch: int, dtype: str) -> list[Case]:
    """Return the training step and the inference of a model at this batch size."""
    net = network(name, dtype)
    images, labels = random_batch(net, batch)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(LEARNING_RATE, momentum=MOMENTUM), seed=0)
    rows = net.measures()
    forward = batch * sum(row.multiply_adds for row in rows)
    first = batch * next((row.multiply_adds for row in rows if row.multiply_adds), 0)
    ends = images.size + batch * prod(net.output_shapes[0])
    work = {
        "train": (
            3 * forward - first,
            ends + 3 * net.parameter_count,
            lambda: trainer.step(images, labels),
        ),
        "infer": (
            forward,
            ends + net.parameter_count,
            lambda: net.predict(images, batch_size=batch),
        ),
    }
    errors = {
        "train": lambda: gradient_error(name, dtype),
        "infer": lambda: output_error(name, dtype),
    }
    size = "x".join(map(str, net.input_shapes[0]))
    return [
        Case(
            layer="model",
            name=name,
            descriptor=f"{name} mb{batch} {size}",
            pass_name=pass_name,
            algorithm="auto",
            count=1,
            flops=2 * multiply_adds,
            bytes=elements * images.itemsize,
            call=call,
            error=errors[pass_name],
            request=_request(net, pass_name, batch, dtype),
            images=batch,
        )
        for pass_name, (multiply_adds, elements, call) in work.items()
    ]


def describe(net: fc.Graph) -> list[dict[str, Any]]:
    """Return the nodes of a network with one input, as `peer/torch_model.py` takes them."""
    order = [*net.inputs, *(node for node in net.nodes if node.layer is not None)]
    numbers = {node: number for number, node in enumerate(order)}
    nodes: list[dict[str, Any]] = [{}]
    for node in order[1:]:
        assert node.layer is not None
        arguments = {key: value for key, value in node.layer.config().items() if key not in OWN_ARGUMENTS}
        inputs = [numbers[source] for source in node.inputs]
        nodes.append({"layer": type(node.layer).__name__, "arguments": arguments, "inputs": inputs})
    return nodes


def output_error(name: str, dtype: str) -> float:
    """Return the error of the logits against float64."""
    fast, exact = _pair(name, dtype)
    images, _ = random_batch(fast, ERROR_IMAGES)
    return relative_error(fast.predict(images), exact.predict(images))


def gradient_error(name: str, dtype: str) -> float:
    """Return the error of all parameter gradients together against float64."""
    fast, exact = _pair(name, dtype)
    images, labels = random_batch(fast, ERROR_IMAGES)
    return relative_error(_gradients(fast, images, labels), _gradients(exact, images, labels))


def network(name: str, dtype: str) -> fc.Graph:
    """Return a model with its first weights."""
    net: fc.Graph = fc.models.get(name)()
    net.astype(dtype)
    net.initialize(0)
    return net


def _pair(name: str, dtype: str) -> tuple[fc.Graph, fc.Graph]:
    """Return a network, and one with the same parameters in float64 on the reference kernels."""
    fast, exact = network(name, dtype), network(name, "float64").to("reference")
    for (_, ours), (_, theirs) in zip(fast.named_layers(), exact.named_layers(), strict=True):
        theirs.params.update(ours.params)
    return fast, exact


def _gradients(net: fc.Graph, images: Array, labels: Array) -> Array:
    loss = fc.CrossEntropy()
    loss.forward(net.forward(images), labels)
    net.backward(loss.backward())
    return np.concatenate([grad.reshape(-1) for _, layer in net.named_layers() for grad in layer.grads.values()])


def random_batch(net: fc.Graph, batch: int) -> tuple[Array, Array]:
    """Return images of random normals, and random labels."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, *net.input_shapes[0]), np.dtype(net.dtype).type)
    return images, random.integers(net.output_shapes[0][-1], size=batch)


def _request(net: fc.Graph, pass_name: str, batch: int, dtype: str) -> dict[str, Any]:
    return {
        "work": "model",
        "pass": pass_name,
        "network": describe(net),
        "batch": batch,
        "input_shape": net.input_shapes[0],
        "classes": net.output_shapes[0][-1],
        "dtype": dtype,
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
    }
