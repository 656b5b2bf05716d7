"""One network, layer or loss in several Python threads: everybody gets the answer to what was asked."""

import os
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcnn as fc
from fastcnn.backend import get
from fastcnn.layers.parameters import claims

THREADS = 4
TIMES = 60


def network(device="cpu", dtype="float32") -> fc.Sequential:
    net = fc.Sequential(
        fc.Conv2d(2, 6, 3, padding=1, bias=False), fc.BatchNorm2d(6), fc.ReLU(), fc.MaxPool2d(2),
        fc.Conv2d(6, 8, 3), fc.GroupNorm(2, 8), fc.GELU(), fc.Flatten(), fc.Linear(32, 5),
        input_shape=(8, 8, 2),
    ).astype(dtype).to(device)  # fmt: skip
    net.initialize(0)
    return net


def batches(count=THREADS, size=1, shape=(8, 8, 2)) -> list[np.ndarray]:
    return [np.random.default_rng(i).standard_normal((size, *shape)).astype(np.float32) for i in range(count)]


def in_threads(work, count=THREADS):
    """Run work(i) in a thread for each i, all at once, and raise what one of them raised."""
    start, errors = threading.Barrier(count), []

    def run(i):
        try:
            start.wait()
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def all_right(answer, expected, count=THREADS, times=TIMES):
    """Ask answer(i) many times in a thread for each i, and compare."""

    def work(i):
        for _ in range(times):
            np.testing.assert_array_equal(answer(i), expected[i])

    in_threads(work, count)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("threads", [2, 4, 8])
def test_predictions_of_one_network(device, threads):
    net, xs = network(device), batches(threads)
    all_right(lambda i: net.predict(xs[i]), [net.predict(x) for x in xs], threads)


def test_predictions_of_several_sizes():
    net = network()
    xs = [x for size in (1, 2, 3, 5, 9, 17) for x in batches(1, size)]
    expected = [net.predict(x, batch_size=4) for x in xs]
    all_right(lambda i: net.predict(xs[i], batch_size=4), expected, len(xs), 30)


def test_first_calls_of_a_new_network():
    """Parameters are drawn once, and kernels compiled and programs recorded while others run."""
    for _ in range(10):
        net, x, found = network(), batches(1)[0], [None] * 8
        fresh = fc.Sequential(*[layer.without_values() for layer in net], input_shape=(8, 8, 2))

        def ask(i, fresh=fresh, x=x, found=found):
            found[i] = fresh.predict(x)

        in_threads(ask, 8)
        assert all(np.array_equal(y, found[0]) for y in found)


@settings(max_examples=15)
@given(st.data())
def test_random_calls_answer_as_one_after_the_other(data):
    """Whatever kinds of calls meet, each gets what it gets alone."""
    net, xs = network(), batches(6, 3)
    labels = np.array([0, 1, 2])
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.0))
    norm, loss = fc.InstanceNorm2d(2), fc.CrossEntropy()
    calls = {
        "predict": lambda x: net.predict(x),
        "activations": lambda x: net.activations(x, "relu1"),
        "trunk": lambda x: trunk.predict(x),
        "evaluate": lambda x: np.array(trainer.evaluate((x, labels))),
        "layer": lambda x: norm.forward(x),
        "way back": lambda x: (norm.forward(x), norm.backward(x))[1],
        "loss": lambda x: (loss.forward(x[:, 0, :, 0], labels), loss.backward())[1],
    }
    trunk = net.trunk("gelu1")
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(sorted(calls)), st.integers(0, 5)), min_size=2, max_size=6))
    expected = [calls[name](xs[k]) for name, k in chosen]
    all_right(lambda i: calls[chosen[i][0]](xs[chosen[i][1]]), expected, len(chosen), 12)


@pytest.mark.parametrize(
    "layer",
    [
        fc.Conv2d(2, 3, 3, padding=1), fc.MaxPool2d(2), fc.MaxPool2d(2, return_indices=True), fc.LayerNorm(2),
        fc.AdaptiveMaxPool2d(3, return_indices=True), fc.GELU(), fc.ConvTranspose2d(2, 3, 2), fc.Softmax(),
        fc.BatchNorm2d(2).eval(), fc.Upsample(scale_factor=2, mode="bilinear"),
    ],
    ids=lambda layer: repr(layer),
)  # fmt: skip
def test_a_lone_layer(layer):
    xs = batches(THREADS, 2)
    expected = [layer.forward(x) for x in xs]
    pairs = isinstance(expected[0], tuple)

    def answer(i):
        found = layer.forward(xs[i])
        return np.stack(found) if pairs else found

    all_right(answer, [np.stack(pair) for pair in expected] if pairs else expected)


def test_a_way_back_follows_its_own_threads_pass():
    layer, xs = fc.Conv2d(2, 3, 3), batches(THREADS, 2)
    dys = [np.random.default_rng(i).standard_normal((2, 6, 6, 3)).astype(np.float32) for i in range(THREADS)]

    def gradient(i):
        layer.forward(xs[i])
        return layer.backward(dys[i])

    all_right(gradient, [gradient(i) for i in range(THREADS)])


def test_a_networks_way_back_is_right_or_refused():
    net, xs = network(), batches(THREADS, 2)
    net.eval()
    dy = np.ones((2, 5), np.float32)
    expected = []
    for x in xs:
        net.forward(x)
        expected.append(net.backward(dy))

    def work(i):
        for _ in range(TIMES):
            net.forward(xs[i])
            with suppress(fc.ArgumentError):  # another thread has gone forward meanwhile
                np.testing.assert_array_equal(net.backward(dy), expected[i])

    in_threads(work)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_predictions_see_a_network_before_or_after_a_training_step(device):
    """Every prediction is that of some step: a step's changes come all together."""
    net, (x,) = network(device), batches(1, 4)
    labels = np.array([0, 1, 2, 3])
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.05, momentum=0.9))
    twin = network(device)
    alone = fc.Trainer(twin, fc.CrossEntropy(), fc.SGD(0.05, momentum=0.9))
    steps = 40
    states = {twin.predict(x).tobytes()}
    for _ in range(steps):
        alone.step(x, labels)
        states.add(twin.predict(x).tobytes())
    assert len(states) == steps + 1
    ended = threading.Event()

    def work(i):
        if i == 0:
            for _ in range(steps):
                trainer.step(x, labels)
            ended.set()
        while not ended.is_set():
            assert net.predict(x).tobytes() in states

    in_threads(work)
    assert net.predict(x).tobytes() == twin.predict(x).tobytes()


def test_steps_of_several_threads_come_one_after_the_other():
    net, xs = network(), batches(THREADS, 4)
    labels = np.array([0, 1, 2, 3])
    trainer = fc.Trainer(net, fc.CrossEntropy(), fc.SGD(0.01))

    def work(i):
        for _ in range(20):
            assert np.isfinite(trainer.step(xs[i], labels))

    in_threads(work)
    assert trainer.steps == trainer.optimizer.steps == 20 * THREADS
    assert net[1].state["num_batches_tracked"][0] == 20 * THREADS


def test_networks_that_share_an_optimizer_take_turns():
    optimizer, (x,) = fc.Adam(0.01), batches(1, 4)
    labels = np.array([0, 1, 2, 3])
    trainers = [fc.Trainer(network(), fc.CrossEntropy(), optimizer) for _ in range(2)]
    alone = fc.Trainer(network(), fc.CrossEntropy(), fc.Adam(0.01))

    def work(i):
        for _ in range(30):
            trainers[i].step(x, labels)

    in_threads(work, 2)
    for _ in range(30):
        alone.step(x, labels)
    for trainer in trainers:
        np.testing.assert_array_equal(trainer.net.predict(x), alone.net.predict(x))


def test_a_stream_that_is_lost_leaves_its_place():
    streams = get("reference").streams
    lost = [streams.take() for _ in range(streams._limit)]
    lost.clear()
    begin = time.monotonic()
    streams.give(streams.take())
    assert time.monotonic() - begin < 0.2


def test_networks_that_claim_shared_layers_from_each_other_do_not_wait_for_good():
    """A prediction that meets a stream for the first time, while another network takes its layers over."""
    net, (x,) = network(), batches(1, 2)
    expected = net.predict(x)

    def work(i):
        for k in range(30):
            if i % 2:
                others = fc.Sequential(*net.chain, fc.Linear(5, 2, name=f"more{i}"), input_shape=(8, 8, 2))
                others.predict(x)
            else:
                np.testing.assert_array_equal(net.predict(x, batch_size=1 + k % 2), expected)

    in_threads(work, 6)


def test_loading_waits_for_predictions(tmp_path):
    nets = [network(), network()]
    nets[1].initialize(1)
    for i, net in enumerate(nets):
        net.save(tmp_path / f"{i}.safetensors")
    (x,) = batches(1, 2)
    expected = {net.predict(x).tobytes() for net in nets}
    assert len(expected) == 2
    net, ended = network(), threading.Event()

    def work(i):
        if i == 0:
            for k in range(40):
                net.load_parameters(tmp_path / f"{k % 2}.safetensors")
            ended.set()
        while not ended.is_set():
            assert net.predict(x).tobytes() in expected

    in_threads(work)


def test_as_many_streams_as_cores_serve_short_calls():
    net, xs = network(), batches(12)
    streams = get("cpu").streams
    all_right(lambda i: net.predict(xs[i]), [net.predict(x) for x in xs], 12, 100)
    assert len(streams._idle) == len(streams._streams) <= streams._limit
    assert len(net._plans) <= streams._limit


def test_a_thread_that_waits_long_gets_a_stream_of_its_own():
    streams = get("reference").streams
    held = [streams.take() for _ in range(streams._limit)]
    begin = time.monotonic()
    more = streams.take()
    assert time.monotonic() - begin >= 0.2
    assert more not in held
    for stream in (more, *held):
        streams.give(stream)
    assert len(streams._idle) == len(streams._streams) == streams._limit


def test_a_released_stream_goes_to_the_thread_that_waits():
    streams = get("reference").streams
    held, got = [streams.take() for _ in range(streams._limit)], []
    waiting = threading.Thread(target=lambda: got.append(streams.take()))
    waiting.start()
    while not streams._queue:
        time.sleep(1e-4)
    streams.give(held[0])
    waiting.join(5)
    assert got == [held[0]]
    for stream in held:
        streams.give(stream)
    assert len(streams._idle) == len(streams._streams)


@pytest.mark.parametrize("change", ["initialize", "astype"])
def test_a_pass_on_a_new_stream_ends_while_another_thread_changes_the_network(change):
    net = network()
    net.predict(batches(1)[0])

    def waits_for_the_pass():
        if change == "initialize":
            net.initialize(1)
        else:
            net.astype("float64").own_store()

    changing = threading.Thread(target=waits_for_the_pass, daemon=True)

    def predicts():
        with net.reading() as held:
            changing.start()
            while not held.store.lock._closed:
                time.sleep(1e-3)
            stream = type(held.stream)(held.stream.workspace)
            net.plan_on(held.store, stream, 1, training=False)

    predicting = threading.Thread(target=predicts, daemon=True)
    predicting.start()
    for thread in (predicting, changing):
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_a_child_that_is_forked_while_another_thread_claims_layers_goes_on():
    claimed = threading.Event()

    def claim():
        with claims:
            claimed.set()
            time.sleep(0.2)

    thread = threading.Thread(target=claim)
    thread.start()
    claimed.wait()
    child = os.fork()
    if child == 0:  # the answer is the status: nothing of pytest may run here
        os._exit(not claims.acquire(timeout=5))
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
