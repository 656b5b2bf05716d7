"""What programs capture: a warm step and a warm prediction are one call of native code, whatever layers there are."""

from importlib import import_module
from types import FunctionType

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.kernels.cpu import program

OPERATIONS = (
    "activation augment conv conv_pool conv_transpose dropout gain join linear local_norm loss memory norm optimizer "
    "pad permute pool program resample softmax sparse"
).split()
ON_HOST = {
    "gain.gain_forward", "gain.gain_backward_input", "local_norm.local_contrast_forward",
    "local_norm.local_contrast_backward_input", "memory.gather",
}  # fmt: skip


def unet():
    image = fc.Input(8, 8, 1)
    left = fc.ReLU()(fc.Conv2d(1, 4, 3, padding=1)(image))
    below = fc.Softplus()(fc.Conv2d(4, 8, 3, padding=1)(fc.MaxPool2d(2)(left)))
    right = fc.Concat()(left, fc.Upsample(scale_factor=2, mode="bilinear")(below))
    return fc.Graph([image], [fc.Linear(8 * 8 * 12, 3)(fc.Flatten()(right))])


def squeeze_and_excite():
    image = fc.Input(8, 8, 1)
    x = fc.GELU(approximate="tanh")(fc.Conv2d(1, 4, 3, padding=1)(image))
    squeezed = fc.ReLU()(fc.Conv2d(4, 2, 1)(fc.AdaptiveAvgPool2d(1)(x)))
    x = x * fc.Sigmoid()(fc.Conv2d(2, 4, 1)(squeezed))
    return fc.Graph([image], [fc.Linear(8 * 8 * 4, 3)(fc.Flatten()(x))])


def power_pools():
    return fc.Sequential(
        fc.Conv2d(1, 4, 3, padding=1), fc.Softplus(), fc.LPPool2d(2, 2), fc.Abs(), fc.LPPool2d(3, 2), fc.Dropout(0.3),
        fc.Flatten(), fc.Linear(2 * 2 * 4, 3), input_shape=(8, 8, 1),
    )  # fmt: skip


NETWORKS = [unet, squeeze_and_excite, power_pools]


@pytest.fixture
def launched(monkeypatch):
    calls, run_launches = [], program.run_launches
    monkeypatch.setattr(
        program, "run_launches", lambda table, *more: calls.append(len(table)) or run_launches(table, *more)
    )
    monkeypatch.setattr(program, "run_call", lambda function, _: pytest.fail(f"{function} was called from Python"))
    return calls


@pytest.mark.parametrize("make", NETWORKS)
def test_a_warm_step_and_a_warm_prediction_are_one_native_call(make, launched):
    rng = np.random.default_rng(0)
    batches = [(rng.random((4, 8, 8, 1), np.float32), rng.integers(0, 3, 4)) for _ in range(6)]
    trainers = []
    for device in ("cpu", "reference"):
        net = make().to(device)
        net.initialize(5)
        trainers.append(fc.Trainer(net, fc.CrossEntropy(device=device), fc.SGD(0.1)))
    cpu, reference = trainers
    for x, y in batches:
        launched.clear()
        assert cpu.step(x, y) == pytest.approx(reference.step(x, y), rel=1e-4)
    assert len(launched) == 1
    for x, _ in batches:
        launched.clear()
        found = cpu.net.predict(x)
        np.testing.assert_allclose(found, reference.net.predict(x), rtol=1e-3, atol=1e-5)
    assert len(launched) == 1


def test_what_runs_on_the_host_is_marked_and_known():
    marked = set()
    for name in OPERATIONS:
        room, definition = (import_module(f"fastcnn.kernels.{device}.{name}") for device in ("cpu", "reference"))
        for key, entry in vars(room).items():
            ours = isinstance(entry, FunctionType) and entry.__module__.startswith(program.ROOM)
            if ours and hasattr(definition, key) and not program.is_captured(entry):
                marked.add(f"{name}.{key}")
    assert {entry for entry in marked if not entry.startswith("activation.")} == ON_HOST
