"""Memory: what is announced is what a network then holds, and nothing is drawn or run for it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastcnn as fc
from fastcnn.engine.memory import MEBIBYTE
from fastcnn.kernels.cpu.runtime import workspace

OPTIMIZERS = (
    fc.SGD(), fc.SGD(momentum=0.9), fc.Adam(), fc.Adam(amsgrad=True), fc.RMSprop(centered=True), fc.Adagrad(),
)  # fmt: skip


def network(dtype="float32"):
    """Return a network whose layers keep arrays of their own: padding, winners, statistics, factors of channels."""
    x = fc.Input(17, 15, 3)
    h = fc.ReLU()(fc.BatchNorm2d(12)(fc.Conv2d(3, 12, 3, padding=1, padding_mode="reflect", bias=False)(x)))
    h = fc.MaxPool2d(3, 2)(h + fc.Dropout2d(0.5)(fc.Conv2d(12, 12, 3, padding=1)(h)))
    shared = fc.SeparableConv2d(12, 12, 3, padding=1)
    h = fc.GroupNorm(3, 12)(shared(shared(h)))
    net = fc.Graph(x, fc.Linear(12, 5)(fc.Dropout(0.5)(fc.GlobalAvgPool()(h))))
    return net.astype(dtype)


def random_batch(net, count):
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *net.input_shapes[0])).astype(net.dtype), rng.integers(5, size=count)


def scratch_of_a_run(net, run):
    """Return the scratch memory of the stream that a run of the network takes, from none."""
    stream = net.own_store().backend.streams.next()
    stream.workspace.held.clear()
    stream.workspace.state = object()
    run()
    return sum(buffer.nbytes for buffer in stream.workspace.held.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_training_holds_what_was_announced(optimizer, dtype):
    net = network(dtype)
    announced = net.memory(7, optimizer=optimizer)
    trainer = fc.Trainer(net, fc.CrossEntropy(), optimizer)
    optimizer.state.clear()
    scratch = scratch_of_a_run(net, lambda: trainer.step(*random_batch(net, 7)))
    plan, store = net.plan(7, True, "parameters"), net.own_store()
    assert announced.arena == plan.arena.size
    assert announced.arrays == plan.bytes - plan.arena.size > 0
    assert announced.scratch == scratch > 0
    states = [a for arrays in store.state.values() for a in arrays.values()]
    assert announced.parameters == store.values.nbytes + sum(a.nbytes for a in states)
    assert announced.gradients == store.gradients.nbytes
    assert announced.optimizer == sum(a.nbytes for name, a in optimizer.state.items() if name != "step")
    assert announced.total == sum(announced.parts().values())


@pytest.mark.parametrize(
    "loss",
    [fc.CrossEntropy(), fc.CrossEntropy(weight=np.ones(5)), fc.Hinge(), fc.MeanSquaredError(), fc.L1()],
    ids=repr,
)
def test_losses_hold_what_was_announced(loss):
    net = network()
    announced = net.memory(7, loss=loss)
    trainer = fc.Trainer(net, loss, fc.SGD())
    images, labels = random_batch(net, 7)
    trainer.step(images, labels if loss.classifies else np.zeros((7, 5), np.float32))
    (batch,) = trainer._batches.values()
    bound = batch.heads[0].bound
    # One array may stand there under two shapes.
    arrays = {a.ctypes.data: a.nbytes for a in vars(bound).values() if isinstance(a, np.ndarray)}
    arrays[batch.heads[0].targets.ctypes.data] = batch.heads[0].targets.nbytes
    assert announced.loss == sum(arrays.values()) - bound.y.nbytes - bound.dy.nbytes


def test_prediction_holds_what_was_announced(dtype):
    net = network(dtype)
    announced = net.memory(9, training=False)
    net.initialize(0)
    scratch = scratch_of_a_run(net, lambda: net.predict(random_batch(net, 9)[0], batch_size=9))
    plan = net.plan(9, False)
    assert (announced.arena, announced.arrays) == (plan.arena.size, plan.bytes - plan.arena.size + plan.kept_bytes)
    assert plan.kept_bytes > 0
    assert announced.scratch == scratch
    assert (announced.gradients, announced.optimizer, announced.loss) == (0, 0, 0)


def test_announcing_draws_and_changes_nothing():
    net = network()
    net.memory(4)
    assert all(layer.store is None for layer in net.layers)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.1, momentum=0.9), seed=3)
    batch = random_batch(net, 4)
    trainer.step(*batch)
    store, steps = net.own_store(), trainer.optimizer.steps
    kept = [a.copy() for a in (store.values, store.gradients, *trainer.optimizer.state.values())]
    states = [a.copy() for layer in net.layers for a in layer.state.values()]
    workspace.scratch("kept", 10, np.dtype(np.float32))
    scratch = workspace.held_bytes()
    net.memory(64, optimizer=trainer.optimizer)
    assert (net.own_store(), trainer.optimizer.steps, workspace.held_bytes()) == (store, steps, scratch)
    for before, after in zip(
        [*kept, *states],
        [store.values, store.gradients, *trainer.optimizer.state.values()]
        + [a for layer in net.layers for a in layer.state.values()],
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


def test_more_than_a_machine_has_is_announced():
    x = fc.Input(4096, 4096, 3)
    h = fc.ReLU()(fc.BatchNorm2d(64)(fc.Conv2d(3, 64, 3, padding=1)(x)))
    net = fc.Graph(x, fc.Linear(64, 10)(fc.GlobalAvgPool()(h)))
    needed = net.memory(512)
    assert needed.arena > 2 * 512 * 4096 * 4096 * 64 * 4
    assert "training step, batch 512" in str(needed)


def test_outputs_share_a_default_loss_or_have_their_own():
    x = fc.Input(8, 8, 1)
    h = fc.Flatten()(x)
    net = fc.Graph(x, [fc.Linear(64, 10, name="kind")(h), fc.Linear(64, 4, name="box")(h)]).to("reference")
    both = fc.MultiTask({"kind": (fc.CrossEntropy(), 1.0), "box": (fc.MeanSquaredError(), 1.0)})
    assert 0 < net.memory(16, loss=both).loss < net.memory(16).loss
    assert net.memory(16).scratch == 0
    with pytest.raises(fc.FastcnnError, match="MultiTask"):
        net.memory(16, loss=fc.CrossEntropy())
    with pytest.raises(fc.FastcnnError, match="batch_size"):
        net.memory(0)


GROWTH = """
import gc, sys
import numpy as np
import fastcnn as fc
from fastcnn.backend import get

def network(size):
    x = fc.Input(size, size, 3)
    h = fc.ReLU()(fc.BatchNorm2d(32)(fc.Conv2d(3, 32, 3, padding=1, bias=False)(x)))
    h = fc.ReLU()(fc.BatchNorm2d(32)(fc.Conv2d(32, 32, 3, padding=1, bias=False)(h)) + h)
    return fc.Graph(x, fc.Linear(32, 10)(fc.GlobalAvgPool()(h)))

def train(size, batch):
    net = network(size)
    images = np.ones((batch, size, size, 3), np.float32)
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(1e-3, momentum=0.9))
    for _ in range(3):
        trainer.step(images, np.zeros(batch, np.int64))
    return images.nbytes

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

train(32, 2)
gc.collect()
streams = get("cpu").streams
while streams._idle:
    streams._idle.pop()
streams._streams.clear()
before = status("VmRSS")
announced = network(224).memory(16).total
print(announced, status("VmHWM") - before, end=" ")
announced += train(224, 16)
print(announced, status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's memory")
def test_a_process_grows_by_what_was_announced():
    found = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True).stdout
    needed, at_first, announced, grown = map(int, found.split())
    assert needed > 400 * MEBIBYTE
    assert at_first < 0.05 * needed  # nothing was touched to find out
    assert abs(grown - announced) < 0.05 * announced


def test_plans_are_made_on_the_layers_own_store_again():
    net = network()
    plan = net.plan(3, True, "parameters")
    net.memory(3)
    assert net.plan(3, True, "parameters") is plan


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("training", [True, False])
def test_the_memory_of_a_batch_beyond_all_machines(device, training):
    net = fc.Sequential(fc.Conv2d(1, 2, 3), fc.Flatten(), fc.Linear(72, 10), input_shape=(8, 8, 1)).to(device)
    needed = net.memory(10**9, training)
    assert needed.total > 10**9 * 10 * 4
    for batch in (10**15, 10**19, 10**40):
        with pytest.raises(fc.ArgumentError, match=f"batch_size={batch} was given.* give a smaller one"):
            net.memory(batch, training)
    assert net.memory(8).total < needed.total
