"""PyTorch's side: the same operation as ours, in a worker that answers, refuses and dies."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastcnn.bench.peer import process
from fastcnn.bench.shapes.convolution import parse
from fastcnn.bench.timing import Effort
from fastcnn.errors import BackendError
from fastcnn.kernels.reference import conv

torch = pytest.importorskip("torch", reason="PyTorch is the peer")

from fastcnn.bench.peer import torch_layers  # noqa: E402 - they import torch

SHAPES = [
    "mb2ic3ih7oc4kh3ph1",
    "mb2ic3ih8oc4oh4kh3sh2ph1",  # less padding behind than in front
    "mb2ic3ih7oc4oh6kh4sh1ph1",
    "mb2ic2ih7oc4oh7kh4ph1",  # more padding behind
    "mb1ic4ih8iw6oc6kh3kw2sh2sw1ph2pw0dh1dw0g2",
    "mb2ic2iw9oc3kw3pw1",
    "mb1ic2id4ih5iw6oc3kd2kh3kw1",
]


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("layout", torch_layers.LAYOUTS)
def test_the_peer_computes_what_we_compute(text, layout):
    c = parse(text)
    rank = max(c.rank, 2)
    random = np.random.default_rng(0)
    x, w, dy = (random.integers(-3, 4, s).astype(np.float64) for s in (c.x_shape, c.w_shape, c.y_shape))
    y, dx, dw = (np.empty(s) for s in (c.y_shape, c.x_shape, c.w_shape))
    conv.conv_forward(x, w, None, c.problem, False, y)
    conv.conv_backward_input(dy, w, c.problem, dx)
    conv.conv_backward_weight(x, dy, c.problem, dw)

    padding, size = torch_layers.torch_padding(c, rank)
    beforehand = [
        (0, 0),
        *(c.pads if tuple(size) != c.image[3 - rank :] else ((0, 0),) * 3),
        (0, 0),
    ]
    inner = tuple(slice(before, before + n) for (before, _), n in zip(beforehand[1:4], c.image, strict=True))
    formats = torch_layers.LAYOUTS[layout]

    def tensor(array, axes):
        array = array.transpose(axes)
        if rank == 2:
            array = array.squeeze(2)
        return torch.from_numpy(array.copy()).contiguous(memory_format=formats[rank + 2])

    tensors = [
        tensor(np.pad(x, beforehand), (0, 4, 1, 2, 3)),
        tensor(w, (4, 3, 0, 1, 2)),
        tensor(dy, (0, 4, 1, 2, 3)),
    ]  # fmt: skip
    arguments = [list(t[3 - rank :]) for t in (c.stride, c.dilation)]

    def result(pass_name):
        call = torch_layers.conv_call(pass_name, *tensors, arguments[0], padding, arguments[1], c.groups)
        out = call()
        return out if pass_name == "forward" else next(t for t in out if t is not None)

    def ours(t, axes):
        array = t.numpy()
        return (array[:, :, None] if rank == 2 else array).transpose(axes)

    assert np.array_equal(ours(result("forward"), (0, 2, 3, 4, 1)), y)
    assert np.array_equal(ours(result("backward_input"), (0, 2, 3, 4, 1))[(slice(None), *inner)], dx)
    assert np.array_equal(ours(result("backward_weight"), (2, 3, 4, 1, 0)), dw)


def conv_request(text, pass_name="forward"):
    return {"work": "conv", "descriptor": text, "pass": pass_name, "dtype": "float32"}


@pytest.fixture(scope="module")
def worker():
    with process.Peer("torch", 1) as found:
        yield found


def test_worker_measures_both_layouts(worker):
    assert worker.version == torch.__version__
    for pass_name in ("forward", "backward_input", "backward_weight"):
        worker.prepare(conv_request("mb1ic2ih5oc2kh3", pass_name))
        samples = worker.turn(Effort(2, 0.0))
        assert set(samples) == {"nchw", "channels_last"}
        assert all(len(times) == 2 and min(times) > 0 for times in samples.values())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc takes these settings")
def test_kept_memory_comes_without_page_faults():
    """The output of 48 MB takes 12,288 pages of 4 KiB."""
    code = (
        "import resource, torch; torch.set_num_threads(1); x = torch.ones(12 << 20)\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3): torch.relu(x)\n"
        "before = faults(); torch.relu(x); print(faults() - before)"
    )
    for memory, few in (("kept", True), ("fresh", False)):
        environment = os.environ | process.MEMORY[memory]
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert (int(done.stdout) < 100) == few, memory
    with process.Peer("torch", 1, "kept") as found:
        settings = Path(f"/proc/{found._process.pid}/environ").read_text().replace("\0", ":")  # as glibc splits it
    assert all(f"{name}={value}" in settings for name, value in process.MEMORY["kept"].items())


def test_worker_outlives_what_it_cannot_do(worker):
    with pytest.raises(BackendError, match="torch could not run its side"):
        worker.prepare(conv_request("mb1ic1oc1"))
    worker.prepare(conv_request("mb1ic1ih3oc1kh3"))
    assert worker.turn(Effort(1, 0.0))


def test_a_dead_worker_is_one_sentence():
    with process.Peer("torch", 1) as found:
        found._process.kill()
        found._process.wait()
        with pytest.raises(BackendError, match="ended before it answered"):
            found.prepare(conv_request("mb1ic1ih3oc1kh3"))


def test_the_worker_does_not_load_our_compiler():
    code = "import sys, fastcnn.bench.peer.torch_worker; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_peer_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r'pip install "fastcnn\[oracle\]"'):
        process.Peer("torch", 1)


SLEEPER = """
import sys, time
print('{"version": "0"}', flush=True)
for question in sys.stdin:
    time.sleep(3600)
"""


def test_an_interrupt_ends_a_worker_in_the_midst_of_its_turn_at_once(tmp_path, monkeypatch):
    """A terminal's Ctrl-C reaches us alone, and nobody waits for the turn to end."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setitem(process.WORKERS, "torch", "sleeper")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with process.Peer("torch", 1) as peer:
            worker = peer._process
            assert os.getsid(worker.pid) != os.getsid(0)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                peer.turn(Effort())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert worker.returncode == -signal.SIGKILL
