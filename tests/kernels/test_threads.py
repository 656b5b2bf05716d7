"""Tasks shared among threads: each done once, whoever comes; forks, callers at once, denormals, thread counts."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest

from fastcnn.kernels.cpu import activation, conv, linear
from fastcnn.kernels.cpu.runtime import cpu_info, launch, thread_pool
from fastcnn.kernels.cpu.runtime.parallel import share
from fastcnn.kernels.problem import ConvProblem

ONE, PADDING = (1, 1, 1), ((0, 0), (1, 1), (1, 1))
DENORMAL = np.float32(1e-40)


@numba.njit
def count_task(task, thread, doers, counts):
    """Count task as done by thread; tasks take up to some microseconds."""
    value = 1.0
    for _ in range(100 * (task % 50)):
        value = value * 0.999 + 0.5
    counts[thread, task] += value > 0
    doers[task] = thread


@numba.njit(nogil=True)
def count_tasks(team, tasks, doers, counts):
    """Fill counts (launch, tasks) and doers (tasks,)."""
    share(team, tasks, count_task, (doers, counts))


@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 64, 1000])
@pytest.mark.parametrize("worth", [False, True])
def test_every_task_is_done_once(tasks, worth):
    for _ in range(20):
        doers = np.full(tasks, -1)
        counts = np.zeros((launch.threads_for(worth), tasks), np.int64)
        launch.call_parallel(worth, count_tasks, tasks, doers, counts)
        assert np.array_equal(counts.sum(axis=0), np.ones(tasks))
        assert all(counts[thread, task] == 1 for task, thread in enumerate(doers))


def helped():
    """Say whether a second thread takes a task within a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        doers, counts = np.empty(1000, np.int64), np.zeros((launch.thread_count(), 1000), np.int64)
        launch.call_parallel(True, count_tasks, 1000, doers, counts)
        if doers.any():
            return True
    return False


def convolve(seed=0):
    """Return the bytes of a convolution that two threads share."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((4, 1, 20, 20, 16), np.float32)
    w = generator.standard_normal((1, 3, 3, 16, 32), np.float32)
    y = np.empty((4, 1, 20, 20, 32), np.float32)
    conv.conv_forward(x, w, None, ConvProblem(x.shape, y.shape, (1, 3, 3), ONE, PADDING, ONE, 1), False, y)
    return y.tobytes()


def test_several_python_threads_compute_at_once():
    right = [convolve(seed) for seed in range(4)]
    found = [[] for _ in right]

    def run(seed):
        for _ in range(50):
            found[seed].append(convolve(seed) == right[seed])

    callers = [threading.Thread(target=run, args=(seed,)) for seed in range(len(right))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert found == [[True] * 50] * len(right)


def test_several_python_threads_share_out_tasks_at_once():
    wrong = []

    def run():
        for _ in range(1000):
            doers, counts = np.empty(40, np.int64), np.zeros((launch.thread_count(), 40), np.int64)
            launch.call_parallel(True, count_tasks, 40, doers, counts)
            if counts.sum() != 40:
                wrong.append(counts)

    callers = [threading.Thread(target=run) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not wrong


FORK = """
import multiprocessing, os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, about any fork beside threads
from test_threads import convolve, helped, launch
right = convolve()
stop = threading.Event()
def busy():
    while not stop.is_set():
        convolve()
beside = threading.Thread(target=busy)
beside.start()  # a job is open, or the pool taken, when the process forks
for _ in range(10):
    child = os.fork()
    if child == 0:
        several = launch.thread_count() > 1
        os._exit(0 if all(convolve() == right for _ in range(3)) and (not several or helped()) else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
beside.join()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(convolve, [0] * 8) == [right] * 8
assert convolve() == right
print("forked")
"""


def run_script(script, **environment):
    """Run Python code that may import this file; return what it prints."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | environment
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_children_compute_with_helpers_of_their_own():
    assert run_script(FORK) == "forked\n"


def test_callers_at_once_make_no_more_helpers_than_one(monkeypatch):
    pool, made = thread_pool.Pool(), []

    def start(function, arguments):
        time.sleep(0.01)
        made.append(function)

    monkeypatch.setattr(thread_pool, "start_new_thread", start)
    callers = [threading.Thread(target=pool.grow, args=(2,)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (len(made), pool.helpers) == (2, 2)
    pool.helpers = 0  # none of them came, and none will end


ALONE = """
from test_threads import convolve, launch
launch.POOL.helpers = 10**6  # who never come
alone = convolve()
launch.POOL.helpers = 0
print([convolve() == alone for _ in range(5)])
"""


def test_a_caller_does_not_need_its_helpers():
    assert run_script(ALONE) == f"{[True] * 5}\n"


@pytest.mark.parametrize("rows", [1, 4096])  # of one thread, and of several
def test_denormals_are_zeros_inside_kernels_alone(rows, reference):
    x, w = np.full((rows, 64), DENORMAL), np.eye(64, dtype=np.float32)
    y, kept = np.empty_like(x), np.empty_like(x)
    for _ in range(5):
        linear.linear_forward(x, w, None, False, y)
        assert not y.any()
        assert np.float32(DENORMAL) * np.float32(1) == DENORMAL, "the caller's floating-point state is lost"
        assert (x * np.float32(1)).all()
    reference.linear.linear_forward(x, w, None, False, kept)
    assert np.array_equal(kept, x)
    activation.relu_forward(x, y)
    assert not y.any()


def test_results_that_would_be_denormal_are_zero():
    x, w = np.full((64, 8), 1e-20, np.float32), np.full((8, 8), 1e-20, np.float32)
    y = np.empty_like(x)
    linear.linear_forward(x, w, None, False, y)
    assert not y.any()


def test_the_quota_rounds_up_and_never_adds(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(cpu_info, "CGROUP_QUOTA", tmp_path / "cpu.max")
    assert cpu_info.available_cores() == 8, "no quota"
    for text, cores in [
        ("max 100000\n", 8),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("broken\n", 8),
    ]:
        cpu_info.CGROUP_QUOTA.write_text(text)
        assert cpu_info.available_cores() == cores, text


def count_in_process(code, **environment):
    return int(
        run_script(f"import os; {code}; from test_threads import launch; print(launch.thread_count())", **environment)
    )


def test_affinity_and_environment_lower_the_count():
    assert count_in_process("pass", FASTCNN_NUM_THREADS="1") == 1
    assert count_in_process("pass", FASTCNN_NUM_THREADS="100000") <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
        assert (
            count_in_process(f"os.sched_setaffinity(0, {{{core}}})", FASTCNN_NUM_THREADS="", NUMBA_NUM_THREADS="2") == 1
        )


def test_the_count_belongs_to_a_python_thread(with_threads):
    seen = []
    usual = launch.thread_count()
    with_threads(1, lambda: None)
    other = threading.Thread(target=lambda: seen.append(launch.thread_count()))
    other.start()
    other.join()
    assert (launch.thread_count(), seen) == (1, [usual])


@pytest.mark.parametrize("count", [0, -1, launch.thread_limit() + 1])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ValueError, match="must lie between 1 and"):
        launch.set_thread_count(count)
