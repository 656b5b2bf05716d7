"""Writing: one door, through which arrays in any order come back, and a file is the old one or the new one whole."""

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load_file

import fastcnn as fc
from fastcnn import files
from fastcnn.files import plain, write_atomically, write_tensors

POSIX = pytest.mark.skipif(os.name != "posix", reason="links, modes and signals are those of POSIX")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def network(seed: int = 0) -> fc.Graph:
    net = fc.Sequential(fc.Linear(64, 32), fc.Linear(32, 3), input_shape=(64,)).to("reference")
    net.initialize(seed)
    return net


def ways(array: np.ndarray) -> list[np.ndarray]:
    """Return arrays of the same numbers that lie in memory in other ways."""
    wide = np.repeat(array, 2, axis=-1)[..., ::2]
    other = array.astype(array.dtype.newbyteorder(">" if sys.byteorder == "little" else "<"))
    turned = np.ascontiguousarray(array[::-1])[::-1] if array.ndim else array
    return [np.asfortranarray(array), np.ascontiguousarray(array.T).T, wide, other, turned]


@given(
    arrays(st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "bool"]), array_shapes(min_dims=1, max_side=4))
)
@settings(max_examples=50, deadline=None)
def test_arrays_in_any_order_come_back(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("arrays") / "a"
    for given_one in ways(array):
        write_tensors(path, {"a": given_one}, {})
        again = load_file(path)["a"]
        assert again.shape == array.shape
        np.testing.assert_array_equal(again, array)
        # What every version of the library writes right.
        handed = plain(given_one, "a")
        assert handed.flags.c_contiguous
        assert handed.dtype.isnative


def test_numbers_and_broadcast_arrays_come_back(path):
    write_tensors(path, {"number": np.array(2.5), "row": np.broadcast_to(np.arange(3.0), (2, 3))}, {})
    again = load_file(path)
    assert again["number"].shape == ()
    assert again["number"] == 2.5
    np.testing.assert_array_equal(again["row"], [[0, 1, 2], [0, 1, 2]])


@pytest.mark.parametrize("array", [np.ones(2, complex), np.array(["a"]), np.array([None]), np.ones(2, np.longdouble)])
def test_what_no_file_holds_is_refused(path, array):
    if array.dtype == np.float64:
        pytest.skip("long doubles are doubles here")
    with pytest.raises(fc.ArgumentError, match=r"^a has type .*convert it to float32 or float64\.$"):
        write_tensors(path, {"a": array}, {})
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_filters_set_in_any_order_are_saved_as_they_are(path, dtype):
    rng = np.random.default_rng(0)
    coding = fc.SparseCoding(2, 3, 4, dtype=dtype, device="reference")
    for filters in ways(rng.standard_normal((4, 4, 2, 3)).astype(dtype)):
        coding.filters = filters
        assert coding.filters.flags.c_contiguous
        coding.save(path)
        np.testing.assert_array_equal(fc.SparseCoding.load(path, "reference").filters, coding.filters)


def test_many_threads_write_to_one_path(path):
    nets = [network(seed) for seed in range(4)]
    wanted = {net[0].params["weight"].tobytes() for net in nets}
    nets[0].save(path)
    failures: list[BaseException] = []
    done = threading.Event()

    def write(net: fc.Graph) -> None:
        try:
            for _ in range(50):
                net.save(path)
        except BaseException as error:
            failures.append(error)

    def read() -> None:
        try:
            while not done.is_set():
                assert fc.load(path, device="reference")[0].params["weight"].tobytes() in wanted
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(net,)) for net in nets]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not failures
    assert os.listdir(path.parent) == [path.name]


@POSIX
def test_a_link_stays_and_its_target_changes(path):
    target = path.parent / "deep" / "target"
    target.parent.mkdir()
    middle = path.parent / "middle"
    middle.symlink_to("deep/target")
    path.symlink_to(middle.name)
    for seed in (0, 1):  # the target is made first, then replaced
        network(seed).save(path)
        assert path.is_symlink()
        assert middle.is_symlink()
        assert not target.is_symlink()
        np.testing.assert_array_equal(fc.load(path, "reference")[0].params["weight"], network(seed)[0].params["weight"])
        assert os.listdir(target.parent) == ["target"]


@POSIX
def test_a_circle_of_links_is_refused_and_stays(path):
    path.symlink_to(path.name)
    with pytest.raises(fc.CheckpointError, match="symbolic links"):
        network().save(path)
    assert os.listdir(path.parent) == [path.name]
    assert path.is_symlink()


@POSIX
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_a_file_keeps_its_mode(path, mode, monkeypatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(stat.S_IMODE(os.stat(a).st_mode)), replace(a, b)))
    path.write_text("before")
    path.chmod(mode)
    network().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert seen == [mode]


@POSIX
def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"text")
    reader.join()
    assert read == [b"text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"text")
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", ["replace", "fdopen"])
def test_whatever_ends_a_save_leaves_what_was_there(path, monkeypatch, error, step):
    path.write_text("before")

    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises((KeyboardInterrupt, MemoryError, OSError)):
        network().save(path)
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == [path.name]


def part_of(path: Path, process: int, host: str | None = None) -> Path:
    part = path.with_name(f".{path.name}.{files._host() if host is None else host}-{process}-0.part")
    part.write_bytes(b"half")
    return part


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@POSIX
def test_parts_of_dead_processes_are_removed_and_those_of_others_stay(path):
    gone = [part_of(path, dead_process()), part_of(path, os.getpid())]
    old = [part_of(path, 1, "elsewhere"), path.with_name(f".{path.name}.4711.part")]
    old[1].write_bytes(b"half")
    for part in old:
        os.utime(part, (0, time.time() - 2 * files.OLD))
    stay = [
        part_of(path, os.getppid()),
        part_of(path, dead_process(), "another"),
        part_of(path.with_name("other"), dead_process()),
        path.with_name(f".{path.name}.notes.part"),
    ]
    stay[3].write_text("a user's own")
    network().save(path)
    assert not any(part.exists() for part in [*gone, *old])
    assert all(part.exists() for part in stay)
    assert path.exists()


KILLED = """
import os, sys
from fastcnn.files import write_atomically
replace = os.replace
def wait(*arguments):
    print("written", flush=True)
    sys.stdin.read()
os.replace = wait
write_atomically(sys.argv[1], b"new")
"""


@POSIX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_ends_in_a_save(path, number):
    path.write_text("before")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    assert len(os.listdir(path.parent)) == 2
    process.send_signal(number)
    process.communicate()
    assert path.read_text() == "before"
    assert len(os.listdir(path.parent)) == (2 if number == signal.SIGKILL else 1)
    write_atomically(path, b"after")
    assert path.read_text() == "after"
    assert os.listdir(path.parent) == [path.name]


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("n" * 255)
    write_atomically(path, b"text")
    assert path.read_bytes() == b"text"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("text", ["", "/home", "lone \ud800"])
def test_texts(text, tmp_path):
    if "\ud800" in text:
        with pytest.raises(fc.ArgumentError, match="no text in UTF-8"):
            write_tensors(tmp_path / "a", {text: np.ones(2)}, {})
        assert not os.listdir(tmp_path)
    else:
        write_tensors(tmp_path / "a", {text: np.ones(2)}, {})
        assert list(load_file(tmp_path / "a")) == [text]


def test_several_processes_write_to_one_path(path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fc.Graph.save, args=(network(seed), str(path))) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert os.listdir(path.parent) == [path.name]
    fc.load(path, "reference")
