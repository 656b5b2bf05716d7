"""Kernels compiled before they are needed: all of them, and nothing else happens."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sweeps import selected

import fastcnn as fc
from fastcnn.engine.preparation import BATCH_SIZES, prepare

# In a new process: after `prepare`, whatever is done with the network asks for no kernel that has not been asked for.
# A process asks for each once: for its machine code in the cache, and where that has none, it compiles.
# What all networks share - threads, the repetition of launches - is asked for with the first of them.
WHOLE = """
import random, sys
import numpy as np
import fastcnn as fc
from fastcnn.cli.warmup import _start
from fastcnn.engine.preparation import prepare
from fastcnn.kernels.cpu.runtime.compiler import machine_code

dtype = sys.argv[1]

def network():
    net = fc.Sequential(
        fc.Conv2d(1, 8, 3, padding=1), fc.BatchNorm2d(8), fc.ReLU(), fc.MaxPool2d(2),
        fc.Conv2d(8, 16, 3, padding=1), fc.ReLU(), fc.Flatten(), fc.Linear(256, 10), input_shape=(8, 8, 1))
    return net.astype(dtype)

asked = []
right = machine_code.load
machine_code.load = lambda name: (asked.append(name), right(name))[1]
_start(dtype)
prepare(network())
print(len(asked))
asked.clear()
optimizers = [fc.SGD(0.01), fc.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.1, decay_bias=False),
              fc.Adam(amsgrad=True), fc.AdamW(), fc.RMSprop(momentum=0.9, centered=True), fc.Adagrad()]
sizes = random.Random(0).sample(range(2, 700), 12)
for optimizer, limits in zip(optimizers * 2, ({}, {"clip_norm": 1.0}, {"clip_value": 0.5}) * 4):
    size = sizes.pop()
    data = np.ones((size, 8, 8, 1), "float32"), np.arange(size) % 10
    moves = fc.augment.RandomShift(1)
    trainer = fc.Trainer(network(), fc.CrossEntropy(), optimizer, progress=False, augment=moves, **limits)
    trainer.fit(data, epochs=3, batch_size=max(2, size // 3), validation=data)
    trainer.predict(data[0])
    trainer.net.predict(data[0][:1])
    trainer.net.backward(trainer.net.forward(data[0]))
print(*asked)
"""


@pytest.mark.parametrize("cache", selected(["shared", "empty"], "shared"))
def test_nothing_is_left_to_compile(tmp_path, cache):
    """In float64: `tests/cli/test_host.py` does the same by commands, in float32."""
    environment = os.environ | ({"FASTCNN_CACHE_DIR": str(tmp_path)} if cache == "empty" else {})
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, "float64"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    compiled, left = done.stdout.splitlines()
    assert int(compiled) > 50
    assert left == ""


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_the_network_stays_as_it_is(device):
    net = fc.Sequential(
        fc.Conv2d(3, 4, 3), fc.BatchNorm2d(4), fc.ReLU(), fc.Flatten(), fc.Linear(144, 5), input_shape=(8, 8, 3)
    ).to(device)
    net.initialize(0)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    before = net.predict(x)
    state = {name: array.copy() for name, array in net[1].state.items()}
    prepare(net, (1, 2, 300))
    np.testing.assert_array_equal(net.predict(x), before)
    for name, array in state.items():
        np.testing.assert_array_equal(net[1].state[name], array)


def test_no_network_is_too_large_and_no_batch_too_small():
    prepare(fc.models.vgg16(), (1, 64))  # more than most machines hold
    tiny = fc.Sequential(fc.Flatten(), fc.Linear(4, 3), fc.BatchNorm1d(3), input_shape=(2, 2, 1))
    prepare(tiny, (1, 2))  # a single image has no deviation


def test_networks_of_several_outputs_are_prepared():
    net = fc.models.get("box_detector")()
    prepare(net, (2,))
    assert len(net.outputs) > 1


def test_batch_sizes_stand_on_either_side_of_each_doubling():
    assert list(BATCH_SIZES) == sorted(set(BATCH_SIZES))
    assert {1, 2, 8, 16, 17, 24, 25, 32, 33, 1024} <= set(BATCH_SIZES)
