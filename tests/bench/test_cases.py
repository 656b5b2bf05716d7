"""Cases of all layers: the call computes what its error is taken of, and the error notices what is wrong."""

from math import prod

import numpy as np
import pytest

from fastcnn.bench.cases import accuracy
from fastcnn.bench.cases.layers import LAYERS
from fastcnn.bench.cases.pool import backward_input_error, forward_error
from fastcnn.bench.shapes import loss as criteria
from fastcnn.bench.shapes import optimizer as stepping
from fastcnn.bench.shapes.pool import parse as parse_pooling
from fastcnn.bench.shapes.regroup import KINDS
from fastcnn.kernels.reference import pool

SHAPES = {
    "conv": ["mb2ic3ih9oc5kh3sh2ph1", "mb1g2ic4iw9oc6kw3pw1dw1"],
    "depthwise": ["mb2g5ic5ih9oc5kh3sh2ph1", "mb1g3ic3ih6oc6kh3ph1"],
    "conv_transpose": [
        "mb2ic3ih5oc4kh4sh2ph1", "mb1g2ic4ih3iw4oc6oh6ow8kh3kw2sh2sw2ph1pw0", "mb2ic3iw5oc2kw3dw1",
        "mb1ic2id3oc3kd2sd2",
    ],
    "pool": [
        "max:mb2ic3ih9kh3sh2ph1", "max:mb1ic2ih8oh4kh3sh2ph0", "avg_p:mb2ic3ih9kh3sh2ph1", "avg_np:mb2ic3ih9kh3sh2ph1",
        "avg_p:mb1ic2ih8oh4kh3sh2ph0", "max:mb1ic3iw20kw3sw2pw1dw2", "avg_np:mb1ic2id5kd3pd1", "max:mb1ic1ih20kh17",
        "lp1:mb2ic3ih9kh3sh2ph0", "lp2:mb2ic3ih8kh2sh2", "gauss:mb2ic3ih9kh3sh2ph1", "adaptive_avg:mb2ic3ih8kh2sh2",
        "adaptive_max:mb2ic3ih9oh4kh3sh2ph0", "subsample:mb2ic3ih8kh2sh2", "nearest:mb2ic3ih8kh2sh2",
        "bilinear:mb2ic3ih8kh2sh2", "unpool:mb2ic3ih8kh2sh2",
    ],
    "linear": ["mb3ic7oc5", "mb1ic33oc17"],
    "activation": ["mb2ic3ih5", "ic1"],
    "norm": [
        "mb2ic3ih5", "batch:ic20id3ih4iw5", "layer:mb2ic40iw7", "group:g3mb3ic6ih5", "instance:mb9ic5ih9",
        "response:mb2ic9ih5", "contrast:mb2ic3ih9",
    ],
    "loss": [f"{kind}:{tensor}" for kind in criteria.KINDS for tensor in ("mb9ic7", "mb2ic3ih5iw6")],
    "optimizer": [f"{kind}:mb1ic3001" for kind in stepping.KINDS],
    "regroup": [f"{kind}:mb2ic{channels}ih5iw6" for kind in KINDS for channels in (3, 16)],
}  # fmt: skip
CASES = [(layer, text) for layer, texts in SHAPES.items() for text in texts]


@pytest.mark.parametrize(("layer", "text"), CASES)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-13)])
def test_every_pass_is_right(layer, text, dtype, bound):
    kernels = LAYERS[layer].kernels()
    problem = LAYERS[layer].parse(text)
    for pass_name in kernels.PASSES:
        case = kernels.case(problem, pass_name, "auto", dtype)
        case.call()
        assert case.error() < bound, pass_name
        assert case.algorithm in kernels.ALGORITHMS
        assert case.images == problem.batch
        assert case.request["descriptor"] == problem.descriptor()


@pytest.mark.parametrize(("layer", "text"), CASES)
def test_the_error_notices_a_call_that_never_ran(layer, text):
    kernels = LAYERS[layer].kernels()
    for pass_name in kernels.PASSES:
        assert not kernels.case(LAYERS[layer].parse(text), pass_name, "direct", "float32").error() < 0.01, pass_name


@pytest.mark.parametrize(
    ("layer", "text", "pass_name", "flops", "elements"),
    [
        ("conv_transpose", "mb2ic3ih5oc4kh4sh2ph1", "forward", 2 * 2 * 25 * 3 * 16 * 4, 150 + 192 + 800),
        ("linear", "mb3ic7oc5", "backward_weight", 2 * 3 * 7 * 5, 21 + 35 + 15),
        ("activation", "mb2ic3ih5", "forward", 150, 300),
        ("activation", "mb2ic3ih5", "backward_input", 150, 450),
        ("norm", "mb2ic3ih5", "forward", 150, 300),
        ("norm", "group:g3mb2ic3ih5", "backward", 150, 450),
        ("loss", "cross_entropy:mb2ic3ih5", "forward", 150, 150 + 100),  # a label has eight bytes
        ("loss", "squared_error:mb2ic3ih5", "backward_input", 150, 450),
        ("optimizer", "sgd:mb1ic50", "update", 50, 150),
        ("optimizer", "adam:mb1ic50", "update", 50, 350),
        ("pool", "avg:mb2ic3ih8kh2sh2", "forward", 96 * 4, 384 + 96),
        ("pool", "max:mb2ic3ih8kh2sh2", "forward", 96 * 4, 384 + 96 + 24),  # a winner is a byte
        ("pool", "max:mb2ic3ih8kh2sh2", "backward_input", 96, 384 + 96 + 24),
    ],
)
def test_operations_and_bytes(layer, text, pass_name, flops, elements):
    case = LAYERS[layer].kernels().case(LAYERS[layer].parse(text), pass_name, "auto", "float32")
    assert (case.flops, case.bytes) == (flops, 4 * elements)


@pytest.mark.parametrize("text", [text for text in SHAPES["pool"] if text.startswith(("max", "avg"))])
def test_errors_of_pooling_against_the_reference_room(text, monkeypatch):
    monkeypatch.setattr(accuracy, "SAMPLES", 10**6)  # every element
    problem = parse_pooling(text)
    c = problem.windows
    random = np.random.default_rng(1)
    x, dy = random.standard_normal(c.x_shape), random.standard_normal(c.y_shape)
    y, winner, dx = np.empty(c.y_shape), np.empty(c.y_shape, np.int32), np.empty(c.x_shape)
    if problem.kind == "max":
        how = (c.window, c.stride, problem.pads, c.dilation)
        pool.max_pool_forward(x, *how, y, winner)
        pool.max_pool_backward_input(dy, winner, *how, dx)
    else:
        how = (c.window, c.stride, problem.pads, problem.kind == "avg_p", 0)
        pool.avg_pool_forward(x, *how, y)
        pool.avg_pool_backward_input(dy, *how, dx)
    assert forward_error(problem, x, y) < 1e-13
    assert backward_input_error(problem, x, y, dy, dx) < 1e-13
    spoiled = dx.copy()
    spoiled.reshape(-1)[prod(c.x_shape) // 2] += 1e-3 * np.sqrt(np.mean(dx**2))
    assert backward_input_error(problem, x, y, dy, spoiled) == pytest.approx(1e-3, rel=1e-6)


def test_a_transposed_pass_is_served_as_its_adjoint(monkeypatch):
    from fastcnn.bench.cases import conv, conv_transpose

    monkeypatch.setattr(conv, "served_by", lambda c, pass_name, algorithm, dtype: pass_name)
    problem = LAYERS["conv_transpose"].parse("mb2ic3ih5oc4kh3ph1")
    asked = [conv_transpose.served_by(problem, pass_name, "auto", "float32") for pass_name in conv_transpose.PASSES]
    assert asked == ["backward_input", "forward", "backward_weight"]
