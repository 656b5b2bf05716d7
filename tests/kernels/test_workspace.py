"""Scratch memory: it grows to what was asked for, and goes when released."""

import threading

import numpy as np
import pytest

from fastcnn.kernels.cpu.runtime import workspace
from fastcnn.kernels.cpu.runtime.launch import call_parallel

KIND = np.dtype(np.float64)


@pytest.fixture(autouse=True)
def empty():
    workspace.release()
    yield
    workspace.release()


def test_a_buffer_is_kept_until_more_is_asked_for():
    first = workspace.scratch("a", 100, KIND)
    assert workspace.scratch("a", 50, KIND) is first
    assert workspace.held_bytes() == 800
    assert workspace.scratch("a", 200, KIND).size == 200
    workspace.scratch("b", 1, np.dtype(np.float32))
    assert workspace.held_bytes() == 1604


def test_release_drops_the_buffers_of_this_thread_alone():
    held = []

    def other():
        workspace.scratch("a", 10, KIND)
        ready.set()
        released.wait(10)
        held.append(workspace.held_bytes())

    ready, released = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(10)
    workspace.scratch("a", 100, KIND)
    workspace.release()
    released.set()
    thread.join()
    assert (workspace.held_bytes(), held) == (0, [80])


def test_buffers_start_on_a_cache_line():
    assert all(workspace.aligned_empty(size, KIND).ctypes.data % workspace.LINE == 0 for size in (1, 7, 1000))


def test_a_rehearsal_counts_from_none_and_starts_no_kernel():
    def never(team):
        raise AssertionError

    workspace.scratch("a", 100, KIND)
    asked = []

    def allocate(elements, dtype):
        asked.append(elements)
        return workspace.aligned_empty(elements, dtype)

    with workspace.rehearsal(allocate):
        workspace.scratch("a", 10, KIND)
        workspace.scratch("a", 20, KIND)
        workspace.scratch("b", 5, KIND)
        call_parallel(True, never)
        assert (workspace.held_bytes(), asked) == (200, [10, 20, 5])
    assert workspace.held_bytes() == 800
    called = []
    call_parallel(False, called.append)
    assert called
    workspace.scratch("b", 5, KIND)
    assert asked == [10, 20, 5]
