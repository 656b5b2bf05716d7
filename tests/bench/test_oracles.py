"""Every operation beside its oracle, in each room and dtype."""

import pytest

from fastcnn.backend import DEVICES
from fastcnn.bench.oracles import collect
from fastcnn.bench.oracles.operation import PYTORCH, compare
from fastcnn.bench.oracles.table import row

OPERATIONS = [operation for operations in collect().values() for operation in operations]
BOUNDS = {"float64": (1e-10, 1e-10), "float32": (1e-5, 1e-4)}  # forward, gradient
DIFFERENCES = 1e-7  # of central differences in float64


def test_names_are_told_once():
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_is_near_its_oracle(operation, device, dtype):
    if operation.against == PYTORCH:
        pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    errors = compare(operation, device, dtype)
    forward, gradient = BOUNDS[dtype]
    if operation.against != PYTORCH:
        gradient = max(gradient, DIFFERENCES)
    assert errors.forward <= forward
    assert errors.gradient <= gradient


def test_a_wrong_operation_is_told():
    (pool,) = (operation for operation in OPERATIONS if operation.name == "ReLU")
    wrong = type(pool)(
        "wrong", pool.make, pool.inputs, lambda numpy, xs, params: 1.01 * numpy.abs(xs[0]), "an equation"
    )
    errors = compare(wrong, "reference", "float64")
    assert min(errors) > 1e-3


def test_a_row_names_the_worst_errors():
    pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    (relu,) = (operation for operation in OPERATIONS if operation.name == "ReLU")
    assert row(relu) == "| ReLU | cpu, reference | PyTorch | 0e+00 | 0e+00 | 0e+00 | 0e+00 |"
